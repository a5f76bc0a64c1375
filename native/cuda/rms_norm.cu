// rms_norm over the last axis (Zhang & Sennrich, arXiv 1910.07467): y = x rstd * weight,
// rstd = 1 / sqrt(mean(x^2) + eps).
#include "cuda/declare.cuh"
#include "cuda/rows.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T>
__global__ void forward_kernel(const T* x, const T* weight, T* out, T* rstd, T eps, int64_t rows,
                               int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* p = x + r * width;
    T squares = T(0);
    each_in_row(width, [&](int64_t i) { squares += p[i] * p[i]; });
    const T s = T(1) / sqrt_of(block_reduce<Sum>(squares, T(0), space) / static_cast<T>(width) + eps);
    if (threadIdx.x == 0 && rstd) rstd[r] = s;  // for gradients
    each_in_row(width, [&](int64_t i) { out[r * width + i] = p[i] * s * weight[i]; });
  }
}

// With h = x rstd and g = dy weight:  dx = rstd (g - h mean(g h)) + residual.
template <class T>
__global__ void backward_kernel(const T* dy, const T* x, const T* weight, const T* rstd, const T* residual,
                                T* dx, int64_t rows, int64_t width) {
  __shared__ T space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T *g = dy + r * width, *p = x + r * width;
    const T s = rstd[r];
    T product = T(0);
    each_in_row(width, [&](int64_t i) { product += g[i] * weight[i] * p[i] * s; });
    const T mean_gh = block_reduce<Sum>(product, T(0), space) / static_cast<T>(width);
    each_in_row(width, [&](int64_t i) {
      const T y = s * (g[i] * weight[i] - p[i] * s * mean_gh);
      dx[r * width + i] = residual ? y + residual[r * width + i] : y;
    });
  }
}

template <class T>
struct WeightGradient {
  const T *dy, *x, *rstd;
  int64_t width;
  ROOTS_DEVICE void operator()(int64_t r, int64_t c, T& dweight, T&) const {
    dweight += dy[r * width + c] * x[r * width + c] * rstd[r];
  }
};

Status check(const Tensor& x, const Tensor& weight, const Tensor& y, const Tensor& rstd, int64_t* width,
             int64_t* rows) {
  if (const Status status = check_rows(x, y, width, rows)) return status;
  CHECK(is_contiguous(weight) && weight.rank == 1 && weight.shape[0] == *width && weight.dtype == x.dtype,
        "weight is a vector of the last axis");
  CHECK(!rstd.data || (is_contiguous(rstd) && numel(rstd) == *rows && rstd.dtype == x.dtype),
        "one rstd per row");
  return nullptr;
}

}  // namespace

Status rms_norm_forward(const Context&, Tensor x, Tensor weight, Tensor out, OptionalTensor rstd,
                        double eps) {
  int64_t width, rows;
  if (const Status status = check(x, weight, out, rstd, &width, &rows)) return status;
  if (rows == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(forward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(x),
                  data<const T>(weight), data<T>(out), data<T>(rstd), static_cast<T>(eps), rows, width);
  });
}

Status rms_norm_backward(const Context&, Tensor dy, Tensor x, Tensor weight, Tensor rstd,
                         OptionalTensor residual, Tensor dx, Tensor dweight) {
  int64_t width, rows;
  if (const Status status = check(x, weight, dx, rstd, &width, &rows)) return status;
  CHECK(same_shape(dy, x) && dy.dtype == x.dtype && is_contiguous(dy), "dy must be contiguous, like x");
  CHECK(absent_or_like(residual, x), "residual must be contiguous, like x");
  CHECK(same_shape(dweight, weight) && dweight.dtype == x.dtype && is_contiguous(dweight),
        "dweight must be like weight");
  return dispatch_float(x.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    if (rows > 0)
      if (const Status status = launch(
              backward_kernel<T>, grid_for(rows), row_threads(width), 0, data<const T>(dy), data<const T>(x),
              data<const T>(weight), data<const T>(rstd), data<const T>(residual), data<T>(dx), rows, width))
        return status;
    return column_sums<T>(WeightGradient<T>{data<const T>(dy), data<const T>(x), data<const T>(rstd), width},
                          rows, width, data<T>(dweight), static_cast<T*>(nullptr));
  });
}

}  // namespace cuda
}  // namespace roots
