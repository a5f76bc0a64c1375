// Weight-only int4: y = activation(x W^T + b), W in groups along K that share a scale (core/packed_i4.h), x
// float32; and the quantization and packing of such weights.
//
// x is rounded to 16-bit integers, a scale for each 32 of a row: q = round(x 16256 / max|x|) = 128 h + l with
// h in [-127, 127] and l in [-64, 63]. Products of bytes are then exact integers, twice as many as in a
// product of int8 activations but with 128 times their resolution:
//   sum of (w + 8) q over a block = 128 sum of (w + 8) h + sum of (w + 8) l, less 8 sum of q.
// Without VNNI this is no faster than float32 products: for many rows a thread widens some panels into the
// packed form of the float GEMM, in its own cache, and multiplies all rows with them. With AMX many rows are
// three products of bf16: x and the widened weights are split into two bf16 numbers each, and the product of
// the two small ones, 2^-16 of the whole, is left out.
#include "core/packed_i4.h"
#include "cpu/declare.h"
#include "cpu/dot.h"
#include "cpu/gemm/gemm.h"
#include "cpu/rows.h"
#if defined(__AMX_BF16__)
#include "cpu/gemm/bf16.h"
#endif

namespace roots {
#if defined(__AMX_BF16__)
namespace avx512_vnni {
decltype(ROOTS_ISA::linear_w4a16) linear_w4a16;  // for few rows
}
#endif
namespace ROOTS_ISA {
namespace {

constexpr int64_t kPanel = PackedI4::kPanel, kBlock = PackedI4::kBlock;
constexpr int64_t kRowBytes = 512 * 1024;  // of x in a chunk
constexpr int64_t kAhead = 4096;           // bytes that a stream of weights is asked for ahead of its use
constexpr int64_t kQuad = 4, kQuads = kBlock / kQuad;  // inputs to a 32-bit lane
#if defined(__AVX512VNNI__)
constexpr int kRows = 8;  // of 32 registers: 16 sums, 8 totals, and what is multiplied
#elif defined(__AVX2__)
constexpr int kRows = 3;
#else
constexpr int kRows = 2;
#endif

// A block of Rows rows of x, as the tile reads it.
template <int Rows>
struct Block {
  int8_t high[kQuads][Rows][kQuad], low[kQuads][Rows][kQuad];
  float scale[Rows];
  int32_t shift[Rows];  // -8 sum of q
};

ROOTS_INLINE Vec<int32_t> larger_of(Vec<int32_t> a, Vec<int32_t> b) { return a.v > b.v ? a.v : b.v; }

// Up to 32 elements of row `r`; the rest are zero. With a NaN or an infinity the scale is one.
template <int Rows>
ROOTS_INLINE void quantize_block(const float* from, int64_t n, int r, Block<Rows>& out) {
  using V = Vec<float>;
  using I = Vec<int32_t>;
  typedef int8_t Bytes __attribute__((vector_size(V::kWidth)));
  constexpr int kVectors = static_cast<int>(kBlock) / V::kWidth;
  V x[kVectors];
  // max|x| as the bits of a float: compared as integers, positive floats have the same order and a NaN is
  // above all
  I best = I();
  unrolled<kVectors>([&](auto j) ROOTS_INLINED {
    const int64_t left = n - j * V::kWidth;
    x[j] = left <= 0 ? V() : V::load_partial(from + j * V::kWidth, left < V::kWidth ? left : V::kWidth);
    best = larger_of(best, I((I::Raw)abs(x[j]).v));
  });
  const int32_t bits = reduce_lanes(best, larger_of);
  float top;
  __builtin_memcpy(&top, &bits, 4);
  // below this the inverse would overflow
  const bool zero = top < 1e-34f;
  const V inverse(zero ? 0.0f : 16256.0f / top);
  I sum = I();  // of nonsense when something is not finite
  int8_t high[kBlock], low[kBlock];
  unrolled<kVectors>([&](auto j) ROOTS_INLINED {
    // adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits
    const I q((I::Raw)(x[j] * inverse + V(12582912.0f)).v - 0x4B400000);
    const I h((q.v + 64) >> 7);
    sum = sum + q;
    const Bytes highs = __builtin_convertvector(h.v, Bytes);
    const Bytes lows = __builtin_convertvector(q.v - h.v * 128, Bytes);
    __builtin_memcpy(high + j * V::kWidth, &highs, sizeof highs);
    __builtin_memcpy(low + j * V::kWidth, &lows, sizeof lows);
  });
  unrolled<kQuads>([&](auto quad) ROOTS_INLINED {
    __builtin_memcpy(out.high[quad][r], high + quad * kQuad, kQuad);
    __builtin_memcpy(out.low[quad][r], low + quad * kQuad, kQuad);
  });
  out.scale[r] = zero ? 0.0f : top / 16256.0f;
  out.shift[r] = static_cast<int32_t>(0u - 8u * static_cast<uint32_t>(horizontal_sum(sum)));
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// Sums of two neighbouring products of unsigned a and signed b, in 16 bits; and of two such sums, in 32.
ROOTS_INLINE Vec<int32_t> byte_pairs(Vec<int32_t> a, Vec<int32_t> b) {
#if defined(__AVX512F__)
  return Vec<int32_t>((Vec<int32_t>::Raw)_mm512_maddubs_epi16((__m512i)a.v, (__m512i)b.v));
#else
  return Vec<int32_t>((Vec<int32_t>::Raw)_mm256_maddubs_epi16((__m256i)a.v, (__m256i)b.v));
#endif
}
ROOTS_INLINE Vec<int32_t> pair_sums(Vec<int32_t> a) {
#if defined(__AVX512F__)
  return Vec<int32_t>((Vec<int32_t>::Raw)_mm512_madd_epi16((__m512i)a.v, _mm512_set1_epi16(1)));
#else
  return Vec<int32_t>((Vec<int32_t>::Raw)_mm256_madd_epi16((__m256i)a.v, _mm256_set1_epi16(1)));
#endif
}
#endif

// A vector of the 16 scales of a group.
ROOTS_INLINE Vec<float> load_scales(const uint8_t* scales, int64_t part) {
  scales += part * Vec<float>::kWidth * 2;
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)scales)));
#elif defined(__F16C__)
  return Vec<float>((Vec<float>::Raw)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)scales)));
