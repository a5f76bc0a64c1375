// Attention from operands rounded to bfloat16, on tensor cores with mma.sync (compute capability 8.0 and
// later), with float scores, softmax and sums (FlashAttention-2, arXiv 2307.08691). Tensors are float32 or
// bfloat16, each. Heads wider than 128 and a few queries go to the general kernels of attention.cuh.
// Definitions in native/cpu/attention.cc.
//
// A warp owns 16 queries, whose numbers, scores and sums stay in its registers; a block of four warps shares
// tiles of 64 keys and values. Fragments are placed as gemm/mma.cuh says: scores come out of one product as
// the next takes its left operand, so weights never leave the registers.
#include "cuda/attention.cuh"
#include "cuda/declare.cuh"
#include "cuda/gemm/mma.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kMmaWarps = 4, kMmaThreads = kMmaWarps * kWarp, kQueriesPerWarp = 16;
constexpr int kQueriesPerBlock = kMmaWarps * kQueriesPerWarp, kKeyTile = 64;
constexpr int kPad = 4;  // words: the 32 lanes of a fragment load touch 32 banks
constexpr float kLog2e = 1.44269504f, kLn2 = 0.69314718f;

ROOTS_DEVICE uint32_t pair_of(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}

// Elements 2 w and 2 w + 1 of a row of `width`; zeros beyond.
ROOTS_DEVICE uint32_t word_of(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t w, int64_t width) {
  const int64_t d = 2 * w;
  const float low = d < width ? value_at<float>(t, b, h, i, d) : 0.0f;
  const float high = d + 1 < width ? value_at<float>(t, b, h, i, d + 1) : 0.0f;
  return pair_of(low, high);
}

// Keys as rows of pairs along the head; values as rows of pairs of keys, one row per head element.
template <int kD>
struct Tiles {
  uint32_t keys[kKeyTile][kD / 2 + kPad];
  uint32_t values[kD][kKeyTile / 2 + kPad];

  ROOTS_DEVICE void fill(const Problem& p, int64_t b, int64_t kv, int64_t j0) {
    const int t = static_cast<int>(threadIdx.x);
    for (int at = t; at < kKeyTile * (kD / 2); at += kMmaThreads) {
      const int r = at / (kD / 2), w = at % (kD / 2);
      keys[r][w] = j0 + r < p.Tk ? word_of(p.k, b, kv, j0 + r, w, p.D) : 0;
    }
    for (int at = t; at < kKeyTile / 2 * kD; at += kMmaThreads) {
      const int d = at % kD, w = at / kD;
      const int64_t j = j0 + 2 * w;
      const float low = d < p.Dv && j < p.Tk ? value_at<float>(p.v, b, kv, j, d) : 0.0f;
      const float high = d < p.Dv && j + 1 < p.Tk ? value_at<float>(p.v, b, kv, j + 1, d) : 0.0f;
      values[d][w] = pair_of(low, high);
    }
  }
};

// One number per row from the four lanes that share it.
template <class Join>
ROOTS_DEVICE float of_row(float x, const Join& join) {
  x = join(x, __shfl_xor_sync(kAllLanes, x, 1));
  return join(x, __shfl_xor_sync(kAllLanes, x, 2));
}

