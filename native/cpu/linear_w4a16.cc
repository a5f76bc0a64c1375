// Weight-only int4: y = activation(x W^T + b), W in groups along K that share a scale, x float32; and the
// quantization and packing of such weights.
//
// Packed: rows of ceil(K / 32) blocks of 16 bytes. In a block the low nibble of byte j is weight j + 8, the
// high nibble weight 16 + j + 8, so that a vector of bytes gives two vectors of neighbours. The 8 is taken
// back once per group, by the sum of x over it.
#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kBlock = 32, kBytes = kBlock / 2;
constexpr int64_t kFew = 5;              // rows of x that stream the weights; more widen them first
constexpr int64_t kWidenedColumns = 64;  // widened at a time by one thread, into its own cache

// One vector of bytes as numbers.
ROOTS_INLINE Vec<int32_t> widen(const uint8_t* p) {
  using V = Vec<int32_t>;
#if defined(__AVX512F__)
  return V((V::Raw)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return V((V::Raw)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  typedef uint8_t Bytes __attribute__((vector_size(V::kWidth)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return V(__builtin_convertvector(bytes, V::Raw));
#endif
}
ROOTS_INLINE Vec<float> to_float(Vec<int32_t> x) {
  return Vec<float>(__builtin_convertvector(x.v, Vec<float>::Raw));
}

// sum of (weight + 8) x over some blocks of two rows, times their scales, added to total.
ROOTS_INLINE void add_group(const uint8_t* const (&rows)[2], const float* x, int64_t blocks,
                            const float (&scale)[2], Vec<float> (&total)[2]) {
  using V = Vec<float>;
  constexpr int64_t W = V::kWidth;
  V low[2], high[2];
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t h = 0; h < kBytes; h += W) {
      const V first = V::load(x + b * kBlock + h), second = V::load(x + b * kBlock + kBytes + h);
      unrolled<2>([&](auto r) {
        const Vec<int32_t> bytes = widen(rows[r] + b * kBytes + h);
        low[r] = fma(to_float(Vec<int32_t>(bytes.v & 15)), first, low[r]);
        high[r] = fma(to_float(Vec<int32_t>(bytes.v >> 4)), second, high[r]);
      });
    }
  unrolled<2>([&](auto r) { total[r] = fma(V(scale[r]), low[r] + high[r], total[r]); });
}

struct Shape {
  int64_t N, K, blocks, groups, group_blocks;
  ROOTS_INLINE int64_t blocks_of(int64_t g) const {
    const int64_t left = blocks - g * group_blocks;
    return left < group_blocks ? left : group_blocks;
  }
};

// x padded with zeros to whole blocks, and its sum over each group times 8.
ROOTS_INLINE void prepare_row(const float* x, const Shape& s, float* padded, float* sums) {
  for (int64_t k = 0; k < s.blocks * kBlock; ++k) padded[k] = k < s.K ? x[k] : 0.0f;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t from = g * s.group_blocks * kBlock, to = from + s.blocks_of(g) * kBlock;
    float sum = 0;
    for (int64_t k = from; k < to; ++k) sum += padded[k];
    sums[g] = 8.0f * sum;
  }
}

ROOTS_INLINE int8_t nibble(const uint8_t* row, int64_t k) {
  const uint8_t byte = row[k / kBlock * kBytes + k % kBytes];
  return static_cast<int8_t>((k % kBlock < kBytes ? byte & 15 : byte >> 4) - 8);
}

// Rows [j0, j0 + n) as float32 (n, K).
ROOTS_INLINE void widen_rows(const uint8_t* packed, const float* scale, const Shape& s, int64_t j0, int64_t n,
                             float* out) {
  using V = Vec<float>;
  for (int64_t j = 0; j < n; ++j) {
    const uint8_t* row = packed + (j0 + j) * s.blocks * kBytes;
    float* to = out + j * s.K;
    for (int64_t b = 0; b < s.blocks; ++b) {
      const float factor = scale[(j0 + j) * s.groups + b / s.group_blocks];
      const int64_t left = s.K - b * kBlock;
      const V f(factor), offset(-8.0f * factor);
      for (int64_t h = 0; h < kBytes; h += V::kWidth) {
        const Vec<int32_t> bytes = widen(row + b * kBytes + h);
        const V low = fma(to_float(Vec<int32_t>(bytes.v & 15)), f, offset);
        const V high = fma(to_float(Vec<int32_t>(bytes.v >> 4)), f, offset);
        const int64_t first = left - h, second = left - kBytes - h;
        float* o = to + b * kBlock + h;
        low.store_partial(o, first < 0 ? 0 : first < V::kWidth ? first : V::kWidth);
        high.store_partial(o + kBytes, second < 0 ? 0 : second < V::kWidth ? second : V::kWidth);
      }
    }
  }
}

// The sum of squared errors of one group at a scale.
ROOTS_INLINE float group_error(const float* w, int64_t n, float scale) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    float q = w[i] / scale;
    q = q > 7.0f ? 7.0f : q < -8.0f ? -8.0f : q;
    const float e = w[i] - ((q + 12582912.0f) - 12582912.0f) * scale;
    sum += e * e;
  }
  return sum;
}

}  // namespace

