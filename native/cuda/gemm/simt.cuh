// Products on the ordinary arithmetic units, exact to the operand type: float32 and float64, any strides.
// A block computes 64 x 64 of the result, a thread 4 x 4; operands pass through shared memory 16 of K at a
// time.
#pragma once

#include "cuda/gemm/epilogue.cuh"

namespace roots {
namespace cuda {
namespace simt {

constexpr int kTile = 64, kDepth = 16, kThreads = 256;

// rows along M or N, columns along K
template <class E>
struct Operand {
  const E* data;
  int64_t row_stride, column_stride;
};

// Rows [first, first + 64) and columns [k0, k0 + 16) of an operand into tile[k][row], zeros outside.
template <class T, class E>
ROOTS_DEVICE void load_tile(const Operand<E>& x, int64_t offset, int64_t first, int64_t rows, int64_t k0,
                            int64_t K, T (&tile)[kDepth][kTile + 1]) {
  const int t = static_cast<int>(threadIdx.x);
  const bool along_k = x.column_stride == 1;
#pragma unroll
  for (int j = 0; j < kTile * kDepth / kThreads; ++j) {
    const int at = t + j * kThreads;
    const int k = along_k ? at % kDepth : at / kTile, row = along_k ? at / kDepth : at % kTile;
    T value = T(0);
    if (first + row < rows && k0 + k < K)
      value = static_cast<T>(x.data[offset + (first + row) * x.row_stride + (k0 + k) * x.column_stride]);
    tile[k][row] = value;
  }
}

template <class T, class EB>
__global__ void __launch_bounds__(kThreads, 1)
    gemm_kernel(int64_t M, int64_t N, int64_t K, Operand<T> a, Operand<EB> b, Batches batches,
                Epilogue<T> epilogue) {
  __shared__ T ta[kDepth][kTile + 1], tb[kDepth][kTile + 1];
  const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kTile, j0 = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int64_t batch = blockIdx.z; batch < batches.count; batch += gridDim.z) {
    int64_t ao, bo;
    batches.offsets(batch, &ao, &bo);
    T sum[4][4] = {};
    for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
      load_tile(a, ao, i0, M, k0, K, ta);
      load_tile(b, bo, j0, N, k0, K, tb);
      __syncthreads();
#pragma unroll 2
      for (int k = 0; k < kDepth; ++k) {
        T x[4], y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = ta[k][row + 16 * i];
#pragma unroll
        for (int j = 0; j < 4; ++j) y[j] = tb[k][column + 16 * j];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fma_of(x[i], y[j], sum[i][j]);
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t r = i0 + row + 16 * i, c = j0 + column + 16 * j;
        if (r < M && c < N) epilogue.store(batch * M * N, r, c, N, sum[i][j]);
      }
  }
}

template <class T, class EB>
Status gemm(int64_t M, int64_t N, int64_t K, const Operand<T>& a, const Operand<EB>& b,
            const Batches& batches, const Epilogue<T>& epilogue) {
  if (M == 0 || N == 0 || batches.count == 0) return nullptr;
  CHECK(ceil_div(N, kTile) <= kMostBatches, "more than 4 million columns");
  return launch(gemm_kernel<T, EB>, grid_of(M, N, kTile, kTile, batches.count), kThreads, 0, M, N, K, a, b,
                batches, epilogue);
}

}  // namespace simt
}  // namespace cuda
}  // namespace roots
