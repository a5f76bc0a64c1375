// Scaled dot-product attention, forward and backward, for every case of the contract: masks, ranges of keys,
// causal, sliding window, grouped query heads, any head sizes, float32 and float64. Definitions in
// native/cpu/attention.cc.
//
// Forward: a warp owns a query; tiles of 32 keys and values pass through shared memory, a lane scores one
// key, and the softmax is taken online (FlashAttention, arXiv 2205.14135). Backward: a warp owns a query for
// dQ, and a key for dK and dV, so nothing is added by two warps and the bits are the same on every run.
#include "cuda/attention.cuh"
#include "cuda/declare.cuh"

namespace roots {
namespace cuda {
namespace {

// delta = rowsum(dO * O), a warp per query.
template <class T>
__global__ void delta_kernel(Problem p, Tensor dout, T* delta, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; r < rows; r += warps) {
    const int64_t i = r % p.Tq, h = r / p.Tq % p.H, b = r / p.Tq / p.H;
    const T *g = row_of<T>(dout, b, h, i), *o = row_of<T>(p.out, b, h, i);
    T sum = T(0);
    for (int64_t d = lane; d < p.Dv; d += kWarp) sum = fma_of(g[d], o[d], sum);
    sum = warp_reduce<Sum>(sum);
    if (lane == 0) delta[r] = sum;
  }
}

// P and dS of one (query, key): zero where the query may not look.
template <class T>
struct Pair {
  T weight, slope;
};
template <class T>
ROOTS_DEVICE Pair<T> pair_of(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j, const T* q,
                             const T* key, const T* dout, const T* value, T lse, T delta) {
  if (!p.visible(b, i, j) || lse == -infinity(T(0))) return {T(0), T(0)};
  const T score = fma_of(dot(q, key, p.D), static_cast<T>(p.scale), mask_at<T>(p, b, h, i, j));
  const T weight = exp_of(score - lse);
  return {weight, weight * (dot(dout, value, p.Dv) - delta)};
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads)
    dq_kernel(Problem p, Tensor dout, const T* delta, Tensor dq, Tensor dmask, int64_t tiles, int64_t jobs) {
  ROOTS_DYNAMIC_SHARED(bytes);
  const Shared<T> s(bytes, p.D, p.Dv);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const Job at = job_of(job, tiles, p.H);
    const int64_t b = at.b, h = at.h, i = at.i + warp, kv = h / (p.H / p.Hkv);
    const bool active = i < p.Tq;
    T lse = T(0), di = T(0), acc[kPerLane] = {};
    if (active) {
      for (int64_t d = lane; d < p.D; d += kWarp) s.first[d] = row_of<T>(p.q, b, h, i)[d];
      for (int64_t d = lane; d < p.Dv; d += kWarp) s.second[d] = row_of<T>(dout, b, h, i)[d];
      lse = static_cast<const T*>(p.lse.data)[(b * p.H + h) * p.Tq + i];
      di = delta[(b * p.H + h) * p.Tq + i];
    }
    int64_t first = 0, last = p.Tk;  // a gradient of the mask wants its zeros too
    if (!dmask.data) block_range(p, b, at.i, &first, &last);
    for (int64_t j0 = first; j0 < last; j0 += kTile) {
      __syncthreads();
      stage(p.k, b, kv, j0, p.Tk, p.D, s.keys, s.key_pitch);
      stage(p.v, b, kv, j0, p.Tk, p.Dv, s.values, s.value_pitch);
      __syncthreads();
      if (!active) continue;
      const int64_t j = j0 + lane;
      Pair<T> pair{T(0), T(0)};
      if (j < p.Tk)
        pair = pair_of(p, b, h, i, j, s.first, s.keys + lane * s.key_pitch, s.second,
                       s.values + lane * s.value_pitch, lse, di);
      if (dmask.data && j < p.Tk)
        static_cast<T*>(dmask.data)[((b * p.H + h) * p.Tq + i) * p.Tk + j] = pair.slope;
      for (int key = 0; key < kTile; ++key) {
        const T slope = __shfl_sync(kAllLanes, pair.slope, key);
#pragma unroll
        for (int e = 0; e < kPerLane; ++e)
          if (lane + e * kWarp < p.D)
            acc[e] = fma_of(slope, s.keys[key * s.key_pitch + lane + e * kWarp], acc[e]);
      }
    }
    if (active) {
      T* o = row_of<T>(dq, b, h, i);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e)
        if (lane + e * kWarp < p.D) o[lane + e * kWarp] = acc[e] * static_cast<T>(p.scale);
    }
    __syncthreads();
  }
}

