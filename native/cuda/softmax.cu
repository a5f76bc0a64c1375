// softmax and log_softmax over the last axis, forward and backward (from the output). A row of -infinity
// gives zeros (softmax), not NaN.
#include "cuda/declare.cuh"
#include "cuda/rows.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T, bool Log>
__global__ void forward_kernel(const T* x, T* out, int64_t rows, int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* p = x + r * width;
    T* y = out + r * width;
    const T top = row_max(p, width, space), shift = finite_shift(top);
    const T total = row_sum_exp(p, width, shift, space);
    if (Log) {
      const T lse = log_of(total);
      each_in_row(width, [&](int64_t i) { y[i] = p[i] - shift - lse; });
    } else {
      const T inverse = top == -infinity(T(0)) ? T(0) : T(1) / total;
      each_in_row(width, [&](int64_t i) { y[i] = exp_of(p[i] - shift) * inverse; });
    }
  }
}

// softmax: dx = y (dy - sum(dy y));  log_softmax: dx = dy - exp(y) sum(dy)
template <class T, bool Log>
__global__ void backward_kernel(const T* dy, const T* y, T* dx, int64_t rows, int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *g = dy + r * width, *p = y + r * width;
    T* o = dx + r * width;
    T sum = T(0);
    each_in_row(width, [&](int64_t i) { sum += Log ? g[i] : g[i] * p[i]; });
    sum = block_reduce<Sum>(sum, T(0), space);
    each_in_row(width, [&](int64_t i) { o[i] = Log ? g[i] - exp_of(p[i]) * sum : p[i] * (g[i] - sum); });
  }
}

template <bool Log>
Status forward(const Tensor& x, const Tensor& out) {
  int64_t width, rows;
  if (const Status status = check_rows(x, out, &width, &rows)) return status;
  if (rows == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(forward_kernel<T, Log>, grid_for(rows), row_threads(width), 0,
                  static_cast<const T*>(data<T>(x)), data<T>(out), rows, width);
  });
}

template <bool Log>
Status backward(const Tensor& dy, const Tensor& y, const Tensor& dx) {
  int64_t width, rows;
  if (const Status status = check_rows(dy, y, &width, &rows)) return status;
  if (const Status status = check_rows(y, dx, &width, &rows)) return status;
  if (rows == 0) return nullptr;
  return dispatch_float(y.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(backward_kernel<T, Log>, grid_for(rows), row_threads(width), 0,
                  static_cast<const T*>(data<T>(dy)), static_cast<const T*>(data<T>(y)), data<T>(dx), rows,
                  width);
  });
}

}  // namespace

Status softmax_forward(const Context&, Tensor x, Tensor out) { return forward<false>(x, out); }
Status softmax_backward(const Context&, Tensor dy, Tensor y, Tensor dx) { return backward<false>(dy, y, dx); }
Status log_softmax_forward(const Context&, Tensor x, Tensor out) { return forward<true>(x, out); }
Status log_softmax_backward(const Context&, Tensor dy, Tensor y, Tensor dx) {
  return backward<true>(dy, y, dx);
}

}  // namespace cuda
}  // namespace roots
