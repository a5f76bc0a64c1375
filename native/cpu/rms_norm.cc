// rms_norm over the last axis (Zhang & Sennrich, arXiv 1910.07467): y = x rstd * weight,
// rstd = 1 / sqrt(mean(x^2) + eps).
#include "cpu/declare.h"
#include "cpu/norm_backward.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status forward(const Context& context, const Tensor& x, const T* weight, const Tensor& out, T* rstd,
               double eps, int64_t width, int64_t rows) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* p = data<T>(x) + r * width;
      T* y = data<T>(out) + r * width;
      V squares{};
      const int64_t rest = sum_vectors<T>(width, &squares, [&](int64_t i) {
        const V v = V::load(p + i);
        return v * v;
      });
      if (rest < width) {
        const V v = V::load_partial(p + rest, width - rest);
        squares = fma(v, v, squares);
      }
      const V root = sqrt(V(horizontal_sum(squares) / static_cast<T>(width) + static_cast<T>(eps)));
      const T s = T(1) / root.v[0];
      if (rstd) rstd[r] = s;  // for gradients
      each_vector<T>(width, [&](int64_t i, int64_t n) {
        (V::load_partial(p + i, n) * V(s) * V::load_partial(weight + i, n)).store_partial(y + i, n);
      });
    }
  });
  return nullptr;
}

// With h = x rstd and g = dy weight:  dx = rstd (g - h mean(g h)) + residual, dweight = sum(dy h) over rows.
template <class T>
Status backward(const Context& context, const Tensor& dy, const Tensor& x, const T* weight, const T* rstd,
                const T* residual, const Tensor& dx, T* dweight, int64_t width, int64_t rows) {
  using V = Vec<T>;
  T* const sums[1] = {dweight};
  return sum_over_rows<T>(context, rows, width, 1, sums, [&](int64_t begin, int64_t end, T* partial) {
    for_row_groups<T>(begin, end, width, [&](int64_t row, auto count) {
      constexpr int N = decltype(count)::value;
      const T* g = data<T>(dy) + row * width;
      const T* p = data<T>(x) + row * width;
      T* o = data<T>(dx) + row * width;
      const T* const plus = residual ? residual + row * width : nullptr;
      const T* s = rstd + row;
      V sum[N] = {};
      each_vector<T>(width, [&](int64_t i, int64_t n) ROOTS_INLINED {
        const V w = V::load_partial(weight + i, n);
        unrolled<N>([&](auto r) ROOTS_INLINED {
          sum[r] = fma(V::load_partial(g + r * width + i, n) * w,
                       V::load_partial(p + r * width + i, n) * V(s[r]), sum[r]);
        });
      });
      T mean_gh[N];
      for (int r = 0; r < N; ++r) mean_gh[r] = horizontal_sum(sum[r]) / static_cast<T>(width);
      each_vector<T>(width, [&](int64_t i, int64_t n) ROOTS_INLINED {
        const V w = V::load_partial(weight + i, n);
        V dw = V::load_partial(partial + i, n);
        unrolled<N>([&](auto r) ROOTS_INLINED {
          const V d = V::load_partial(g + r * width + i, n),
                  h = V::load_partial(p + r * width + i, n) * V(s[r]);
          V y = V(s[r]) * (d * w - h * V(mean_gh[r]));
          if (plus) y = y + V::load_partial(plus + r * width + i, n);
          y.store_partial(o + r * width + i, n);
          dw = fma(d, h, dw);
        });
        dw.store_partial(partial + i, n);
      });
    });
  });
}

Status check(const Tensor& x, const Tensor& weight, const Tensor& y, const Tensor& rstd, int64_t* width,
             int64_t* rows) {
  CHECK(x.rank >= 1 && same_shape(x, y) && x.dtype == y.dtype, "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(y) && is_contiguous(weight), "needs contiguous tensors");
  CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, "needs float32 or float64");
  *width = x.shape[x.rank - 1];
  *rows = *width > 0 ? numel(x) / *width : 0;
  CHECK(weight.rank == 1 && weight.shape[0] == *width && weight.dtype == x.dtype,
        "weight is a vector of the last axis");
  CHECK(!rstd.data || (is_contiguous(rstd) && numel(rstd) == *rows && rstd.dtype == x.dtype),
        "one rstd per row");
  return nullptr;
}

}  // namespace

Status rms_norm_forward(const Context& context, Tensor x, Tensor weight, Tensor out, OptionalTensor rstd,
                        double eps) {
  int64_t width, rows;
  if (const Status status = check(x, weight, out, rstd, &width, &rows)) return status;
  if (x.dtype == DType::f32)
    return forward<float>(context, x, data<float>(weight), out, data<float>(rstd), eps, width, rows);
  return forward<double>(context, x, data<double>(weight), out, data<double>(rstd), eps, width, rows);
}

Status rms_norm_backward(const Context& context, Tensor dy, Tensor x, Tensor weight, Tensor rstd,
                         OptionalTensor residual, Tensor dx, Tensor dweight) {
  int64_t width, rows;
  if (const Status status = check(x, weight, dx, rstd, &width, &rows)) return status;
  CHECK(same_shape(dy, x) && dy.dtype == x.dtype && is_contiguous(dy), "dy must be contiguous, like x");
  CHECK(absent_or_like(residual, x), "residual must be contiguous, like x");
  CHECK(same_shape(dweight, weight) && dweight.dtype == x.dtype && is_contiguous(dweight),
        "dweight must be like weight");
  if (x.dtype == DType::f32)
    return backward<float>(context, dy, x, data<float>(weight), data<float>(rstd), data<float>(residual), dx,
                           data<float>(dweight), width, rows);
  return backward<double>(context, dy, x, data<double>(weight), data<double>(rstd), data<double>(residual),
                          dx, data<double>(dweight), width, rows);
}

}  // namespace ROOTS_ISA
}  // namespace roots