// A warp per key: queries and their gradients are staged, the key and its value are the warp's own rows.
template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads)
    dkv_kernel(Problem p, Tensor dout, const T* delta, Tensor dk, Tensor dv, int64_t tiles, int64_t jobs) {
  ROOTS_DYNAMIC_SHARED(bytes);
  const Shared<T> s(bytes, p.D, p.Dv);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t group = p.H / p.Hkv;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const Job at = job_of(job, tiles, p.Hkv);
    const int64_t b = at.b, kv = at.h, j = at.i + warp;
    const bool active = j < p.Tk;
    if (active) {
      for (int64_t d = lane; d < p.D; d += kWarp) s.first[d] = row_of<T>(p.k, b, kv, j)[d];
      for (int64_t d = lane; d < p.Dv; d += kWarp) s.second[d] = row_of<T>(p.v, b, kv, j)[d];
    }
    T key_sum[kPerLane] = {}, value_sum[kPerLane] = {};
    // causal: queries before the first key of the block see none of its keys
    int64_t first = p.causal ? at.i - (p.Tk - p.Tq) : 0;
    first = first < 0 ? 0 : first / kTile * kTile;
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h)
      for (int64_t i0 = first; i0 < p.Tq; i0 += kTile) {
        __syncthreads();
        stage(p.q, b, h, i0, p.Tq, p.D, s.keys, s.key_pitch);
        stage(dout, b, h, i0, p.Tq, p.Dv, s.values, s.value_pitch);
        __syncthreads();
        if (!active) continue;
        const int64_t i = i0 + lane;
        Pair<T> pair{T(0), T(0)};
        if (i < p.Tq) {
          const int64_t r = (b * p.H + h) * p.Tq + i;
          pair = pair_of(p, b, h, i, j, s.keys + lane * s.key_pitch, s.first, s.values + lane * s.value_pitch,
                         s.second, static_cast<const T*>(p.lse.data)[r], delta[r]);
        }
        for (int query = 0; query < kTile; ++query) {
          const T slope = __shfl_sync(kAllLanes, pair.slope, query);
          const T weight = __shfl_sync(kAllLanes, pair.weight, query);
#pragma unroll
          for (int e = 0; e < kPerLane; ++e) {
            const int64_t d = lane + e * kWarp;
            if (d < p.D) key_sum[e] = fma_of(slope, s.keys[query * s.key_pitch + d], key_sum[e]);
            if (d < p.Dv) value_sum[e] = fma_of(weight, s.values[query * s.value_pitch + d], value_sum[e]);
          }
        }
      }
    if (active) {
      T *to_key = row_of<T>(dk, b, kv, j), *to_value = row_of<T>(dv, b, kv, j);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e) {
        const int64_t d = lane + e * kWarp;
        if (d < p.D) to_key[d] = key_sum[e] * static_cast<T>(p.scale);
        if (d < p.Dv) to_value[d] = value_sum[e];
      }
    }
    __syncthreads();
  }
}

}  // namespace

Status attention_forward(const Context&, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                         OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse, double scale,
                         int64_t causal, int64_t window) {
  AttentionProblem sizes;
  if (const Status status =
          check_attention(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &sizes))
    return status;
  if (const Status status = check_heads(sizes)) return status;
  const Problem p(sizes, q, k, v, mask, out, lse);
  if (p.B * p.H * p.Tq == 0) return nullptr;
  return dispatch_float(q.dtype, [&](auto t) { return forward_any<decltype(t)>(p); });
}

Status attention_backward(const Context&, Tensor dout, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                          OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse, Tensor dq,
                          Tensor dk, Tensor dv, OptionalTensor dmask, double scale, int64_t causal,
                          int64_t window) {
  AttentionProblem sizes;
  if (const Status status =
          check_attention(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &sizes))
    return status;
  if (const Status status = check_attention_gradients(dout, q, k, v, mask, out, dq, dk, dv, dmask))
    return status;
  if (const Status status = check_heads(sizes)) return status;
  const Problem p(sizes, q, k, v, mask, out, lse);
  const int64_t rows = p.B * p.H * p.Tq, query_tiles = ceil_div(p.Tq, kWarps),
                key_tiles = ceil_div(p.Tk, kWarps);
  return dispatch_float(q.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    auto* delta = static_cast<T*>(workspace(0, static_cast<size_t>(rows + 1) * sizeof(T)));
    CHECK(delta != nullptr, kOutOfMemory);
    const size_t shared = shared_elements(p.D, p.Dv) * sizeof(T);
    Status status = nullptr;
    if (rows > 0) {
      status = launch(delta_kernel<T>, grid_for(ceil_div(rows, kWarps)), kThreads, 0, p, dout, delta, rows);
      if (!status)
        status =
            launch(p.few() ? dq_kernel<T, kFewPerLane> : dq_kernel<T, kManyPerLane>,
                   grid_for(p.B * p.H * query_tiles), kThreads, shared, p, dout, static_cast<const T*>(delta),
                   dq, static_cast<Tensor>(dmask), query_tiles, p.B * p.H * query_tiles);
    }
    const int64_t key_jobs = p.B * p.Hkv * key_tiles;
    if (!status && key_jobs > 0)
      status = launch(p.few() ? dkv_kernel<T, kFewPerLane> : dkv_kernel<T, kManyPerLane>, grid_for(key_jobs),
                      kThreads, shared, p, dout, static_cast<const T*>(delta), dk, dv, key_tiles, key_jobs);
    return status;
  });
}

}  // namespace cuda
}  // namespace roots
