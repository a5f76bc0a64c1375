// What attention kernels share: the sizes of a call, which keys a query may see, rows in shared memory, and
// the general forward, a warp per query.
#pragma once

#include "core/attention.h"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kTile = 32;  // keys or queries in shared memory at a time
// Head elements per lane: sizes up to 256, and larger ones, which cost registers and shared memory.
constexpr int kFewPerLane = 8, kManyPerLane = 32;

struct Problem : AttentionProblem {
  Tensor q, k, v, mask, out, lse;
  Tensor k_scale{}, v_scale{};  // (B, Hkv, Tk): of int8 keys and values

  Problem(const AttentionProblem& sizes, const Tensor& q_, const Tensor& k_, const Tensor& v_,
          const Tensor& mask_, const Tensor& out_, const Tensor& lse_)
      : AttentionProblem(sizes), q(q_), k(k_), v(v_), mask(mask_), out(out_), lse(lse_) {}
  bool few() const { return D <= kFewPerLane * kWarp && Dv <= kFewPerLane * kWarp; }
  ROOTS_DEVICE bool visible(int64_t b, int64_t i, int64_t j) const {
    return j >= first_key(b, i) && j < last_key(b, i);
  }
};

template <class T>
ROOTS_DEVICE T* row_of(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return static_cast<T*>(t.data) + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}

// Element d of a row. With float, tensors may hold bf16, or int8 that is still to be scaled.
template <class T>
ROOTS_DEVICE T value_at(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t d) {
  if constexpr (sizeof(T) == sizeof(float))
  {
    if (t.dtype == DType::bf16) return to_float(Bf16{row_of<uint16_t>(t, b, h, i)[d]});
    if (t.dtype == DType::i8) return static_cast<float>(row_of<int8_t>(t, b, h, i)[d]);
  }
  return row_of<T>(t, b, h, i)[d];
}
template <class T>
ROOTS_DEVICE void store_at(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t d, T value) {
  if constexpr (sizeof(T) == sizeof(float))
    if (t.dtype == DType::bf16) {
      row_of<uint16_t>(t, b, h, i)[d] = to_bf16(value).bits;
      return;
    }
  row_of<T>(t, b, h, i)[d] = value;
}

// What the elements of row j are multiples of.
template <class T>
ROOTS_DEVICE T scale_at(const Tensor& scales, int64_t b, int64_t h, int64_t j) {
  if (!scales.data) return T(1);
  return static_cast<const T*>(scales.data)[b * scales.strides[0] + h * scales.strides[1] + j];
}

template <class T>
ROOTS_DEVICE T mask_at(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  return p.mask.data ? row_of<T>(p.mask, b, h, i)[j * p.mask.strides[3]] : T(0);
}

// Rows [first, first + 32) of a head into shared memory, `pitch` apart; zeros beyond `rows`.
template <class T>
ROOTS_DEVICE void stage(const Tensor& x, int64_t b, int64_t h, int64_t first, int64_t rows, int64_t width,
                        T* to, int64_t pitch, const Tensor& scales = {}) {
  for (int64_t at = threadIdx.x; at < kTile * width; at += blockDim.x) {
    const int64_t r = at / width, d = at % width;
    to[r * pitch + d] = first + r < rows ? value_at<T>(x, b, h, first + r, d) * scale_at<T>(scales, b, h, first + r)
                                         : T(0);
  }
}

template <class T>
ROOTS_DEVICE T dot(const T* a, const T* b, int64_t n) {
  T sum = T(0);
  for (int64_t d = 0; d < n; ++d) sum = fma_of(a[d], b[d], sum);
  return sum;
}

// Elements of shared memory: two tiles, and two rows per warp.
constexpr size_t shared_elements(int64_t D, int64_t Dv) {
  return static_cast<size_t>(kTile * (D + 1) + kTile * (Dv + 1) + kWarps * (D + Dv));
}

template <class T>
struct Shared {
  T *keys, *values, *first, *second;
  int64_t key_pitch, value_pitch;
  ROOTS_DEVICE Shared(unsigned char* bytes, int64_t D, int64_t Dv) : key_pitch(D + 1), value_pitch(Dv + 1) {
    keys = reinterpret_cast<T*>(bytes);
    values = keys + kTile * key_pitch;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    first = values + kTile * value_pitch + warp * (D + Dv);
    second = first + D;
  }
};

// Which (batch, head, first query) a block works on.
struct Job {
  int64_t b, h, i;
};
ROOTS_DEVICE Job job_of(int64_t job, int64_t tiles, int64_t heads) {
  return {job / tiles / heads, job / tiles % heads, job % tiles * kWarps};
}