#else
  Vec<float>::Raw wide;
  for (int c = 0; c < Vec<float>::kWidth; ++c) {
    uint16_t bits;
    __builtin_memcpy(&bits, scales + c * 2, 2);
    wide[c] = f16_to_f32(bits);
  }
  return Vec<float>(wide);
#endif
}

// totals += the products of one block with its 16 outputs.
template <int Rows>
ROOTS_INLINE void add_block(const Block<Rows>& x, const uint8_t* w,
                            const Vec<float> (&scale)[kPanel / Vec<float>::kWidth],
                            Vec<float> (&total)[Rows][kPanel / Vec<float>::kWidth]) {
  using F = Vec<float>;
  using I = Vec<int32_t>;
  constexpr int kVectors = kPanel / F::kWidth;
  unrolled<kVectors>([&](auto part) ROOTS_INLINED {
    I sum[Rows];
#if defined(__AVX512VNNI__)
    const __m512i mask = _mm512_set1_epi8(15);
    // two chains a row, or products would wait for those before them
    __m512i high[Rows], low[Rows];
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      high[r] = _mm512_setzero_si512();
      low[r] = _mm512_set1_epi32(x.shift[r]);
    });
    unrolled<kQuads>([&](auto quad) ROOTS_INLINED {
      const __m512i bytes = _mm512_loadu_si512(w + quad / 2 * 64);
      const __m512i nibbles = _mm512_and_si512(quad % 2 ? _mm512_srli_epi16(bytes, 4) : bytes, mask);
      unrolled<Rows>([&](auto r) ROOTS_INLINED {
        dot_quads(high[r], nibbles, x.high[quad][r]);
        dot_quads(low[r], nibbles, x.low[quad][r]);
      });
    });
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      sum[r] = I((I::Raw)_mm512_add_epi32(_mm512_slli_epi32(high[r], 7), low[r]));
    });