// w (N, K) float32 -> q (N, K) int8 in [-8, 7], scale (N, ceil(K / group)): w ~ q scale. The range max|w|
// / 7.5, as in compressed-tensors, is shrunk in `steps` down to 1 - max_shrink; the least squared error wins.
// A group of zeros gets scale 1.
Status quantize_weight_i4(const Context& context, Tensor w, Tensor q, Tensor scale, int64_t group,
                          int64_t steps, double max_shrink) {
  CHECK(w.rank == 2 && w.dtype == DType::f32 && is_contiguous(w), "w must be a contiguous float32 matrix");
  CHECK(q.dtype == DType::i8 && same_shape(w, q) && is_contiguous(q), "q must be int8, like w");
  CHECK(group > 0, "group must be positive");
  const int64_t N = w.shape[0], K = w.shape[1], groups = ceil_div(K, group);
  CHECK(scale.dtype == DType::f32 && scale.rank == 2 && scale.shape[0] == N && scale.shape[1] == groups &&
            is_contiguous(scale),
        "scale must be (N, groups)");
  for_rows(context, N, K * (steps + 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t n = K - g * group < group ? K - g * group : group;
        const float* from = data<float>(w) + r * K + g * group;
        int8_t* to = data<int8_t>(q) + r * K + g * group;
        float top = 0;
        for (int64_t i = 0; i < n; ++i) {
          const float a = from[i] < 0 ? -from[i] : from[i];
          top = a > top ? a : top;
        }
        float best = top > 0 ? top / 7.5f : 1.0f;
        if (best < 1.2e-38f) best = 1.2e-38f;  // below this a float32 scale would be a denormal
        if (top > 0 && steps > 0) {
          float least = group_error(from, n, best);
          for (int64_t k = 1; k <= steps; ++k) {
            const float candidate =
                top / 7.5f *
                static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps));
            const float error = group_error(from, n, candidate);
            if (error < least) {
              least = error;
              best = candidate;
            }
          }
        }
        data<float>(scale)[r * groups + g] = best;
        for (int64_t i = 0; i < n; ++i) {
          float x = from[i] / best;
          x = x > 7.0f ? 7.0f : x < -8.0f ? -8.0f : x;
          to[i] = static_cast<int8_t>((x + 12582912.0f) - 12582912.0f);
        }
      }
  });
  return nullptr;
}

// q (N, K) int8 in [-8, 7] <-> packed (N, ceil(K / 32) * 16) uint8. unpack = 1 restores the weights exactly.
Status linear_i4_pack(const Context& context, Tensor q, Tensor packed, int64_t unpack) {
  CHECK(q.rank == 2 && q.dtype == DType::i8 && is_contiguous(q), "q must be a contiguous int8 matrix");
  const int64_t N = q.shape[0], K = q.shape[1], bytes = ceil_div(K, kBlock) * kBytes;
  CHECK(packed.rank == 2 && packed.dtype == DType::u8 && is_contiguous(packed) && packed.shape[0] == N &&
            packed.shape[1] == bytes,
        "packed must be uint8 (N, bytes of whole blocks)");
  for_rows(context, N, K, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int8_t* row = data<int8_t>(q) + r * K;
      uint8_t* to = data<uint8_t>(packed) + r * bytes;
      if (unpack) {
        for (int64_t k = 0; k < K; ++k) row[k] = nibble(to, k);
        continue;
      }
      for (int64_t i = 0; i < bytes; ++i) {
        const int64_t k = i / kBytes * kBlock + i % kBytes;
        const int low = k < K ? row[k] : 0, high = k + kBytes < K ? row[k + kBytes] : 0;
        to[i] = static_cast<uint8_t>(((low + 8) & 15) | (((high + 8) & 15) << 4));
      }
    }
  });
  return nullptr;
}

