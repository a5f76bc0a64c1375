// Attention from operands rounded to bfloat16, on tensor cores with mma.sync (compute capability 8.0 and
// later), with float scores, softmax and sums: a warp owns 16 queries and walks over the keys, 64 at a time.
// Tensors are float32 or bfloat16, each. Heads wider than 128 and a few queries go to the general kernels of
// attention.cuh, large problems on Hopper to attention_sm90.cuh. Definitions in native/cpu/attention.cc.
#include "cuda/attention_bf16.cuh"
#include "cuda/attention_sm90.cuh"
#include "cuda/declare.cuh"

namespace roots {
namespace cuda {
namespace {

template <int kD>
__global__ void __launch_bounds__(kMmaThreads)
    mma_forward_kernel(Problem p, HeadRows q, HeadRows k, HeadRows v, int64_t tiles, int64_t jobs) {
  ROOTS_DYNAMIC_SHARED(shared);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const float scale = static_cast<float>(p.scale) * kLog2e;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    const QueryBlock at = query_block(p, job, tiles);
    const int64_t b = at.b, h = at.h;
    const int i0 = at.first + warp * kRowsPerWarp;
    const int rows[2] = {i0 + lane / 4, i0 + lane / 4 + 8};
    const LeftInRegisters<kD> query(q.at(b, h, 0), q.row, i0, p.Tq);
    Running softmax;
    float sums[kD / 8][4] = {};
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
          float scores[kTileRows / 8][4];
          times_rows<kD>(scores, query, from, 0);
          multiply_all(scores, scale);
          if (own.limits(j0, kTileRows) || p.mask.data) limit_keys<true>(p, b, h, rows, j0, scores);
          softmax.weigh(scores);
          multiply_rows(sums, softmax.keep);
          add_products<kD>(sums, scores, from + kTileBytes<kD>, 0);
        });
    store_attention<kD>(p, b, h, rows, sums, softmax);
  }
}

template <int kD>
Status forward_tiles(const Problem& p) {
  HeadRows q, k, v;
  if (const Status status = head_rows(p.q, kD, 1, &q)) return status;
  if (const Status status = head_rows(p.k, kD, 2, &k)) return status;
  if (const Status status = head_rows(p.v, kD, 3, &v)) return status;
  if (hopper::wanted() && sm90_attention::fits(p)) {
    hopper::TensorMap map_q, map_k, map_v;
    if (sm90_attention::map_of(q, p.q, kD, sm90_attention::kQueries, &map_q) &&
        sm90_attention::map_of(k, p.k, kD, sm90_attention::kKeys, &map_k) &&
        sm90_attention::map_of(v, p.v, kD, sm90_attention::kKeys, &map_v))
      return sm90_attention::forward<kD>(p, map_q, map_k, map_v);
  }
  const int64_t tiles = ceil_div(p.Tq, kRowsPerBlock), jobs = p.B * p.H * tiles;
  return launch(mma_forward_kernel<kD>, grid_for(jobs), kMmaThreads, 2 * kPairBytes<kD>, p, q, k, v, tiles,
                jobs);
}

}  // namespace

Status attention_bf16_forward(const Context&, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                              OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse,
                              double scale, int64_t causal, int64_t window) {
  AttentionProblem sizes;
  if (const Status status =
          check_attention_bf16(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &sizes))
    return status;
  if (const Status status = check_heads(sizes)) return status;
  const Problem p(sizes, q, k, v, mask, out, lse);
  if (p.B * p.H * p.Tq == 0) return nullptr;
  if (!fits_tiles(p) || p.Tq <= kFewQueries) return forward_any<float>(p);
  return wide_rows(p) ? forward_tiles<128>(p) : forward_tiles<64>(p);
}

// Over int8 keys and values with a scale per row: the general kernels, which read them in place.
Status attention_i8_forward(const Context&, Tensor q, Tensor k, Tensor k_scale, Tensor v, Tensor v_scale,
                            OptionalTensor mask, OptionalTensor lengths, OptionalTensor starts, Tensor out,
                            Tensor lse, double scale, int64_t causal, int64_t window) {
  AttentionProblem sizes;
  if (const Status status = check_attention_i8(q, k, k_scale, v, v_scale, mask, lengths, starts, out, lse,
                                               scale, causal, window, &sizes))
    return status;
  if (const Status status = check_heads(sizes)) return status;
  Problem p(sizes, q, k, v, mask, out, lse);
  p.k_scale = k_scale;
  p.v_scale = v_scale;
  if (p.B * p.H * p.Tq == 0) return nullptr;
  return forward_any<float>(p);
}

}  // namespace cuda
}  // namespace roots