#elif defined(__AVX2__)
    // 16-bit sums: at most 8 quads of two products of 15 by 127
    typedef int16_t Halves __attribute__((vector_size(kVectorBytes)));
    Halves high[Rows] = {}, low[Rows] = {};
    unrolled<kQuads>([&](auto quad) ROOTS_INLINED {
      const I bytes = I::load(reinterpret_cast<const int32_t*>(w + quad / 2 * 64) + part * I::kWidth);
      const I nibbles((quad % 2 ? bytes.v >> 4 : bytes.v) & 0x0f0f0f0f);
      unrolled<Rows>([&](auto r) ROOTS_INLINED {
        int32_t h, l;
        __builtin_memcpy(&h, x.high[quad][r], 4);
        __builtin_memcpy(&l, x.low[quad][r], 4);
        high[r] += (Halves)byte_pairs(nibbles, I(h)).v;
        low[r] += (Halves)byte_pairs(nibbles, I(l)).v;
      });
    });
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      const I h = pair_sums(I((I::Raw)high[r])), l = pair_sums(I((I::Raw)low[r]));
      sum[r] = I((h.v << 7) + l.v + x.shift[r]);
    });
#else
    for (int r = 0; r < Rows; ++r) sum[r] = I(x.shift[r]);
    for (int64_t quad = 0; quad < kQuads; ++quad)
      for (int64_t i = 0; i < kQuad; ++i) {
        I::Raw weights;
        for (int c = 0; c < I::kWidth; ++c) {
          const uint8_t byte = w[quad / 2 * 64 + (part * I::kWidth + c) * 4 + i];
          weights[c] = quad % 2 ? byte >> 4 : byte & 15;
        }
        for (int r = 0; r < Rows; ++r) sum[r].v += weights * (x.high[quad][r][i] * 128 + x.low[quad][r][i]);
      }
#endif
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      const F product(__builtin_convertvector(sum[r].v, F::Raw));
      total[r][part] = fma(product, scale[part] * F(x.scale[r]), total[r][part]);
    });
  });
}

