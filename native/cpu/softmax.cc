// softmax and log_softmax over the last axis, forward and backward (from the output). A row of -infinity
// gives zeros (softmax), not NaN.
#include "cpu/declare.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status softmax_typed(const Context& context, const Tensor& x, const Tensor& out, int64_t width,
                     int64_t rows) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* p = data<T>(x) + r * width;
      T* y = data<T>(out) + r * width;
      const T top = row_max(p, width), shift = finite_shift(top);
      V sum{};
      T tail = T(0);
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        const V e = exp_below(V::load_partial(p + i, n) - V(shift));
        e.store_partial(y + i, n);
        if (n == V::kWidth)
          sum = sum + e;
        else
          for (int64_t j = 0; j < n; ++j) tail += e.v[j];
      });
      const T total = horizontal_sum(sum) + tail;
      const V inverse(top == T(-__builtin_inf()) ? T(0) : T(1) / total);
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        (V::load_partial(y + i, n) * inverse).store_partial(y + i, n);
      });
    }
  });
  return nullptr;
}

template <class T>
Status log_softmax_typed(const Context& context, const Tensor& x, const Tensor& out, int64_t width,
                         int64_t rows) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* p = data<T>(x) + r * width;
      T* y = data<T>(out) + r * width;
      const T shift = finite_shift(row_max(p, width));
      const V lse = V(log_scalar(row_sum_exp(p, width, shift)));
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        (V::load_partial(p + i, n) - V(shift) - lse).store_partial(y + i, n);
      });
    }
  });
  return nullptr;
}

// softmax: dx = y (dy - sum(dy y));  log_softmax: dx = dy - exp(y) sum(dy)
template <class T, bool Log>
Status backward_typed(const Context& context, const Tensor& dy, const Tensor& y, const Tensor& dx,
                      int64_t width, int64_t rows) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* g = data<T>(dy) + r * width;
      const T* p = data<T>(y) + r * width;
      T* o = data<T>(dx) + r * width;
      V sum{};  // partial loads are zero beyond the row, so they add nothing
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        const V d = V::load_partial(g + i, n);
        sum = Log ? sum + d : fma(d, V::load_partial(p + i, n), sum);
      });
      const V total(horizontal_sum(sum));
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        const V d = V::load_partial(g + i, n), q = V::load_partial(p + i, n);
        (Log ? d - exp(q) * total : q * (d - total)).store_partial(o + i, n);
      });
    }
  });
  return nullptr;
}

ROOTS_INLINE Status check(const Tensor& a, const Tensor& b, int64_t* width, int64_t* rows) {
  CHECK(a.rank >= 1 && same_shape(a, b) && a.dtype == b.dtype, "shapes differ");
  CHECK(is_contiguous(a) && is_contiguous(b), "needs contiguous tensors");
  CHECK(a.dtype == DType::f32 || a.dtype == DType::f64, "needs float32 or float64");
  *width = a.shape[a.rank - 1];
  *rows = *width > 0 ? numel(a) / *width : 0;
  return nullptr;
}

}  // namespace

Status softmax_forward(const Context& context, Tensor x, Tensor out) {
  int64_t width, rows;
  if (const Status status = check(x, out, &width, &rows)) return status;
  return x.dtype == DType::f32 ? softmax_typed<float>(context, x, out, width, rows)
                               : softmax_typed<double>(context, x, out, width, rows);
}

Status log_softmax_forward(const Context& context, Tensor x, Tensor out) {
  int64_t width, rows;
  if (const Status status = check(x, out, &width, &rows)) return status;
  return x.dtype == DType::f32 ? log_softmax_typed<float>(context, x, out, width, rows)
                               : log_softmax_typed<double>(context, x, out, width, rows);
}

Status softmax_backward(const Context& context, Tensor dy, Tensor y, Tensor dx) {
  int64_t width, rows;
  if (const Status status = check(dy, y, &width, &rows)) return status;
  if (const Status status = check(y, dx, &width, &rows)) return status;
  return y.dtype == DType::f32 ? backward_typed<float, false>(context, dy, y, dx, width, rows)
                               : backward_typed<double, false>(context, dy, y, dx, width, rows);
}

Status log_softmax_backward(const Context& context, Tensor dy, Tensor y, Tensor dx) {
  int64_t width, rows;
  if (const Status status = check(dy, y, &width, &rows)) return status;
  if (const Status status = check(y, dx, &width, &rows)) return status;
  return y.dtype == DType::f32 ? backward_typed<float, true>(context, dy, y, dx, width, rows)
                               : backward_typed<double, true>(context, dy, y, dx, width, rows);
}

}  // namespace ROOTS_ISA
}  // namespace roots
