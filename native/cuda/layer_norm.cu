// layer_norm over the last axis (Ba et al., arXiv 1607.06450): y = (x - mean) rstd * weight + bias.
#include "cuda/declare.cuh"
#include "cuda/rows.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T>
__global__ void forward_kernel(const T* x, const T* weight, const T* bias, T* out, T* mean, T* rstd, T eps,
                               int64_t rows, int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* p = x + r * width;
    T sum = T(0), squares = T(0);
    each_in_row(width, [&](int64_t i) { sum += p[i]; });
    const T m = block_reduce<Sum>(sum, T(0), space) / static_cast<T>(width);
    each_in_row(width, [&](int64_t i) { squares += (p[i] - m) * (p[i] - m); });
    const T variance = block_reduce<Sum>(squares, T(0), space) / static_cast<T>(width);
    const T s = T(1) / sqrt_of(variance + eps);
    if (threadIdx.x == 0) {
      if (mean) mean[r] = m;  // for gradients
      if (rstd) rstd[r] = s;
    }
    each_in_row(width, [&](int64_t i) {
      T v = (p[i] - m) * s;
      if (weight) v = v * weight[i];
      if (bias) v = v + bias[i];
      out[r * width + i] = v;
    });
  }
}

// With h = (x - mean) rstd and g = dy weight:  dx = rstd (g - mean(g) - h mean(g h)) + residual.
template <class T>
__global__ void backward_kernel(const T* dy, const T* x, const T* weight, const T* mean, const T* rstd,
                                const T* residual, T* dx, int64_t rows, int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *g = dy + r * width, *p = x + r * width;
    const T m = mean[r], s = rstd[r];
    T sum = T(0), product = T(0);
    each_in_row(width, [&](int64_t i) {
      const T d = weight ? g[i] * weight[i] : g[i];
      sum += d;
      product += d * (p[i] - m) * s;
    });
    const T mean_g = block_reduce<Sum>(sum, T(0), space) / static_cast<T>(width);
    const T mean_gh = block_reduce<Sum>(product, T(0), space) / static_cast<T>(width);
    each_in_row(width, [&](int64_t i) {
      const T d = weight ? g[i] * weight[i] : g[i];
      const T y = s * (d - mean_g - (p[i] - m) * s * mean_gh);
      dx[r * width + i] = residual ? y + residual[r * width + i] : y;
    });
  }
}

template <class T>
struct ParameterGradients {
  const T *dy, *x, *mean, *rstd;
  int64_t width;
  ROOTS_DEVICE void operator()(int64_t r, int64_t c, T& dweight, T& dbias) const {
    const T d = dy[r * width + c];
    dweight += d * (x[r * width + c] - mean[r]) * rstd[r];
    dbias += d;
  }
};

bool parameter_ok(const OptionalTensor& p, const Tensor& x) {
  return !p.data ||
         (p.rank == 1 && p.dtype == x.dtype && is_contiguous(p) && p.shape[0] == x.shape[x.rank - 1]);
}

Status check(const Tensor& x, const Tensor& y, const Tensor& mean, const Tensor& rstd, int64_t* width,
             int64_t* rows) {
  if (const Status status = check_rows(x, y, width, rows)) return status;
  const Tensor* const saved[] = {&mean, &rstd};
  for (const Tensor* t : saved)
    CHECK(!t->data || (is_contiguous(*t) && numel(*t) == *rows && t->dtype == x.dtype),
          "one mean and rstd per row");
  return nullptr;
}

}  // namespace

Status layer_norm_forward(const Context&, Tensor x, OptionalTensor weight, OptionalTensor bias, Tensor out,
                          OptionalTensor mean, OptionalTensor rstd, double eps) {
  int64_t width, rows;
  if (const Status status = check(x, out, mean, rstd, &width, &rows)) return status;
  CHECK(parameter_ok(weight, x) && parameter_ok(bias, x), "weight and bias are vectors of the last axis");
  if (rows == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(forward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(x),
                  data<const T>(weight), data<const T>(bias), data<T>(out), data<T>(mean), data<T>(rstd),
                  static_cast<T>(eps), rows, width);
  });
}

Status layer_norm_backward(const Context&, Tensor dy, Tensor x, OptionalTensor weight, Tensor mean,
                           Tensor rstd, OptionalTensor residual, Tensor dx, OptionalTensor dweight,
                           OptionalTensor dbias) {
  int64_t width, rows;
  if (const Status status = check(x, dx, mean, rstd, &width, &rows)) return status;
  CHECK(same_shape(dy, x) && dy.dtype == x.dtype && is_contiguous(dy), "dy must be contiguous, like x");
  CHECK(absent_or_like(residual, x), "residual must be contiguous, like x");
  CHECK(parameter_ok(weight, x) && parameter_ok(dweight, x) && parameter_ok(dbias, x),
        "parameters are vectors of the last axis");
  return dispatch_float(x.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    if (rows > 0)
      if (const Status status =
              launch(backward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(dy),
                     data<const T>(x), data<const T>(weight), data<const T>(mean), data<const T>(rstd),
                     data<const T>(residual), data<T>(dx), rows, width))
        return status;
    const ParameterGradients<T> gradients{data<const T>(dy), data<const T>(x), data<const T>(mean),
                                          data<const T>(rstd), width};
    return column_sums<T>(gradients, rows, width, data<T>(dweight), data<T>(dbias));
  });
}

}  // namespace cuda
}  // namespace roots