// Rows rows of x times one panel: finish(row, vector of the panel, totals).
template <int Rows, class Finish>
ROOTS_INLINE void tile(const PackedI4& s, const Block<Rows>* x, const uint8_t* panel, const Finish& finish) {
  using F = Vec<float>;
  constexpr int kVectors = kPanel / F::kWidth;
  F total[Rows][kVectors] = {};
  const uint8_t* line = panel;
  for (int64_t g = 0, b = 0; g < s.groups; ++g) {
    if (g % 2 == 0) {
      line = panel;
      panel += PackedI4::kLineBytes;
    }
    F scale[kVectors];
    unrolled<kVectors>([&](auto part) ROOTS_INLINED {
      scale[part] = load_scales(line + g % 2 * PackedI4::kScaleBytes, part);
    });
    const int64_t end = b + s.group_blocks < s.blocks ? b + s.group_blocks : s.blocks;
    for (; b < end; ++b, panel += PackedI4::kBlockBytes) {
      if constexpr (Rows <= 2)
        unrolled<4>([&](auto line) ROOTS_INLINED { __builtin_prefetch(panel + kAhead + line * 64); });
      add_block<Rows>(x[b], panel, scale, total);
    }
  }
  unrolled<Rows>([&](auto r) ROOTS_INLINED {
    unrolled<kVectors>([&](auto part) ROOTS_INLINED { finish(int64_t{r}, int64_t{part}, total[r][part]); });
  });
}

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
#define ROOTS_WIDE_ROW
// One row of x times kWide panels at once, which share its broadcast quads: finish(panel, vector of the
// panel, totals), the same bits as tile<1>. Order matters: panels inside, quads outside, or GCC keeps every
// broadcast in memory.
constexpr int kWide = 4 * static_cast<int>(Vec<float>::kWidth) / static_cast<int>(kPanel);
template <class Finish>
ROOTS_INLINE void wide_row(const PackedI4& s, const Block<1>* x, const uint8_t* panels,
                           const Finish& finish) {
  using F = Vec<float>;
  using I = Vec<int32_t>;
  typedef int16_t Halves __attribute__((vector_size(kVectorBytes)));
  constexpr int kVectors = kPanel / F::kWidth, kParts = kWide * kVectors;
  const int64_t stride = s.panel_bytes();
  F total[kParts] = {}, scale[kParts];
  int64_t at = 0, line = 0;
  for (int64_t g = 0, b = 0; g < s.groups; ++g) {
    if (g % 2 == 0) {
      line = at;
      at += PackedI4::kLineBytes;
    }
    unrolled<kParts>([&](auto n) ROOTS_INLINED {
      scale[n] =
          load_scales(panels + n / kVectors * stride + line + g % 2 * PackedI4::kScaleBytes, n % kVectors);
    });
    const int64_t end = b + s.group_blocks < s.blocks ? b + s.group_blocks : s.blocks;
    for (; b < end; ++b, at += PackedI4::kBlockBytes) {
      Halves high[kParts], low[kParts];
      unrolled<kParts>([&](auto n) ROOTS_INLINED { high[n] = low[n] = Halves{}; });
      const uint8_t* w = panels + at;
      // behind the end of its panel a stream goes on after the panels of the others
      const int64_t ahead = at + kAhead < stride ? kAhead : kAhead + (kWide - 1) * stride;
#pragma GCC unroll 1
      for (int64_t piece = 0; piece < kQuads / 2; ++piece, w += 64) {
        unrolled<2>([&](auto odd) ROOTS_INLINED {
          int32_t h, l;
          __builtin_memcpy(&h, x[b].high[2 * piece + odd][0], 4);
          __builtin_memcpy(&l, x[b].low[2 * piece + odd][0], 4);
          const I hs(h), ls(l);
          unrolled<kParts>([&](auto n) ROOTS_INLINED {
            const uint8_t* from = w + n / kVectors * stride + n % kVectors * I::kWidth * 4;
            if constexpr (odd == 0 && n % kVectors == 0) __builtin_prefetch(from + ahead);
            const I bytes = I::load(reinterpret_cast<const int32_t*>(from));
            const I nibbles((odd ? bytes.v >> 4 : bytes.v) & 0x0f0f0f0f);
            high[n] += (Halves)byte_pairs(nibbles, hs).v;
            low[n] += (Halves)byte_pairs(nibbles, ls).v;
          });
        });
      }
      unrolled<kParts>([&](auto n) ROOTS_INLINED {
        const I sum((pair_sums(I((I::Raw)high[n])).v << 7) + pair_sums(I((I::Raw)low[n])).v + x[b].shift[0]);
        const F product(__builtin_convertvector(sum.v, F::Raw));
        total[n] = fma(product, scale[n] * F(x[b].scale[0]), total[n]);
      });
    }
  }
  unrolled<kParts>([&](auto n)
                       ROOTS_INLINED { finish(int64_t{n / kVectors}, int64_t{n % kVectors}, total[n]); });
}
#endif