// The keys that any of the block's queries may see.
ROOTS_DEVICE void block_range(const Problem& p, int64_t b, int64_t i0, int64_t* first, int64_t* last) {
  const int64_t i1 = i0 + kWarps < p.Tq ? i0 + kWarps : p.Tq;
  *first = p.first_key(b, i0);
  *last = p.last_key(b, i1 - 1);
}

template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem p, int64_t tiles, int64_t jobs) {
  ROOTS_DYNAMIC_SHARED(bytes);
  const Shared<T> s(bytes, p.D, p.Dv);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const Job at = job_of(job, tiles, p.H);
    const int64_t b = at.b, h = at.h, i = at.i + warp, kv = h / (p.H / p.Hkv);
    const bool active = i < p.Tq;
    if (active)
      for (int64_t d = lane; d < p.D; d += kWarp) s.first[d] = value_at<T>(p.q, b, h, i, d);
    T top = -infinity(T(0)), sum = T(0), acc[kPerLane] = {};
    int64_t first, last;
    block_range(p, b, at.i, &first, &last);
    for (int64_t j0 = first; j0 < last; j0 += kTile) {
      __syncthreads();
      stage(p.k, b, kv, j0, p.Tk, p.D, s.keys, s.key_pitch, p.k_scale);
      stage(p.v, b, kv, j0, p.Tk, p.Dv, s.values, s.value_pitch, p.v_scale);
      __syncthreads();
      if (!active) continue;
      const int64_t j = j0 + lane;
      T score = -infinity(T(0));
      if (j < p.Tk && p.visible(b, i, j))
        score = fma_of(dot(s.first, s.keys + lane * s.key_pitch, p.D), static_cast<T>(p.scale),
                       mask_at<T>(p, b, h, i, j));
      const T new_top = Max::combine(top, warp_reduce<Max>(score));
      const T shift = new_top == -infinity(T(0)) ? T(0) : new_top;
      const T weight = exp_of(score - shift), keep = exp_of(top - shift);
      top = new_top;
      sum = sum * keep + warp_reduce<Sum>(weight);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e) acc[e] *= keep;
      for (int key = 0; key < kTile; ++key) {
        const T w = __shfl_sync(kAllLanes, weight, key);
#pragma unroll
        for (int e = 0; e < kPerLane; ++e)
          if (lane + e * kWarp < p.Dv)
            acc[e] = fma_of(w, s.values[key * s.value_pitch + lane + e * kWarp], acc[e]);
      }
    }
    if (active) {
      const T inverse = sum > T(0) || sum != sum ? T(1) / sum : T(0);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e)
        if (lane + e * kWarp < p.Dv) store_at<T>(p.out, b, h, i, lane + e * kWarp, acc[e] * inverse);
      if (lane == 0)
        static_cast<T*>(p.lse.data)[(b * p.H + h) * p.Tq + i] =
            sum == T(0) ? -infinity(T(0)) : top + log_of(sum);
    }
    __syncthreads();
  }
}

// A few queries over a long cache: a warp takes one query and kFewPiece keys, whose numbers its lanes share,
// so that rows are read in place and in order; a second kernel joins the pieces of a query, in their order.
constexpr int64_t kFewQueries = 4, kFewPiece = 64;

// Per piece: the largest score, the sum of the weights relative to it, and the weighted sum of values.
ROOTS_BOTH int64_t part_size(const Problem& p) { return p.Dv + 2; }

