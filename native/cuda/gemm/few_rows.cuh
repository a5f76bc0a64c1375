// Products of up to eight rows (decoding), bound by reading the weights: each is read once for all rows. Sums
// in a fixed order.
#pragma once

#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/mma.cuh"
#include "cuda/reduce.cuh"

namespace roots {
namespace cuda {
namespace few {

constexpr int kRows = 8, kThreads = 256, kSplitThreads = 512;

// An operand's elements as numbers of the sum's type.
template <class T>
struct Exact {
  using Stored = T;
  static ROOTS_DEVICE T number(T x) { return x; }
};
template <class Half>
struct Halved {  // stored in 16 bits
  using Stored = uint16_t;
  static ROOTS_DEVICE float number(uint16_t bits) { return to_float(Half{bits}); }
};
template <class Half>
struct Rounded {  // float32, rounded to 16 bits
  using Stored = float;
  static ROOTS_DEVICE float number(float x) {
    return to_float(Half{static_cast<uint16_t>(HalfProduct<Half>::pair(x, 0.0f))});
  }
};

template <class E>
struct Operand {
  const typename E::Stored* data;
  int64_t row_stride, column_stride;  // along M or N, and along K
};

template <class Stored, int kCount>
struct alignas(sizeof(Stored) * kCount) Pack {
  Stored at[kCount];
};

// Rows of weights: a warp per output, kVector neighbours of K per lane and load.
template <class T, class X, class W, int kVector>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(int64_t M, int64_t N, int64_t K, Operand<X> x, Operand<W> w, Epilogue<T> epilogue) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; n < N;
       n += warps) {
    T sum[kRows] = {};
    const auto* row = reinterpret_cast<const Pack<typename W::Stored, kVector>*>(w.data + n * w.row_stride);
#pragma unroll 1  // more would not fit the registers
    for (int64_t i = lane; i * kVector < K; i += kWarp) {
      const Pack<typename W::Stored, kVector> weights = row[i];
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const T weight = W::number(weights.at[e]);
        const auto* column = x.data + (i * kVector + e) * x.column_stride;
#pragma unroll
        for (int m = 0; m < kRows; ++m)
          if (m < M) sum[m] = fma_of(weight, X::number(column[m * x.row_stride]), sum[m]);
      }
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const T total = warp_reduce<Sum>(sum[m]);
      if (lane == 0 && m < M) epilogue.template store<false>(0, m, n, N, total);
    }
  }
}

// Columns of weights, neighbouring outputs beside each other: a block per 32 outputs, a lane per output, K
// dealt out among the warps.
template <class T, class X, class W>
__global__ void __launch_bounds__(kSplitThreads)
    columns_kernel(int64_t M, int64_t N, int64_t K, Operand<X> x, Operand<W> w, Epilogue<T> epilogue) {
  constexpr int kWarps = kSplitThreads / kWarp;
  __shared__ T partial[kWarps][kRows][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t n0 = static_cast<int64_t>(blockIdx.x) * kWarp; n0 < N;
       n0 += static_cast<int64_t>(gridDim.x) * kWarp) {
    const int64_t n = n0 + lane;
    T sum[kRows] = {};
    if (n < N)
      for (int64_t k = warp; k < K; k += kWarps) {
        const T weight = W::number(w.data[n + k * w.column_stride]);
        const auto* column = x.data + k * x.column_stride;
#pragma unroll
        for (int m = 0; m < kRows; ++m)
          if (m < M) sum[m] = fma_of(weight, X::number(column[m * x.row_stride]), sum[m]);
      }
#pragma unroll
    for (int m = 0; m < kRows; ++m) partial[warp][m][lane] = sum[m];
    __syncthreads();
    if (warp < M && warp < kRows && n < N) {
      T total = T(0);
#pragma unroll 4
      for (int i = 0; i < kWarps; ++i) total += partial[i][warp][lane];
      epilogue.template store<false>(0, warp, n, N, total);
    }
    __syncthreads();
  }
}

// Whether product() takes a shape, of one batch.
template <class W>
bool fits(int64_t M, const Operand<W>& w) {
  return M > 0 && M <= kRows && (w.column_stride == 1 || w.row_stride == 1);
}

template <class T, class X, class W>
Status product(int64_t M, int64_t N, int64_t K, const Operand<X>& x, const Operand<W>& w,
               const Epilogue<T>& epilogue) {
  if (N == 0) return nullptr;
  if (w.column_stride != 1)
    return launch(columns_kernel<T, X, W>, grid_for(ceil_div(N, kWarp)), kSplitThreads, 0, M, N, K, x, w,
                  epilogue);
  constexpr int kVector = 16 / sizeof(typename W::Stored);
  const bool whole =
      K % kVector == 0 && w.row_stride % kVector == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0;
  const unsigned grid = grid_for(ceil_div(N, kThreads / kWarp));
  return whole ? launch(rows_kernel<T, X, W, kVector>, grid, kThreads, 0, M, N, K, x, w, epilogue)
               : launch(rows_kernel<T, X, W, 1>, grid, kThreads, 0, M, N, K, x, w, epilogue);
}

}  // namespace few
}  // namespace cuda
}  // namespace roots