// y for all tiles of Rows rows.
template <int Rows>
Status multiply(const Context& context, const PackedI4& s, int64_t M, int64_t N, int64_t K, const float* x,
                const uint8_t* packed, const Epilogue<float>& epilogue, float* out) {
  constexpr int64_t W = Vec<float>::kWidth;
  const int64_t tiles = ceil_div(M, Rows);
  auto* blocks = static_cast<Block<Rows>*>(
      context.workspace(context.host, 6, static_cast<size_t>(tiles * s.blocks + 1) * sizeof(Block<Rows>)));
  CHECK(blocks != nullptr, "out of memory");
  // about 16 Ki elements per chunk, so that a few rows are quantized without waking a thread
  const int64_t at_once = ceil_div(16384, Rows * K + 1);
  context.parallel_for(ceil_div(tiles, at_once), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * at_once < tiles ? (chunk + 1) * at_once : tiles;
    for (int64_t t = chunk * at_once; t < end; ++t)
      for (int r = 0; r < Rows; ++r) {
        const int64_t row = t * Rows + r;
        for (int64_t b = 0; b < s.blocks; ++b)
          quantize_block<Rows>(x + row * K + b * kBlock, row < M ? K - b * kBlock : 0, r,
                               blocks[t * s.blocks + b]);
      }
  });
  // A chunk is at most so many tiles as stay in L2, and at least a quarter of a million multiply-adds: less
  // is not worth waking a thread for.
  const int64_t in_cache = kRowBytes / (s.blocks * static_cast<int64_t>(sizeof(Block<Rows>)) + 1) + 1;
  const int64_t tiles_per_chunk = ceil_div(tiles, ceil_div(tiles, in_cache));
  const int64_t per_panel = tiles_per_chunk * Rows * K * kPanel + 1;
  const int64_t least = ceil_div(int64_t{1} << 18, per_panel);
  int64_t panels_per_chunk = ceil_div(int64_t{1} << 22, per_panel);
  const int64_t quarter = ceil_div(s.panels, 4);
  if (panels_per_chunk > quarter) panels_per_chunk = quarter > least ? quarter : least;
  const int64_t row_chunks = ceil_div(tiles, tiles_per_chunk);
  context.parallel_for(row_chunks * ceil_div(s.panels, panels_per_chunk), [&](int64_t chunk) {
    const int64_t p0 = chunk / row_chunks * panels_per_chunk, t0 = chunk % row_chunks * tiles_per_chunk;
    const int64_t p1 = p0 + panels_per_chunk < s.panels ? p0 + panels_per_chunk : s.panels;
    const int64_t t1 = t0 + tiles_per_chunk < tiles ? t0 + tiles_per_chunk : tiles;
    const auto store = [&](int64_t row, int64_t j, Vec<float> total) ROOTS_INLINED {
      if (row >= M || j >= N) return;
      const int64_t m = N - j < W ? N - j : W;
      epilogue.finish(total, row * N + j, j, m).store_partial(out + row * N + j, m);
    };
    int64_t p = p0;
#if defined(ROOTS_WIDE_ROW)
    if constexpr (Rows == 1)
      for (; M == 1 && p + kWide <= p1; p += kWide)
        wide_row(s, blocks, packed + p * s.panel_bytes(),
                 [&](int64_t panel, int64_t part, Vec<float> total)
                     ROOTS_INLINED { store(0, (p + panel) * kPanel + part * W, total); });
#endif
    // a tile stays in L1 while the panels of the chunk pass by
    const int64_t first = p;
    for (int64_t t = t0; t < t1; ++t)
      for (p = first; p < p1; ++p)
        tile<Rows>(s, blocks + t * s.blocks, packed + p * s.panel_bytes(),
                   [&](int64_t r, int64_t part, Vec<float> total)
                       ROOTS_INLINED { store(t * Rows + r, p * kPanel + part * W, total); });
  });
  return nullptr;
}

