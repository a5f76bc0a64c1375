// Softmax cross-entropy per row, from logits, without keeping the probabilities; formulas in
// native/cpu/cross_entropy.cc. A target outside of the classes sets the fault word and counts as ignored.
#include "cuda/declare.cuh"
#include "cuda/index.cuh"
#include "cuda/rows.cuh"

namespace roots {
namespace cuda {
namespace {

// The class of a row, or -1 for a row that does not count.
ROOTS_DEVICE int64_t target_of(Indices targets, int64_t r, int64_t ignore_index, int64_t width,
                               FaultReport fault) {
  const int64_t target = targets.at(r);
  if (target == ignore_index) return -1;
  if (target >= 0 && target < width) return target;
  fault.set();
  return -1;
}

template <class T>
__global__ void forward_kernel(const T* logits, Indices targets, T* loss, T* lse, int64_t ignore_index,
                               T smoothing, int64_t rows, int64_t width, FaultReport fault) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* x = logits + r * width;
    const T shift = finite_shift(row_max(x, width, space));
    const T l = shift + log_of(row_sum_exp(x, width, shift, space));
    T uniform = T(0);
    if (smoothing > T(0)) {
      // l - mean(x), summed as l - x: logits far from 0 would cancel
      each_in_row(width, [&](int64_t i) { uniform += l - x[i]; });
      uniform = block_reduce<Sum>(uniform, T(0), space) / static_cast<T>(width);
    }
    if (threadIdx.x != 0) continue;
    lse[r] = l;
    const int64_t target = target_of(targets, r, ignore_index, width, fault);
    loss[r] = target < 0 ? T(0) : (T(1) - smoothing) * (l - x[target]) + smoothing * uniform;
  }
}

// logits and dlogits may be the same memory: each element is read once, by the thread that writes it.
template <class T>
__global__ void backward_kernel(const T* dloss, const T* logits, Indices targets, const T* lse, T* dlogits,
                                int64_t ignore_index, T smoothing, int64_t rows, int64_t width,
                                FaultReport fault) {
  const T uniform = smoothing / static_cast<T>(width);
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t target = target_of(targets, r, ignore_index, width, fault);
    const T g = dloss[r], l = lse[r];
    each_in_row(width, [&](int64_t i) {
      const int64_t at = r * width + i;
      T d = T(0);
      if (target >= 0) {
        d = g * (exp_of(logits[at] - l) - uniform);
        if (i == target) d -= g * (T(1) - smoothing);
      }
      dlogits[at] = d;
    });
  }
}

Status check(const Tensor& logits, const Tensor& targets) {
  CHECK(logits.rank == 2 && is_contiguous(logits), "logits must be a contiguous matrix");
  CHECK(targets.rank == 1 && targets.shape[0] == logits.shape[0] && is_contiguous(targets),
        "one target per row");
  CHECK(targets.dtype == DType::i32 || targets.dtype == DType::i64, "targets must be int32 or int64");
  return nullptr;
}

bool row_vector(const Tensor& t, const Tensor& logits) {
  return t.rank == 1 && t.shape[0] == logits.shape[0] && is_contiguous(t) && t.dtype == logits.dtype;
}

}  // namespace

Status cross_entropy_forward(const Context&, Tensor logits, Tensor targets, Tensor loss, Tensor lse,
                             int64_t ignore_index, double label_smoothing) {
  if (const Status status = check(logits, targets)) return status;
  CHECK(row_vector(loss, logits) && row_vector(lse, logits), "loss and lse are vectors, one value per row");
  const int64_t rows = logits.shape[0], width = logits.shape[1];
  if (rows == 0) return nullptr;
  return dispatch_float(logits.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(forward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(logits),
                  Indices(targets), data<T>(loss), data<T>(lse), ignore_index,
                  static_cast<T>(label_smoothing), rows, width, fault(Fault::cross_entropy_forward));
  });
}

Status cross_entropy_backward(const Context&, Tensor dloss, Tensor logits, Tensor targets, Tensor lse,
                              Tensor dlogits, int64_t ignore_index, double label_smoothing) {
  if (const Status status = check(logits, targets)) return status;
  CHECK(row_vector(dloss, logits) && row_vector(lse, logits), "dloss and lse are vectors, one value per row");
  CHECK(same_shape(dlogits, logits) && dlogits.dtype == logits.dtype && is_contiguous(dlogits),
        "dlogits must be like logits");
  const int64_t rows = logits.shape[0], width = logits.shape[1];
  if (rows == 0) return nullptr;
  return dispatch_float(logits.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(backward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(dloss),
                  data<const T>(logits), Indices(targets), data<const T>(lse), data<T>(dlogits), ignore_index,
                  static_cast<T>(label_smoothing), rows, width, fault(Fault::cross_entropy_backward));
  });
}

}  // namespace cuda
}  // namespace roots
