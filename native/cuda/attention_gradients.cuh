// What the kernels for gradients of attention from bfloat16 operands share: what every query brings along,
// and which queries see a key.
#pragma once

#include "cuda/attention_bf16.cuh"

namespace roots {
namespace cuda {
namespace {

// What every query brings along, T of a head padded to whole tiles: the log-sum-exp in powers of two (plus
// infinity where a query sees nothing or is none: its weights become zero) and delta = rowsum(dO * O).
struct Queries {
  float *lse, *delta;
  int64_t padded;
  ROOTS_DEVICE int64_t at(const Problem& p, int64_t b, int64_t h, int64_t i) const {
    return (b * p.H + h) * padded + i;
  }
};

// A warp per query.
__global__ void __launch_bounds__(kThreads)
    queries_kernel(Problem p, Tensor dout, Queries queries, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; r < rows; r += warps) {
    const int64_t i = r % queries.padded, h = r / queries.padded % p.H, b = r / queries.padded / p.H;
    float sum = 0.0f, lse = infinity(0.0f);
    if (i < p.Tq) {
      const float *g = row_of<float>(dout, b, h, i), *o = row_of<float>(p.out, b, h, i);
      for (int64_t d = lane; d < p.Dv; d += kWarp) sum = fmaf(g[d], o[d], sum);
      const float own = static_cast<const float*>(p.lse.data)[(b * p.H + h) * p.Tq + i];
      if (own != -infinity(0.0f)) lse = own * kLog2e;
    }
    sum = warp_reduce<Sum>(sum);
    if (lane == 0) {
      queries.lse[r] = lse;
      queries.delta[r] = sum;
    }
  }
}

// Rows of sums (16, kD), scaled, into a float32 tensor.
template <int kD>
ROOTS_DEVICE void store_rows(const Tensor& to, int64_t b, int64_t h, const int (&rows)[2],
                             const float (&sums)[kD / 8][4], float scale) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (rows[r] >= to.shape[2]) continue;
    float* row = row_of<float>(to, b, h, rows[r]);
#pragma unroll
    for (int n = 0; n < kD / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (n * 8 + column + e < to.shape[3]) row[n * 8 + column + e] = sums[n][2 * r + e] * scale;
  }
}

// The queries that see key j.
ROOTS_DEVICE int64_t first_query(const Problem& p, int64_t j) {
  const int64_t first = j - (p.Tk - p.Tq);
  return p.causal && first > 0 ? first : 0;
}
ROOTS_DEVICE int64_t last_query(const Problem& p, int64_t j) {  // one past
  const int64_t last = j - (p.Tk - p.Tq) + p.window;
  return p.window > 0 && last < p.Tq ? last : p.Tq;
}
// The keys of a batch that are not padding.
ROOTS_DEVICE int64_t start_of(const Problem& p, int64_t b) {
  return p.starts && p.starts[b] > 0 ? p.starts[b] : 0;
}
ROOTS_DEVICE int64_t end_of(const Problem& p, int64_t b) {
  return p.lengths && p.lengths[b] < p.Tk ? p.lengths[b] : p.Tk;
}
ROOTS_DEVICE Range queries_of(const Problem& p, int64_t b, int64_t j0, int64_t count) {
  int64_t first = start_of(p, b), last = end_of(p, b);
  first = first > j0 ? first : j0;
  last = last < j0 + count ? last : j0 + count;
  if (first >= last) return {0, 0, 0, 0};
  const bool whole = last - first == count;
  return range_of(first_query(p, first), last_query(p, last - 1), first_query(p, last - 1),
                  whole ? last_query(p, first) : 0);
}

// Keys as rows and queries from i0 on as columns; kMask: there may be a mask.
template <bool kMask, int kN>
ROOTS_DEVICE void limit_queries(const Problem& p, int64_t b, int64_t h, const int (&rows)[2], int64_t i0,
                                float (&scores)[kN][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int j = rows[r];
    const bool real = j >= start_of(p, b) && j < end_of(p, b);
    limit(scores, r, columns_of(first_query(p, j), real ? last_query(p, j) : 0, i0),
          kMask && real && p.mask.data ? row_of<float>(p.mask, b, h, i0) + j * p.mask.strides[3] : nullptr,
          p.mask.strides[2]);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace roots