template <int Rows = kRows>
ROOTS_INLINE Status dispatch(int64_t rows, const Context& context, const PackedI4& s, int64_t M, int64_t N,
                             int64_t K, const float* x, const uint8_t* packed,
                             const Epilogue<float>& epilogue, float* out) {
  if constexpr (Rows > 1)
    if (rows < Rows) return dispatch<Rows - 1>(rows, context, s, M, N, K, x, packed, epilogue, out);
  return multiply<Rows>(context, s, M, N, K, x, packed, epilogue, out);
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

#if defined(__AMX_BF16__)
constexpr int64_t kVectorRows = 95;  // up to so many are faster by vectors

// The three products are one with three times as many k: for each block of 32, x large, x large, x small
// times weights large, small, large.
constexpr int64_t kParts = 3;

// What a bf16 number leaves of x; nothing of an infinity.
ROOTS_INLINE Vec<float> small_part(Vec<float> x, Vec<float> large) {
  const Vec<float> rest = x - large;
  return select<float>(rest != rest, Vec<float>(), rest);
}

struct SplitRows {
  static constexpr bool kInPlace = false;
  const float* x;
  int64_t K;
  ROOTS_INLINE void operator()(int64_t i0, int64_t rows, int64_t k0, int64_t depth, uint32_t* out) const {
    using V = Vec<float>;
    const int64_t halves = rows > kTileSide ? 2 : 1;
    for (int64_t k = 0; k < depth; k += kBlock) {
      const int64_t block = (k0 + k) / kBlock, from = block / kParts * kBlock;
      const bool small = block % kParts == 2;
      for (int64_t r = 0; r < halves * kTileSide; ++r, out += kBlock / 2) {
        V part[2] = {};
        unrolled<2>([&](auto h) ROOTS_INLINED {
          const int64_t at = from + h * V::kWidth, n = K - at < V::kWidth ? K - at : V::kWidth;
          if (r >= rows || n <= 0) return;
          const V value = V::load_partial(x + (i0 + r) * K + at, n), large = rounded_to_bf16(value);
          part[h] = small ? small_part(value, large) : large;
        });
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh((__m512)part[1].v, (__m512)part[0].v));
      }
    }
  }
};

struct SplitWeights {
  static constexpr bool kInPlace = false;
  const uint8_t* packed;
  PackedI4 shape;
  ROOTS_INLINE void operator()(int64_t j0, int64_t, int64_t k0, int64_t depth, uint32_t* out) const {
    constexpr int64_t kWords = kBlock / 2 * kAmxColumns;
    for (int64_t k = 0; k < depth;) {
      // the parts of one block that are wanted: all three where they are
      const int64_t first = (k0 + k) / kBlock % kParts, b = (k0 + k) / kBlock / kParts;
      const int64_t left = (depth - k) / kBlock, parts = left < kParts - first ? left : kParts - first;
      for (int64_t half = 0; half < 2; ++half)
        widen(b, j0 / kPanel + half, first, parts, out + half * kPanel);
      k += parts * kBlock;
      out += parts * kWords;
    }
  }

 private:
  // Block b of panel p: `parts` of large, small, large from `first` on.
  ROOTS_INLINE void widen(int64_t b, int64_t p, int64_t first, int64_t parts, uint32_t* out) const {
    using V = Vec<float>;
    using I = Vec<int32_t>;
    typedef uint32_t Words __attribute__((vector_size(sizeof(V))));
    static_assert(kPanel == V::kWidth, "a vector is a panel");
    const auto store = [&](int64_t part, int64_t pair, Words words) ROOTS_INLINED {
      const int64_t at = ((part - first) * (kBlock / 2) + pair) * kAmxColumns;
      if (part >= first && part < first + parts) V((V::Raw)words).store(reinterpret_cast<float*>(out) + at);
    };
    if (p >= shape.panels) {  // a tile may reach beyond the last panel
      for (int64_t part = 0; part < kParts; ++part)
        for (int64_t pair = 0; pair < kBlock / 2; ++pair) store(part, pair, Words{});
      return;
    }
    const uint8_t* panel = packed + p * shape.panel_bytes();
    const V scale = load_scales(panel + shape.scales_at(b / shape.group_blocks), 0);
    const V zero = scale * V(-8.0f);
    for (int64_t line = 0; line < kBlock / 8; ++line) {
      // nibbles of eight inputs: the low ones of four bytes, then the high ones
      const auto lanes = I::load(reinterpret_cast<const int32_t*>(panel + shape.block_at(b) + line * 64)).v;
      Words large[8], small[8];
      unrolled<8>([&](auto e) ROOTS_INLINED {
        const auto nibble = lanes >> static_cast<int32_t>(e % 4 * 8 + e / 4 * 4) & 15;
        const V value = fma(V(__builtin_convertvector(nibble, V::Raw)), scale, zero),
                most = rounded_to_bf16(value);
        large[e] = (Words)most.v;
        small[e] = (Words)rounded_to_bf16(small_part(value, most)).v;
      });
      unrolled<4>([&](auto g) ROOTS_INLINED {
        const Words two = large[2 * g] >> 16 | large[2 * g + 1];
        store(0, line * 4 + g, two);
        store(1, line * 4 + g, small[2 * g] >> 16 | small[2 * g + 1]);
        store(2, line * 4 + g, two);
      });
    }
  }
};
#endif

