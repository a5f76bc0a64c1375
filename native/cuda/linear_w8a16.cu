// Weight-only int8: y = activation(x W^T + b), W int8 per output row, x float32. A few rows (decoding): a
// warp per output reads its weights once for all of them. More rows: the float32 product, weights widened on
// the way.
#include "cuda/declare.cuh"
#include "cuda/gemm/packed_i8.h"
#include "cuda/gemm/simt.cuh"
#include "cuda/reduce.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kFewRows = 8, kThreads = 256;

__global__ void few_rows_kernel(const float* x, const int8_t* weights, int64_t row_bytes, int64_t M,
                                int64_t N, int64_t K, Epilogue<float> epilogue) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; n < N;
       n += warps) {
    float sum[kFewRows] = {};
    const auto* row = reinterpret_cast<const uint32_t*>(weights + n * row_bytes);
    for (int64_t w = lane; w < row_bytes / 4; w += kWarp) {
      const uint32_t four = row[w];
      for (int e = 0; e < 4; ++e) {
        const float weight = static_cast<float>(static_cast<int8_t>(four >> (8 * e)));
        const int64_t k = w * 4 + e;
#pragma unroll
        for (int m = 0; m < kFewRows; ++m)
          if (m < M && k < K) sum[m] = fma_of(weight, x[m * K + k], sum[m]);
      }
    }
#pragma unroll
    for (int m = 0; m < kFewRows; ++m) {
      const float total = warp_reduce<Sum>(sum[m]);
      if (lane == 0 && m < M) epilogue.store(0, m, n, N, total);
    }
  }
}

}  // namespace

Status linear_w8a16(const Context&, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias, Tensor out,
                    int64_t activation) {
  CHECK(x.rank == 2 && out.rank == 2 && x.shape[0] == out.shape[0], "needs matrices");
  CHECK(x.dtype == DType::f32 && out.dtype == DType::f32 && scale.dtype == DType::f32, "needs float32");
  CHECK(is_contiguous(x) && is_contiguous(out) && is_contiguous(scale), "needs contiguous tensors");
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  const PackedI8 shape(N, K);
  CHECK(packed.dtype == DType::i8 && packed.rank == 1 && packed.shape[0] == shape.total_bytes,
        "packed has the wrong size");
  CHECK(numel(scale) == N, "one scale per output");
  CHECK(!bias.data || (bias.dtype == DType::f32 && numel(bias) == N && is_contiguous(bias)),
        "one bias per output");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  if (M == 0 || N == 0) return nullptr;
  Epilogue<float> epilogue;
  epilogue.out = data<float>(out);
  epilogue.bias = data<float>(bias);
  epilogue.column_scale = data<float>(scale);
  epilogue.activation = static_cast<Activation>(activation);
  if (M <= kFewRows)
    return launch(few_rows_kernel, grid_for(ceil_div(N, kThreads / kWarp)), kThreads, 0, data<const float>(x),
                  data<const int8_t>(packed), shape.row_bytes, M, N, K, epilogue);
  return simt::gemm<float, int8_t>(M, N, K, {data<float>(x), K, 1},
                                   {data<int8_t>(packed), shape.row_bytes, 1}, Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
