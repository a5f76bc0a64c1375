// layer_norm over the last axis (Ba et al., arXiv 1607.06450): y = (x - mean) rstd * weight + bias,
// rstd = 1 / sqrt(var + eps), var the biased variance in two passes.
#include "cpu/declare.h"
#include "cpu/norm_backward.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status forward(const Context& context, const Tensor& x, const T* weight, const T* bias, const Tensor& out,
               T* mean, T* rstd, double eps, int64_t width, int64_t rows) {
  using V = Vec<T>;
  for_rows(context, rows, width, [&](int64_t begin, int64_t end) {
    for_row_groups<T>(begin, end, width, [&](int64_t row, auto count) {
      constexpr int N = decltype(count)::value;
      const T* p = data<T>(x) + row * width;
      T* y = data<T>(out) + row * width;
      T m[N], s[N];
      for (int r = 0; r < N; ++r) {
        V sum{};
        const int64_t rest =
            sum_vectors<T>(width, &sum, [&](int64_t i) { return V::load(p + r * width + i); });
        if (rest < width) sum = sum + V::load_partial(p + r * width + rest, width - rest);
        m[r] = horizontal_sum(sum) / static_cast<T>(width);
      }
      for (int r = 0; r < N; ++r) {
        const T* q = p + r * width;
        V squares{};
        const int64_t rest = sum_vectors<T>(width, &squares, [&](int64_t i) ROOTS_INLINED {
          const V d = V::load(q + i) - V(m[r]);
          return d * d;
        });
        T tail = T(0);
        for (int64_t i = rest; i < width; ++i) tail += (q[i] - m[r]) * (q[i] - m[r]);
        const T variance = (horizontal_sum(squares) + tail) / static_cast<T>(width);
        s[r] = T(1) / sqrt(V(variance + static_cast<T>(eps))).v[0];
        if (mean) mean[row + r] = m[r];  // for gradients
        if (rstd) rstd[row + r] = s[r];
      }
      each_vector<T>(width, [&](int64_t i, int64_t n) ROOTS_INLINED {
        const V w = weight ? V::load_partial(weight + i, n) : V(T(1));
        const V b = bias ? V::load_partial(bias + i, n) : V();
        unrolled<N>([&](auto r) ROOTS_INLINED {
          const V h = (V::load_partial(p + r * width + i, n) - V(m[r])) * V(s[r]);
          fma(h, w, b).store_partial(y + r * width + i, n);
        });
      });
    });
  });
  return nullptr;
}

// With h = (x - mean) rstd and g = dy weight:  dx = rstd (g - mean(g) - h mean(g h)) + residual,
// dweight = sum(dy h), dbias = sum(dy) over rows.
template <class T>
Status backward(const Context& context, const Tensor& dy, const Tensor& x, const T* weight, const T* mean,
                const T* rstd, const T* residual, const Tensor& dx, T* dweight, T* dbias, int64_t width,
                int64_t rows) {
  using V = Vec<T>;
  T* const sums[2] = {dweight, dbias};
  return sum_over_rows<T>(context, rows, width, 2, sums, [&](int64_t begin, int64_t end, T* partial) {
    for_row_groups<T>(begin, end, width, [&](int64_t row, auto count) {
      constexpr int N = decltype(count)::value;
      const T* g = data<T>(dy) + row * width;
      const T* p = data<T>(x) + row * width;
      T* o = data<T>(dx) + row * width;
      const T* const plus = residual ? residual + row * width : nullptr;
      const T *m = mean + row, *s = rstd + row;
      V sum_g[N] = {}, sum_gh[N] = {};  // lanes beyond the row have g = 0
      each_vector<T>(width, [&](int64_t i, int64_t n) ROOTS_INLINED {
        const V w = weight ? V::load_partial(weight + i, n) : V(T(1));
        unrolled<N>([&](auto r) ROOTS_INLINED {
          const V d = V::load_partial(g + r * width + i, n) * w;
          sum_g[r] = sum_g[r] + d;
          sum_gh[r] = fma(d, (V::load_partial(p + r * width + i, n) - V(m[r])) * V(s[r]), sum_gh[r]);
        });
      });
      T mean_g[N], mean_gh[N];
      for (int r = 0; r < N; ++r) {
        mean_g[r] = horizontal_sum(sum_g[r]) / static_cast<T>(width);
        mean_gh[r] = horizontal_sum(sum_gh[r]) / static_cast<T>(width);
      }
      each_vector<T>(width, [&](int64_t i, int64_t n) ROOTS_INLINED {
        const V w = weight ? V::load_partial(weight + i, n) : V(T(1));
        V dw = V::load_partial(partial + i, n), db = V::load_partial(partial + width + i, n);
        unrolled<N>([&](auto r) ROOTS_INLINED {
          const V d = V::load_partial(g + r * width + i, n);
          const V h = (V::load_partial(p + r * width + i, n) - V(m[r])) * V(s[r]);
          V y = V(s[r]) * (d * w - V(mean_g[r]) - h * V(mean_gh[r]));
          if (plus) y = y + V::load_partial(plus + r * width + i, n);
          y.store_partial(o + r * width + i, n);
          dw = fma(d, h, dw);
          db = db + d;
        });
        dw.store_partial(partial + i, n);
        db.store_partial(partial + width + i, n);
      });
    });
  });
}