#if !defined(__AVX512VNNI__)
constexpr int64_t kRoundedRows = 8;      // more are multiplied as float32
constexpr int64_t kWidenedColumns = 64;  // widened at a time by one thread

// Widens panels, times their scales, into panels of the float GEMM.
struct PackWidened {
  static constexpr bool kInPlace = false;
  const uint8_t* packed;
  PackedI4 shape;
  int64_t first;  // column of the product's first
  ROOTS_INLINE void operator()(int64_t j0, int64_t, int64_t k0, int64_t depth, float* out) const {
    using V = Vec<float>;
    using I = Vec<int32_t>;
    constexpr int64_t kColumns = kTileColumns<float>;
    unrolled<kTileVectors>([&](auto v) ROOTS_INLINED {
      const int64_t n = first + j0 + v * V::kWidth;
      float* to = out + v * V::kWidth;
      if (n / kPanel >= shape.panels) {  // a tile may reach beyond the last panel
        for (int64_t k = 0; k < depth; ++k) V().store(to + k * kColumns);
        return;
      }
      const uint8_t* panel = packed + n / kPanel * shape.panel_bytes();
      for (int64_t k = 0; k < depth;) {
        const int64_t i = k0 + k, b = i / kBlock;
        const V scale = load_scales(panel + shape.scales_at(b / shape.group_blocks), n % kPanel / V::kWidth);
        const V zero = scale * V(-8.0f);
        const uint8_t* block = panel + shape.block_at(b) + n % kPanel * 4;
        const int64_t end = (b + 1) * kBlock - k0 < depth ? (b + 1) * kBlock - k0 : depth;
        while (k < end) {
          const int64_t e = (k0 + k) % 8;
          const auto lanes = I::load(reinterpret_cast<const int32_t*>(block + (k0 + k) % kBlock / 8 * 64)).v;
          const int64_t count = 8 - e < end - k ? 8 - e : end - k;
          for (int64_t j = 0; j < count; ++j, ++k) {
            const int64_t input = e + j;  // its nibble: the low ones of four bytes, then the high ones
            const auto nibble = lanes >> static_cast<int32_t>(input % 4 * 8 + input / 4 * 4) & 15;
            fma(V(__builtin_convertvector(nibble, V::Raw)), scale, zero).store(to + k * kColumns);
          }
        }
      }
    });
  }
};
#endif

}  // namespace

// w (N, K) float32 -> q (N, K) int8 in [-8, 7], scale (N, ceil(K / group)): w ~ q scale. The range max|w|
// / 7.5, as in compressed-tensors, is shrunk in `steps` down to 1 - max_shrink; the least squared error wins.
// Scales are float16 numbers. A group of zeros gets scale 1.
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
        float best = i4_scale(top > 0 ? top / 7.5f : 1.0f);
        if (top > 0 && steps > 0) {
          float least = group_error(from, n, best);
          for (int64_t k = 1; k <= steps; ++k) {
            const float candidate = i4_scale(
                top / 7.5f *
                static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps)));
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

