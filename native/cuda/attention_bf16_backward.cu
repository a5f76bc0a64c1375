// Gradients of attention from operands rounded to bfloat16, on tensor cores with mma.sync: scores are
// computed again from the log-sum-exp of the forward pass (FlashAttention-2, arXiv 2307.08691). Sums are
// float32, and so are all tensors. Definitions in native/cpu/attention.cc.
//
// A warp owns 16 queries for dQ, or 16 keys for dK and dV, so that nothing is added by two warps and the bits
// are the same on every run; the price is that scores are computed twice.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_sm90_backward.cuh"
#include "cuda/declare.cuh"

namespace roots {
namespace cuda {
namespace {

// Keys whose scores are in registers at a time: wide heads leave room for few.
template <int kD>
constexpr int kKeysAtOnce = kD > 64 ? 16 : 32;

template <int kD>
__global__ void __launch_bounds__(kMmaThreads)
    mma_dq_kernel(Problem p, HeadRows q, HeadRows k, HeadRows v, HeadRows dout, Queries queries, Tensor dq,
                  int64_t tiles, int64_t jobs) {
  constexpr int kAtOnce = kKeysAtOnce<kD>;
  ROOTS_DYNAMIC_SHARED(shared);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const float scale = static_cast<float>(p.scale) * kLog2e;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const QueryBlock at = query_block(p, job, tiles);
    const int64_t b = at.b, h = at.h;
    const int i0 = at.first + warp * kRowsPerWarp;
    const int rows[2] = {i0 + lane / 4, i0 + lane / 4 + 8};
    const LeftInRegisters<kD> query(q.at(b, h, 0), q.row, i0, p.Tq),
        slope(dout.at(b, h, 0), dout.row, i0, p.Tq);
    float lse[2], delta[2], sums[kD / 8][4] = {};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      lse[r] = rows[r] < p.Tq ? queries.lse[queries.at(p, b, h, rows[r])] : infinity(0.0f);
      delta[r] = rows[r] < p.Tq ? queries.delta[queries.at(p, b, h, rows[r])] : 0.0f;
    }
    const Range block = keys_of(p, b, at.first, kRowsPerBlock), own = keys_of(p, b, i0, kRowsPerWarp);
    const uint16_t *const keys = k.at(b, at.kv, 0), *const values = v.at(b, at.kv, 0);
    for_tiles<kPairBytes<kD>>(
        shared, tiles_in(block.last - block.first, kTileRows),
        [&](unsigned char* to, int t) {
          load_tile<kD>(to, keys, k.row, block.first + t * kTileRows, p.Tk);
          load_tile<kD>(to + kTileBytes<kD>, values, v.row, block.first + t * kTileRows, p.Tk);
        },
        [&](const unsigned char* from, int t) {
          const int j0 = block.first + t * kTileRows;
          if (!own.touches(j0, kTileRows)) return;
          const bool limited = own.limits(j0, kTileRows) || p.mask.data;
#pragma unroll 1
          for (int part = 0; part < kTileRows; part += kAtOnce) {
            float weights[kAtOnce / 8][4], slopes[kAtOnce / 8][4];
            times_rows<kD>(weights, query, from, part);
            times_rows<kD>(slopes, slope, from + kTileBytes<kD>, part);
            multiply_all(weights, scale);
            if (limited) limit_keys<true>(p, b, h, rows, j0 + part, weights);
#pragma unroll
            for (int n = 0; n < kAtOnce / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                slopes[n][e] = exp2_of(weights[n][e] - lse[e / 2]) * (slopes[n][e] - delta[e / 2]);
            add_products<kD>(sums, slopes, from, part);
          }
        });
    store_rows<kD>(dq, b, h, rows, sums, static_cast<float>(p.scale));
  }
}

// --- keys as rows
// -----------------------------------------------------------------------------------------------

// Sums of wide heads fill the registers: their keys and values stay in shared memory, with smaller tiles of
// queries beside them.
template <int kD>
struct KeysPlan {
  static constexpr bool kInRegisters = kD <= 64;
  static constexpr int kTile = kInRegisters ? 64 : 32, kAtOnce = kInRegisters ? 16 : 32;
  static constexpr int kPair = kPairBytes<kD, kTile>,
                       kResident = kInRegisters ? 0 : kPairBytes<kD, kRowsPerBlock>,
                       kNumbers = 2 * kTile;  // lse and delta of the queries of a tile
  static constexpr size_t kShared = 2 * kPair + kResident + 2 * kNumbers * sizeof(float);
};

template <int kD>
__global__ void __launch_bounds__(kMmaThreads)
    mma_dkv_kernel(Problem p, HeadRows q, HeadRows k, HeadRows v, HeadRows dout, Queries queries, Tensor dk,
                   Tensor dv, int64_t tiles, int64_t jobs) {
  using Plan = KeysPlan<kD>;
  constexpr int kTile = Plan::kTile, kAtOnce = Plan::kAtOnce;
  ROOTS_DYNAMIC_SHARED(shared);
  unsigned char* const resident = shared + 2 * Plan::kPair;
  auto* const numbers = reinterpret_cast<float*>(resident + Plan::kResident);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const float scale = static_cast<float>(p.scale) * kLog2e;
  const int group = static_cast<int>(p.H / p.Hkv);
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    // the first keys are seen by the most queries: they start first
    const int kv = static_cast<int>(job / tiles % p.Hkv), b = static_cast<int>(job / tiles / p.Hkv);
    const int block_first = static_cast<int>(job % tiles) * kRowsPerBlock,
              j0 = block_first + warp * kRowsPerWarp;
    const int rows[2] = {j0 + lane / 4, j0 + lane / 4 + 8};
    const auto left_of = [&](const HeadRows& x, int which) {
      if constexpr (Plan::kInRegisters) {
        return LeftInRegisters<kD>(x.at(b, kv, 0), x.row, j0, p.Tk);
      } else {
        unsigned char* const to = resident + which * kTileBytes<kD, kRowsPerBlock>;
        load_tile<kD, kRowsPerBlock>(to, x.at(b, kv, 0), x.row, block_first, p.Tk);
        return LeftInTile<kD>{to, warp * kRowsPerWarp};
      }
    };
    __syncthreads();  // the keys of the job before have been read
    const auto key = left_of(k, 0), value = left_of(v, 1);
    float key_sums[kD / 8][4] = {}, value_sums[kD / 8][4] = {};
    const Range block = queries_of(p, b, block_first, kRowsPerBlock),
                own = queries_of(p, b, j0, kRowsPerWarp);
    const int first = block.first / kTile * kTile;
    const int per_head = tiles_in(block.last - first, kTile);
    for_tiles<Plan::kPair>(
        shared, per_head * group,
        [&](unsigned char* to, int t) {
          const int h = kv * group + t / per_head;
          const int i0 = first + t % per_head * kTile;
          load_tile<kD, kTile>(to, q.at(b, h, 0), q.row, i0, p.Tq);
          load_tile<kD, kTile>(to + kTileBytes<kD, kTile>, dout.at(b, h, 0), dout.row, i0, p.Tq);
          const int thread = static_cast<int>(threadIdx.x);
          if (thread < 2 * kTile / 4) {
            const bool second = thread >= kTile / 4;
            const int column = thread % (kTile / 4) * 4;
            copy_16(numbers + t % 2 * Plan::kNumbers + (second ? kTile : 0) + column,
                    (second ? queries.delta : queries.lse) + queries.at(p, b, h, i0) + column, true);
          }
        },
        [&](const unsigned char* from, int t) {
          const int h = kv * group + t / per_head;
          const int i0 = first + t % per_head * kTile;
          if (!own.touches(i0, kTile)) return;
          const bool limited = own.limits(i0, kTile) || p.mask.data;
#pragma unroll 1
          for (int part = 0; part < kTile; part += kAtOnce) {
            float weights[kAtOnce / 8][4], slopes[kAtOnce / 8][4];
            times_rows<kD>(weights, key, from, part);
            multiply_all(weights, scale);
            if (limited) limit_queries<true>(p, b, h, rows, i0 + part, weights);
            const float* lse = numbers + t % 2 * Plan::kNumbers + part + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < kAtOnce / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e) weights[n][e] = exp2_of(weights[n][e] - lse[n * 8 + e % 2]);
            add_products<kD>(value_sums, weights, from + kTileBytes<kD, kTile>, part);
            times_rows<kD>(slopes, value, from + kTileBytes<kD, kTile>, part);
#pragma unroll
            for (int n = 0; n < kAtOnce / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                slopes[n][e] = weights[n][e] * (slopes[n][e] - lse[kTile + n * 8 + e % 2]);
            add_products<kD>(key_sums, slopes, from, part);
          }
        });
    store_rows<kD>(dk, b, kv, rows, key_sums, static_cast<float>(p.scale));
    store_rows<kD>(dv, b, kv, rows, value_sums, 1.0f);
  }
}

template <int kD>
Status backward_mma(const Problem& p, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                    const Tensor& dv) {
  HeadRows q, k, v, g;
  if (const Status status = head_rows(p.q, kD, 1, &q)) return status;
  if (const Status status = head_rows(p.k, kD, 2, &k)) return status;
  if (const Status status = head_rows(p.v, kD, 3, &v)) return status;
  if (const Status status = head_rows(dout, kD, 4, &g)) return status;
  const int64_t padded = ceil_div(p.Tq, kTileRows) * kTileRows, rows = p.B * p.H * padded;
  auto* numbers = static_cast<float*>(workspace(0, static_cast<size_t>(2 * rows + 4) * sizeof(float)));
  CHECK(numbers != nullptr, kOutOfMemory);
  const Queries queries{numbers, numbers + rows, padded};
  if (rows > 0) {
    if (const Status status =
            launch(queries_kernel, grid_for(ceil_div(rows, kWarps)), kThreads, 0, p, dout, queries, rows))
      return status;
    using sm90_attention::Own;
    sm90_attention::Maps over_keys, over_queries;
    const auto map_of = [](const HeadRows& x, const Tensor& t, int i, hopper::TensorMap(&own)[2],
                           hopper::TensorMap(&tiles)[2]) {
      if (!sm90_attention::map_of(x, t, kD, sm90_attention::kTile, &own[i])) return false;
      tiles[i] = own[i];
      return true;
    };
    if (hopper::wanted() && sm90_attention::fits(p) && !p.mask.data &&
        map_of(q, p.q, 0, over_keys.own, over_queries.tiles) &&
        map_of(g, dout, 1, over_keys.own, over_queries.tiles) &&
        map_of(k, p.k, 0, over_queries.own, over_keys.tiles) &&
        map_of(v, p.v, 1, over_queries.own, over_keys.tiles)) {
      if (const Status status =
              sm90_attention::backward<kD, Own::queries>(p, over_keys, queries, dq, Tensor{}))
        return status;
      return sm90_attention::backward<kD, Own::keys>(p, over_queries, queries, dk, dv);
    }
    const int64_t tiles = ceil_div(p.Tq, kRowsPerBlock), jobs = p.B * p.H * tiles;
    if (const Status status = launch(mma_dq_kernel<kD>, grid_for(jobs), kMmaThreads, 2 * kPairBytes<kD>, p, q,
                                     k, v, g, queries, dq, tiles, jobs))
      return status;
  }
  const int64_t tiles = ceil_div(p.Tk, kRowsPerBlock), jobs = p.B * p.Hkv * tiles;
  if (jobs == 0) return nullptr;
  return launch(mma_dkv_kernel<kD>, grid_for(jobs), kMmaThreads, KeysPlan<kD>::kShared, p, q, k, v, g,
                queries, dk, dv, tiles, jobs);
}

}  // namespace

Status attention_bf16_backward(const Context& context, Tensor dout, Tensor q, Tensor k, Tensor v,
                               OptionalTensor mask, OptionalTensor lengths, OptionalTensor starts, Tensor out,
                               Tensor lse, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dmask,
                               double scale, int64_t causal, int64_t window) {
  CHECK(q.dtype == DType::f32, "needs float32");
  AttentionProblem sizes;
  if (const Status status =
          check_attention(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &sizes))
    return status;
  if (const Status status = check_attention_gradients(dout, q, k, v, mask, out, dq, dk, dv, dmask))
    return status;
  const Problem p(sizes, q, k, v, mask, out, lse);
  // scores of the mask's gradient are not rounded: they are all written out anyway
  if (!fits_tiles(p) || dmask.data)
    return attention_backward(context, dout, q, k, v, mask, lengths, starts, out, lse, dq, dk, dv, dmask,
                              scale, causal, window);
  return wide_rows(p) ? backward_mma<128>(p, dout, dq, dk, dv) : backward_mma<64>(p, dout, dq, dk, dv);
}

}  // namespace cuda
}  // namespace roots