ROOTS_INLINE bool parameter_ok(const OptionalTensor& p, const Tensor& x) {
  return !p.data ||
         (p.rank == 1 && p.dtype == x.dtype && is_contiguous(p) && p.shape[0] == x.shape[x.rank - 1]);
}

Status check(const Tensor& x, const Tensor& y, const Tensor& mean, const Tensor& rstd, int64_t* width,
             int64_t* rows) {
  CHECK(x.rank >= 1 && same_shape(x, y) && x.dtype == y.dtype, "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(y), "needs contiguous tensors");
  CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, "needs float32 or float64");
  *width = x.shape[x.rank - 1];
  *rows = *width > 0 ? numel(x) / *width : 0;
  const Tensor* const saved[] = {&mean, &rstd};
  for (const Tensor* t : saved)
    CHECK(!t->data || (is_contiguous(*t) && numel(*t) == *rows && t->dtype == x.dtype),
          "one mean and rstd per row");
  return nullptr;
}

}  // namespace

Status layer_norm_forward(const Context& context, Tensor x, OptionalTensor weight, OptionalTensor bias,
                          Tensor out, OptionalTensor mean, OptionalTensor rstd, double eps) {
  int64_t width, rows;
  if (const Status status = check(x, out, mean, rstd, &width, &rows)) return status;
  CHECK(parameter_ok(weight, x) && parameter_ok(bias, x), "weight and bias are vectors of the last axis");
  if (x.dtype == DType::f32)
    return forward<float>(context, x, data<float>(weight), data<float>(bias), out, data<float>(mean),
                          data<float>(rstd), eps, width, rows);
  return forward<double>(context, x, data<double>(weight), data<double>(bias), out, data<double>(mean),
                         data<double>(rstd), eps, width, rows);
}

Status layer_norm_backward(const Context& context, Tensor dy, Tensor x, OptionalTensor weight, Tensor mean,
                           Tensor rstd, OptionalTensor residual, Tensor dx, OptionalTensor dweight,
                           OptionalTensor dbias) {
  int64_t width, rows;
  if (const Status status = check(x, dx, mean, rstd, &width, &rows)) return status;
  CHECK(same_shape(dy, x) && dy.dtype == x.dtype && is_contiguous(dy), "dy must be contiguous, like x");
  CHECK(absent_or_like(residual, x), "residual must be contiguous, like x");
  CHECK(parameter_ok(weight, x) && parameter_ok(dweight, x) && parameter_ok(dbias, x),
        "parameters are vectors of the last axis");
  if (x.dtype == DType::f32)
    return backward<float>(context, dy, x, data<float>(weight), data<float>(mean), data<float>(rstd),
                           data<float>(residual), dx, data<float>(dweight), data<float>(dbias), width, rows);
  return backward<double>(context, dy, x, data<double>(weight), data<double>(mean), data<double>(rstd),
                          data<double>(residual), dx, data<double>(dweight), data<double>(dbias), width,
                          rows);
}

}  // namespace ROOTS_ISA
}  // namespace roots