// q (N, K) int8 in [-8, 7] and scale (N, ceil(K / group)) <-> packed (core/packed_i4.h), which rounds scales
// to float16. unpack = 1 restores what was packed.
Status linear_i4_pack(const Context& context, Tensor q, Tensor scale, Tensor packed, int64_t group,
                      int64_t unpack) {
  if (const Status status = check_i4_pack(q, scale, packed, group)) return status;
  const int64_t N = q.shape[0], K = q.shape[1];
  const PackedI4 s(N, K, group);
  auto* bytes = data<uint8_t>(packed);
  for_rows(context, s.panels, kPanel * K, [&](int64_t begin, int64_t end) {
    if (!unpack)
      __builtin_memset(bytes + begin * s.panel_bytes(), 0,
                       static_cast<size_t>((end - begin) * s.panel_bytes()));
    for (int64_t n = begin * kPanel; n < end * kPanel; ++n) {
      if (n >= N && unpack) break;
      for (int64_t g = 0; g < s.groups && n < N; ++g) {
        float& mine = data<float>(scale)[n * s.groups + g];
        if (unpack) {
          mine = s.scale(bytes, n, g);
        } else {
          const uint16_t bits = f32_to_f16(mine);
          __builtin_memcpy(bytes + s.scale_at(n, g), &bits, 2);
        }
      }
      for (int64_t k = 0; k < s.blocks * kBlock; ++k) {
        uint8_t& byte = bytes[s.byte_at(n, k)];
        const int shift = PackedI4::high(k) ? 4 : 0;
        const bool inside = n < N && k < K;
        if (!unpack)
          byte = static_cast<uint8_t>(byte | (inside ? data<int8_t>(q)[n * K + k] + 8 : 8) << shift);
        else if (inside)
          data<int8_t>(q)[n * K + k] = static_cast<int8_t>(s.value(bytes, n, k));
      }
    }
  });
  return nullptr;
}

// y = gate * activation(x W^T + b) + residual: x (M, K) float32, packed and group as above.
Status linear_w4a16(const Context& context, Tensor x, Tensor packed, OptionalTensor bias, OptionalTensor gate,
                    OptionalTensor residual, Tensor out, int64_t group, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  if (const Status status = check_linear_i4(x, packed, out, end, group)) return status;
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  const PackedI4 s(N, K, group);
  if (M == 0 || N == 0) return nullptr;
  const Epilogue<float> epilogue(end);
#if defined(__AMX_BF16__)
  if (M > kVectorRows && K > 0)
    return gemm_packed<HalfPanels, false>(
        context, M, N, kParts * s.blocks * kBlock, SplitRows{data<float>(x), K},
        SplitWeights{data<const uint8_t>(packed), s}, data<float>(out), N, epilogue);
  return avx512_vnni::linear_w4a16(context, x, packed, bias, gate, residual, out, group, activation);
#else
#if !defined(__AVX512VNNI__)
  if (M > kRoundedRows && K > 0) {
    const PackRows<float> rows{{data<float>(x), K, 1}};
    return for_columns(context, N, kWidenedColumns, [&](int64_t j0, int64_t n) {
      const PackWidened widened{data<const uint8_t>(packed), s, j0};
      return gemm_packed<PlainPanels<float>, true>(context, M, n, K, rows, widened, data<float>(out) + j0, N,
                                                   epilogue.from(j0));
    });
  }
#endif
  // tiles of equal height
  const int64_t rows = ceil_div(M, ceil_div(M, kRows));
  return dispatch(rows, context, s, M, N, K, data<float>(x), data<const uint8_t>(packed), epilogue,
                  data<float>(out));
#endif
}

}  // namespace ROOTS_ISA
}  // namespace roots
