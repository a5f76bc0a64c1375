// Softmax cross-entropy per row, from logits, without keeping the probabilities:
//   loss = lse - (1 - e) x[target] - e mean(x)   with label smoothing e (Szegedy et al., arXiv 1512.00567)
//   dx = dloss (softmax(x) - (1 - e) onehot(target) - e / V)
// A target equal to ignore_index gives loss 0 and no gradient.
#include "cpu/declare.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kStreamedBytes = int64_t{64} << 20;
// Elements of such a row that are asked for ahead.
constexpr int64_t kAhead = 1024;

ROOTS_INLINE int64_t target_at(const Tensor& targets, int64_t r) {
  return targets.dtype == DType::i32 ? data<int32_t>(targets)[r] : data<int64_t>(targets)[r];
}

template <class T>
Status forward(const Context& context, const Tensor& logits, const Tensor& targets, T* loss, T* lse,
               int64_t ignore_index, double smoothing, int64_t rows, int64_t width) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = data<T>(logits) + r * width;
      const T l = row_log_sum_exp(x, width);
      lse[r] = l;
      const int64_t target = target_at(targets, r);
      if (target == ignore_index) {
        loss[r] = T(0);
        continue;
      }
      T value = l - x[target];
      if (smoothing > 0) {
        // l - mean(x), summed as l - x: logits far from 0 would cancel
        V sum{};
        T tail = T(0);
        each_vector<T>(width, [&](int64_t i, int64_t n) {
          const V d = V(l) - V::load_partial(x + i, n);
          if (n == V::kWidth)
            sum = sum + d;
          else
            for (int64_t j = 0; j < n; ++j) tail += d.v[j];
        });
        const T uniform = (horizontal_sum(sum) + tail) / static_cast<T>(width);
        value = static_cast<T>(1 - smoothing) * value + static_cast<T>(smoothing) * uniform;
      }
      loss[r] = value;
    }
  });
  return nullptr;
}

template <class T>
Status backward(const Context& context, const T* dloss, const Tensor& logits, const Tensor& targets,
                const T* lse, const Tensor& dlogits, int64_t ignore_index, double smoothing, int64_t rows,
                int64_t width) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const T uniform = static_cast<T>(smoothing / static_cast<double>(width));
  // a result that no cache holds is written past them: reading the old contents first would cost a third
  const bool streams =
      dlogits.data != logits.data && rows * width * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* x = data<T>(logits) + r * width;
      T* d = data<T>(dlogits) + r * width;
      const int64_t target = target_at(targets, r);
      if (target == ignore_index) {
        for (int64_t i = 0; i < width; ++i) d[i] = T(0);
        continue;
      }
      const V g(dloss[r]), shift(lse[r]), u(uniform);
      // x - lse <= 0
      const auto piece = [&](int64_t i, int64_t n) {
        return g * (exp_below(V::load_partial(x + i, n) - shift) - u);
      };
      if (streams) {
        const int64_t to_line =
            (-reinterpret_cast<intptr_t>(d) & (kVectorBytes - 1)) / static_cast<int64_t>(sizeof(T));
        int64_t i = to_line < width ? to_line : width;
        piece(0, i).store_partial(d, i);
        for (; i + W <= width; i += W) {
          __builtin_prefetch(x + i + kAhead);
          piece(i, W).stream(d + i);
        }
        if (i < width) piece(i, width - i).store_partial(d + i, width - i);
      } else {
        each_vector<T>(width, [&](int64_t i, int64_t n) { piece(i, n).store_partial(d + i, n); });
      }
      d[target] -= dloss[r] * static_cast<T>(1 - smoothing);
    }
    if (streams) finish_streams();
  });
  return nullptr;
}

Status check(const Tensor& logits, const Tensor& targets, int64_t ignore_index) {
  CHECK(logits.rank == 2 && is_contiguous(logits), "logits must be a contiguous matrix");
  CHECK(targets.rank == 1 && targets.shape[0] == logits.shape[0] && is_contiguous(targets),
        "one target per row");
  CHECK(targets.dtype == DType::i32 || targets.dtype == DType::i64, "targets must be int32 or int64");
  CHECK(logits.dtype == DType::f32 || logits.dtype == DType::f64, "needs float32 or float64");
  for (int64_t r = 0; r < targets.shape[0]; ++r) {
    const int64_t target = target_at(targets, r);
    CHECK(target == ignore_index || (target >= 0 && target < logits.shape[1]), "target out of range");
  }
  return nullptr;
}

ROOTS_INLINE bool row_vector(const Tensor& t, const Tensor& logits) {
  return t.rank == 1 && t.shape[0] == logits.shape[0] && is_contiguous(t) && t.dtype == logits.dtype;
}

}  // namespace

Status cross_entropy_forward(const Context& context, Tensor logits, Tensor targets, Tensor loss, Tensor lse,
                             int64_t ignore_index, double label_smoothing) {
  if (const Status status = check(logits, targets, ignore_index)) return status;
  CHECK(row_vector(loss, logits) && row_vector(lse, logits), "loss and lse are vectors, one value per row");
  const int64_t rows = logits.shape[0], width = logits.shape[1];
  if (logits.dtype == DType::f32)
    return forward<float>(context, logits, targets, data<float>(loss), data<float>(lse), ignore_index,
                          label_smoothing, rows, width);
  return forward<double>(context, logits, targets, data<double>(loss), data<double>(lse), ignore_index,
                         label_smoothing, rows, width);
}

Status cross_entropy_backward(const Context& context, Tensor dloss, Tensor logits, Tensor targets, Tensor lse,
                              Tensor dlogits, int64_t ignore_index, double label_smoothing) {
  if (const Status status = check(logits, targets, ignore_index)) return status;
  CHECK(row_vector(dloss, logits) && row_vector(lse, logits), "dloss and lse are vectors, one value per row");
  CHECK(same_shape(dlogits, logits) && dlogits.dtype == logits.dtype && is_contiguous(dlogits),
        "dlogits must be like logits");
  const int64_t rows = logits.shape[0], width = logits.shape[1];
  if (logits.dtype == DType::f32)
    return backward<float>(context, data<float>(dloss), logits, targets, data<float>(lse), dlogits,
                           ignore_index, label_smoothing, rows, width);
  return backward<double>(context, data<double>(dloss), logits, targets, data<double>(lse), dlogits,
                          ignore_index, label_smoothing, rows, width);
}

}  // namespace ROOTS_ISA
}  // namespace roots
