// float32 to int8: rows of activations, and weights with the scale that loses least; rules in
// native/cpu/quantize.cc and native/cpu/gemm/i8.h.
#include "core/product.h"
#include "cuda/declare.cuh"
#include "cuda/rows.cuh"

namespace roots {
namespace cuda {
namespace {

ROOTS_DEVICE float abs_max(const float* x, int64_t n, float* space) {
  float top = 0;
  each_in_row(n, [&](int64_t i) { top = Max::combine(top, fabsf(x[i])); });
  return block_reduce<Max>(top, 0.0f, space);
}

ROOTS_DEVICE int8_t rounded(float x) {
  x = x > 127.0f ? 127.0f : x < -127.0f ? -127.0f : x;
  return static_cast<int8_t>(__float2int_rn(x));
}

ROOTS_DEVICE void quantize_row(const float* x, int8_t* q, float* scale, int64_t width, int64_t stride,
                               float* space) {
  const float top = abs_max(x, width, space);
  // a NaN in the row is the maximum, and then the scale
  const float s = top == 0 ? 1.0f : top / 127.0f, inverse = top == 0 ? 1.0f : 127.0f / top;
  if (threadIdx.x == 0) *scale = s;
  each_in_row(stride, [&](int64_t i) { q[i] = i < width ? rounded(x[i] * inverse) : static_cast<int8_t>(0); });
}

// q rows are `stride` bytes apart; the padding is zeroed.
__global__ void rows_kernel(const float* x, int8_t* q, float* scale, int64_t rows, int64_t width,
                            int64_t stride) {
  __shared__ float space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x)
    quantize_row(x + r * width, q + r * stride, scale + r, width, stride, space);
}
// Rows of views.
__global__ void any_rows_kernel(Tensor x, Tensor q, Tensor scale, int64_t rows) {
  __shared__ float space[kWarp];
  const int64_t width = x.shape[x.rank - 1];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x)
    quantize_row(static_cast<const float*>(x.data) + row_offset(x, x, r),
                 static_cast<int8_t*>(q.data) + row_offset(q, x, r),
                 static_cast<float*>(scale.data) + row_offset(scale, x, r), width, width, space);
}

// sum |w - q s|^2.4 by exp(1.2 ln e^2)
ROOTS_DEVICE float row_error(const float* w, int64_t n, float scale, float* space) {
  const float inverse = 1.0f / scale;
  float sum = 0;
  each_in_row(n, [&](int64_t i) {
    const float e = w[i] - static_cast<float>(rounded(w[i] * inverse)) * scale;
    sum += expf(1.2f * logf(e * e));  // an exact hit: exp(-infinity) = 0
  });
  return block_reduce<Sum>(sum, 0.0f, space);
}

__global__ void weight_kernel(const float* w, int8_t* q, float* scale, int64_t rows, int64_t n, int64_t steps,
                              double max_shrink) {
  __shared__ float space[kWarp];
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const float* row = w + r * n;
    const float top = abs_max(row, n, space);
    float best = top > 0 ? top / 127.0f : 1.0f;
    if (best < 1.2e-38f) best = 1.2e-38f;  // below this a float32 scale would lose precision as a denormal
    if (top > 0 && steps > 0) {
      float least = row_error(row, n, best, space);
      int64_t without = 0;
      for (int64_t k = 1; k <= steps && without < 5; ++k) {
        const float candidate =
            top / 127.0f *
            static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps));
        const float error = row_error(row, n, candidate, space);
        ++without;
        if (error < least) {
          least = error;
          best = candidate;
          without = 0;
        }
      }
    }
    if (threadIdx.x == 0) scale[r] = best;
    each_in_row(n, [&](int64_t i) { q[r * n + i] = rounded(row[i] / best); });
  }
}

Status check(const Tensor& x, const Tensor& q, const Tensor& scale) {
  CHECK(x.rank == 2 && x.dtype == DType::f32 && is_contiguous(x), "x must be a contiguous float32 matrix");
  CHECK(q.dtype == DType::i8 && same_shape(x, q) && is_contiguous(q), "q must be int8, like x");
  CHECK(scale.dtype == DType::f32 && numel(scale) == x.shape[0] && is_contiguous(scale), "one scale per row");
  return nullptr;
}

}  // namespace

Status quantize_rows_padded(const float* x, int8_t* q, float* scale, int64_t rows, int64_t width,
                            int64_t stride) {
  return launch(rows_kernel, grid_for(rows), row_threads(width), 0, x, q, scale, rows, width, stride);
}

Status quantize_rows_i8(const Context&, Tensor x, Tensor q, Tensor scale) {
  if (const Status status = check_quantize_rows(x, q, scale)) return status;
  const int64_t rows = numel(scale), width = x.shape[x.rank - 1];
  if (rows == 0) return nullptr;
  if (is_contiguous(x) && is_contiguous(q) && is_contiguous(scale))
    return quantize_rows_padded(data<float>(x), data<int8_t>(q), data<float>(scale), rows, width, width);
  return launch(any_rows_kernel, grid_for(rows), row_threads(width), 0, x, q, scale, rows);
}

Status quantize_weight_i8(const Context&, Tensor w, Tensor q, Tensor scale, int64_t steps,
                          double max_shrink) {
  if (const Status status = check(w, q, scale)) return status;
  const int64_t rows = w.shape[0], n = w.shape[1];
  if (rows == 0) return nullptr;
  return launch(weight_kernel, grid_for(rows), row_threads(n), 0, data<const float>(w), data<int8_t>(q),
                data<float>(scale), rows, n, steps, max_shrink);
}

}  // namespace cuda
}  // namespace roots