template <int kD>
__global__ void __launch_bounds__(kMmaThreads) mma_forward_kernel(Problem p, int64_t tiles, int64_t jobs) {
  __shared__ Tiles<kD> shared;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int group = lane / 4, member = lane % 4;
  for (int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    // the last queries see the most keys: they start first
    const int64_t tile = tiles - 1 - job % tiles, h = job / tiles % p.H, b = job / tiles / p.H;
    const int64_t kv = h / (p.H / p.Hkv), block_first = tile * kQueriesPerBlock,
                  i0 = block_first + warp * kQueriesPerWarp;
    int64_t rows[2] = {i0 + group, i0 + group + 8};
    uint32_t query[kD / 16][4];
#pragma unroll
    for (int s = 0; s < kD / 16; ++s)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        query[s][r] =
            rows[r % 2] < p.Tq ? word_of(p.q, b, h, rows[r % 2], s * 8 + member + r / 2 * 4, p.D) : 0;
    float top[2] = {-infinity(0.0f), -infinity(0.0f)}, total[2] = {0.0f, 0.0f}, sums[kD / 8][4] = {};
    const int64_t block_last = block_first + kQueriesPerBlock < p.Tq ? block_first + kQueriesPerBlock : p.Tq,
                  first = p.first_key(b, block_first), last = p.last_key(b, block_last - 1);
    // the keys that this warp's queries may see
    const int64_t own_last = i0 < p.Tq ? p.last_key(b, i0 + 15 < p.Tq ? i0 + 15 : p.Tq - 1) : 0;
    for (int64_t j0 = first; j0 < last; j0 += kKeyTile) {
      __syncthreads();
      shared.fill(p, b, kv, j0);
      __syncthreads();
      if (j0 >= own_last) continue;
      float scores[kKeyTile / 8][4] = {};
#pragma unroll
      for (int s = 0; s < kD / 16; ++s)
#pragma unroll
        for (int n = 0; n < kKeyTile / 8; ++n) {
          const uint32_t key[2] = {shared.keys[n * 8 + group][s * 8 + member],
                                   shared.keys[n * 8 + group][s * 8 + member + 4]};
          mma<Bf16Product>(scores[n], query[s], key);
        }
      float best[2] = {top[0], top[1]};
#pragma unroll
      for (int n = 0; n < kKeyTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int64_t i = rows[e / 2], j = j0 + n * 8 + member * 2 + e % 2;
          float score = -infinity(0.0f);
          if (i < p.Tq && j < p.Tk && p.visible(b, i, j))
            score = fmaf(scores[n][e], static_cast<float>(p.scale), mask_at<float>(p, b, h, i, j)) * kLog2e;
          scores[n][e] = score;
          best[e / 2] = fmaxf(best[e / 2], score);
        }
      float keep[2], shift[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        best[r] = of_row(best[r], [](float x, float y) { return fmaxf(x, y); });
        shift[r] = best[r] == -infinity(0.0f) ? 0.0f : best[r];
        keep[r] = exp2f(top[r] - shift[r]);
        top[r] = best[r];
      }
#pragma unroll
      for (int n = 0; n < kKeyTile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[n][e] = exp2f(scores[n][e] - shift[e / 2]);
          sum[e / 2] += scores[n][e];
        }
#pragma unroll
      for (int r = 0; r < 2; ++r)
        total[r] = total[r] * keep[r] + of_row(sum[r], [](float x, float y) { return x + y; });
#pragma unroll
      for (int n = 0; n < kD / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[n][e] *= keep[e / 2];
#pragma unroll
      for (int s = 0; s < kKeyTile / 16; ++s) {
        const uint32_t weight[4] = {pair_of(scores[2 * s][0], scores[2 * s][1]),
                                    pair_of(scores[2 * s][2], scores[2 * s][3]),
                                    pair_of(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                                    pair_of(scores[2 * s + 1][2], scores[2 * s + 1][3])};
#pragma unroll
        for (int n = 0; n < kD / 8; ++n) {
          const uint32_t value[2] = {shared.values[n * 8 + group][s * 8 + member],
                                     shared.values[n * 8 + group][s * 8 + member + 4]};
          mma<Bf16Product>(sums[n], weight, value);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (rows[r] >= p.Tq) continue;
      const float inverse = total[r] == 0.0f ? 0.0f : 1.0f / total[r];
#pragma unroll
      for (int n = 0; n < kD / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int64_t d = n * 8 + member * 2 + e;
          if (d < p.Dv) store_at<float>(p.out, b, h, rows[r], d, sums[n][2 * r + e] * inverse);
        }
      if (member == 0)
        static_cast<float*>(p.lse.data)[(b * p.H + h) * p.Tq + rows[r]] =
            total[r] == 0.0f ? -infinity(0.0f) : top[r] * kLn2 + log_of(total[r]);
    }
  }
}

}  // namespace

Status attention_bf16_forward(const Context&, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                              OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse,
                              double scale, int64_t causal, int64_t window) {
  const auto fits = [](const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; };
  CHECK(fits(q) && fits(k) && fits(v) && fits(out), "needs float32 or bfloat16");
  CHECK(lse.dtype == DType::f32 && (!mask.data || mask.dtype == DType::f32), "lse and mask are float32");
  Problem p;
  if (const Status status = check_shapes(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &p))
    return status;
  if (p.B * p.H * p.Tq == 0) return nullptr;
  const int64_t widest = p.D > p.Dv ? p.D : p.Dv;
  if (widest > 128 || p.Tq <= kFewQueries) return forward_any<float>(p);
  const int64_t tiles = ceil_div(p.Tq, kQueriesPerBlock), jobs = p.B * p.H * tiles;
  return launch(widest > 64 ? mma_forward_kernel<128> : mma_forward_kernel<64>, grid_for(jobs), kMmaThreads,
                0, p, tiles, jobs);
}

}  // namespace cuda
}  // namespace roots