template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads) few_kernel(Problem p, int64_t pieces, int64_t jobs, T* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t job = static_cast<int64_t>(blockIdx.x) * kWarps + warp; job < jobs;
       job += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t piece = job % pieces, query = job / pieces;
    const int64_t i = query % p.Tq, h = query / p.Tq % p.H, b = query / p.Tq / p.H, kv = h / (p.H / p.Hkv);
    int64_t begin = p.first_key(b, i), end = p.last_key(b, i);
    begin = begin > piece * kFewPiece ? begin : piece * kFewPiece;
    end = end < (piece + 1) * kFewPiece ? end : (piece + 1) * kFewPiece;
    T q[kPerLane], acc[kPerLane] = {}, top = -infinity(T(0)), sum = T(0);
#pragma unroll
    for (int e = 0; e < kPerLane; ++e)
      q[e] = lane + e * kWarp < p.D ? value_at<T>(p.q, b, h, i, lane + e * kWarp) : T(0);
    for (int64_t j = begin; j < end; ++j) {
      T product = T(0);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e)
        if (lane + e * kWarp < p.D)
          product = fma_of(q[e], value_at<T>(p.k, b, kv, j, lane + e * kWarp), product);
      product = warp_reduce<Sum>(product) * scale_at<T>(p.k_scale, b, kv, j);
      const T score = fma_of(product, static_cast<T>(p.scale), mask_at<T>(p, b, h, i, j));
      const T new_top = Max::combine(top, score);
      const T shift = new_top == -infinity(T(0)) ? T(0) : new_top;
      const T weight = exp_of(score - shift), keep = exp_of(top - shift);
      top = new_top;
      sum = fma_of(sum, keep, weight);
      const T factor = weight * scale_at<T>(p.v_scale, b, kv, j);
#pragma unroll
      for (int e = 0; e < kPerLane; ++e)
        if (lane + e * kWarp < p.Dv)
          acc[e] = fma_of(factor, value_at<T>(p.v, b, kv, j, lane + e * kWarp), acc[e] * keep);
    }
    T* part = parts + job * part_size(p);
    if (lane == 0) {
      part[0] = top;
      part[1] = sum;
    }
#pragma unroll
    for (int e = 0; e < kPerLane; ++e)
      if (lane + e * kWarp < p.Dv) part[2 + lane + e * kWarp] = acc[e];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    join_kernel(Problem p, int64_t pieces, int64_t queries, const T* parts) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t query = static_cast<int64_t>(blockIdx.x) * kWarps + warp; query < queries;
       query += static_cast<int64_t>(gridDim.x) * kWarps) {
    const int64_t i = query % p.Tq, h = query / p.Tq % p.H, b = query / p.Tq / p.H;
    const T* own = parts + query * pieces * part_size(p);
    T top = -infinity(T(0)), sum = T(0);
    for (int64_t piece = 0; piece < pieces; ++piece) top = Max::combine(top, own[piece * part_size(p)]);
    const T shift = top == -infinity(T(0)) ? T(0) : top;
#pragma unroll 1
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const T* part = own + piece * part_size(p);
      sum = fma_of(part[1], exp_of(part[0] - shift), sum);
    }
    const T inverse = sum > T(0) || sum != sum ? T(1) / sum : T(0);
#pragma unroll 1
    for (int64_t d = lane; d < p.Dv; d += kWarp) {
      T value = T(0);
#pragma unroll 1
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const T* part = own + piece * part_size(p);
        value = fma_of(part[2 + d], exp_of(part[0] - shift), value);
      }
      store_at<T>(p.out, b, h, i, d, value * inverse);
    }
    if (lane == 0) static_cast<T*>(p.lse.data)[query] = sum == T(0) ? -infinity(T(0)) : top + log_of(sum);
  }
}

template <class T>
Status forward_few(const Problem& p) {
  const int64_t pieces = p.Tk > 0 ? ceil_div(p.Tk, kFewPiece) : 1, queries = p.B * p.H * p.Tq,
                jobs = queries * pieces;
  auto* parts = static_cast<T*>(workspace(0, static_cast<size_t>(jobs * part_size(p)) * sizeof(T)));
  CHECK(parts != nullptr, kOutOfMemory);
  if (const Status status = launch(few_kernel<T, kFewPerLane>, grid_for(ceil_div(jobs, kWarps)), kThreads, 0,
                                   p, pieces, jobs, parts))
    return status;
  return launch(join_kernel<T>, grid_for(ceil_div(queries, kWarps)), kThreads, 0, p, pieces, queries,
                static_cast<const T*>(parts));
}

// Forward without tensor cores.
template <class T>
Status forward_any(const Problem& p) {
  if (p.Tq <= kFewQueries && p.few()) return forward_few<T>(p);
  const int64_t tiles = ceil_div(p.Tq, kWarps), jobs = p.B * p.H * tiles;
  return launch(p.few() ? forward_kernel<T, kFewPerLane> : forward_kernel<T, kManyPerLane>, grid_for(jobs),
                kThreads, shared_elements(p.D, p.Dv) * sizeof(T), p, tiles, jobs);
}

inline Status check_heads(const AttentionProblem& p) {
  CHECK(p.D <= kManyPerLane * kWarp && p.Dv <= kManyPerLane * kWarp,
        "head sizes above 1024 have no CUDA kernel; move the tensors with .to('cpu')");
  return nullptr;
}

}  // namespace
}  // namespace cuda
}  // namespace roots