// y = activation(x W^T + b): x (M, K) float32, packed and scale as above, group a multiple of 32.
Status linear_w4a16(const Context& context, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                    Tensor out, int64_t group, int64_t activation) {
  CHECK(x.rank == 2 && out.rank == 2 && x.shape[0] == out.shape[0], "needs matrices");
  CHECK(x.dtype == DType::f32 && out.dtype == DType::f32 && scale.dtype == DType::f32, "needs float32");
  CHECK(is_contiguous(x) && is_contiguous(out) && is_contiguous(scale), "needs contiguous tensors");
  CHECK(group > 0 && group % kBlock == 0, "group must be a multiple of 32");
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  const Shape s{N, K, ceil_div(K, kBlock), ceil_div(K, group), group / kBlock};
  CHECK(packed.dtype == DType::u8 && packed.rank == 2 && packed.shape[0] == N &&
            packed.shape[1] == s.blocks * kBytes && is_contiguous(packed),
        "packed has the wrong size");
  CHECK(scale.rank == 2 && scale.shape[0] == N && scale.shape[1] == s.groups,
        "one scale per output and group");
  CHECK(!bias.data || (bias.dtype == DType::f32 && numel(bias) == N && is_contiguous(bias)),
        "one bias per output");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  if (M == 0 || N == 0) return nullptr;
  Epilogue<float> epilogue;
  epilogue.bias = static_cast<const float*>(bias.data);
  epilogue.activation = static_cast<Activation>(activation);
  const auto* weights = data<const uint8_t>(packed);
  const auto* scales = data<const float>(scale);
  if (M > kFew && K > 0)
    return for_columns(context, N, kWidenedColumns, [&](int64_t j0, int64_t n) -> Status {
      auto* wide = static_cast<float*>(
          context.scratch(context.host, 6, static_cast<size_t>(kWidenedColumns * K) * sizeof(float)));
      CHECK(wide, "out of memory");
      widen_rows(weights, scales, s, j0, n, wide);
      return gemm<float, true>(context, M, n, K, {data<float>(x), K, 1}, {wide, 1, K}, data<float>(out) + j0,
                               N, epilogue.from(j0));
    });
  const int64_t padded = s.blocks * kBlock;
  auto* rows = static_cast<float*>(
      context.workspace(context.host, 6, static_cast<size_t>(M * (padded + s.groups) + 64) * sizeof(float)));
  CHECK(rows != nullptr, "out of memory");
  float* sums = rows + M * padded;
  for (int64_t m = 0; m < M; ++m)
    prepare_row(data<float>(x) + m * K, s, rows + m * padded, sums + m * s.groups);
  const int64_t per_chunk = (ceil_div(131072, padded + 1) + 1) / 2 * 2;
  context.parallel_for(ceil_div(N, per_chunk), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < N ? (chunk + 1) * per_chunk : N;
    for (int64_t j = chunk * per_chunk; j < end; j += 2) {
      // the last of an odd number of rows is computed twice
      const int64_t second = j + 1 < end ? j + 1 : j;
      for (int64_t m = 0; m < M; ++m) {
        Vec<float> total[2];
        float shift[2] = {0, 0};
        for (int64_t g = 0; g < s.groups; ++g) {
          const int64_t at = g * s.group_blocks * kBytes;
          const uint8_t* const pair[2] = {weights + j * s.blocks * kBytes + at,
                                          weights + second * s.blocks * kBytes + at};
          const float factor[2] = {scales[j * s.groups + g], scales[second * s.groups + g]};
          add_group(pair, rows + m * padded + g * s.group_blocks * kBlock, s.blocks_of(g), factor, total);
          for (int r = 0; r < 2; ++r) shift[r] += factor[r] * sums[m * s.groups + g];
        }
        float* y = data<float>(out) + m * N;
        y[j] = horizontal_sum(total[0]) - shift[0];
        if (second != j) y[second] = horizontal_sum(total[1]) - shift[1];
      }
    }
    if (!epilogue.empty())
      for (int64_t m = 0; m < M; ++m)
        epilogue.apply(data<float>(out) + m * N + chunk * per_chunk, 0, chunk * per_chunk,
                       end - chunk * per_chunk);
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
