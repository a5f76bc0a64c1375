// The int8 product: packed weights (N, K) times quantized activations (M, K), exact int32 sums.
//
// One packed layout for every instruction set: [N / 32][K / 4][32][4] int8, zero-padded, so that four
// neighbouring k of one output lie in one 32-bit lane, as the dot-product instructions want them. Then N sums
// of each output's weights (int32), which undo the +128 offset of activations where the instruction needs
// them unsigned.
#pragma once

#include "core/tensor.h"
#include "cpu/dot.h"
#include "cpu/isa.h"
#include "cpu/layout.h"
#include "cpu/simd.h"
#if defined(__AMX_INT8__)
#include "cpu/gemm/amx.h"
#endif

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kPanel = 32;  // outputs per panel: two AVX-512 vectors of int32
constexpr int64_t kQuad = 4;    // k per 32-bit lane
// With so few rows weights come from memory faster than the processor foresees: they are asked for ahead.
constexpr int kStreamedRows = 2;
constexpr int64_t kAhead = 4096;

struct PackedShape {
  int64_t panels, quads;
  ROOTS_INLINE PackedShape(int64_t n, int64_t k)
      : panels((n + kPanel - 1) / kPanel), quads((k + kQuad - 1) / kQuad) {}
  ROOTS_INLINE int64_t panel_bytes() const { return quads * kPanel * kQuad; }
  ROOTS_INLINE int64_t weight_bytes() const { return panels * panel_bytes(); }
  ROOTS_INLINE int64_t total_bytes() const { return weight_bytes() + panels * kPanel * 4; }
};

// Activations as the tiles read them.
#if defined(__AMX_INT8__)
constexpr bool kUnsignedActivations = false;
using Activation8 = int8_t;
constexpr int kI8Rows = kAmxRows;
constexpr int64_t kVectorRows = 4;  // up to so many are multiplied by vectors
#elif defined(__AVX512VNNI__)
constexpr bool kUnsignedActivations = true;  // vpdpbusd multiplies unsigned by signed
using Activation8 = uint8_t;
constexpr int kI8Rows = 14;  // of 32 registers: 28 sums, 2 of weights, 1 of activations
#elif defined(__AVX2__)
// The byte product of AVX2 saturates, so products are of 16-bit numbers: twice the rate of float32, exactly.
// Activations are widened once, when they are packed; weights by every tile.
constexpr bool kUnsignedActivations = false;
using Activation8 = int16_t;
constexpr int kI8Rows = 6;  // of 16 registers: 12 sums, 2 of weights, 1 of activations, 1 product
#else
constexpr bool kUnsignedActivations = false;
using Activation8 = int8_t;
constexpr int kI8Rows = 2;
#endif

#if defined(__AVX512VNNI__) && !defined(__AMX_INT8__)
// Sums of Rows rows of a tile against one panel: out[r][0..32). load(q, half) gives quad q of 16 outputs.
template <int Rows, class Load>
ROOTS_INLINE void vnni_tile(int64_t quads, const Activation8* a, int64_t stride, const Load& load,
                            const int32_t* sums, int32_t (*out)[kPanel]) {
  __m512i low[Rows], high[Rows];
  unrolled<Rows>([&](auto r) ROOTS_INLINED { low[r] = high[r] = _mm512_setzero_si512(); });
  for (int64_t q = 0; q < quads; ++q, a += stride) {
    const __m512i b0 = load(q, 0), b1 = load(q, 1);
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      int32_t quad;
      __builtin_memcpy(&quad, a + r * kQuad, 4);
      const __m512i x = _mm512_set1_epi32(quad);
      dot_quads(low[r], x, b0);
      dot_quads(high[r], x, b1);
    });
  }
  const __m512i s0 = _mm512_slli_epi32(_mm512_loadu_si512(sums), 7);
  const __m512i s1 = _mm512_slli_epi32(_mm512_loadu_si512(sums + 16), 7);
  unrolled<Rows>([&](auto r) ROOTS_INLINED {
    _mm512_storeu_si512(out[r], _mm512_sub_epi32(low[r], s0));
    _mm512_storeu_si512(out[r] + 16, _mm512_sub_epi32(high[r], s1));
  });
}
#endif

#if defined(__AVX2__) && !defined(__AVX512VNNI__)
// As assembly, in this order: GCC 12 fetches all activations of a quad first and then lacks registers for the
// sums, which go through memory.
ROOTS_INLINE __m256i broadcast_quad(const Activation8* a) {
  __m256i quad;
  __asm__ volatile("vpbroadcastq %1, %0" : "=x"(quad) : "m"(*reinterpret_cast<const int64_t*>(a)));
  return quad;
}
// sum + products of 16-bit numbers, two to a lane.
ROOTS_INLINE __m256i dot_pairs(__m256i sum, __m256i a, __m256i b) {
  __m256i product;
  __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
  return sum;
}

// A panel as 16-bit numbers, for tiles of many rows: strips of eight outputs, each one stream.
constexpr int64_t kStrip = 8;
ROOTS_INLINE void widen_panel(int64_t quads, const int8_t* panel, int16_t* to) {
  for (int64_t strip = 0; strip < kPanel / kStrip; ++strip)
    for (int64_t q = 0; q < quads; ++q)
      for (int64_t half = 0; half < 2; ++half, to += 16)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(
                                panel + q * kPanel * kQuad + strip * kStrip * kQuad + half * 16))));
}
#endif

#if !defined(__AMX_INT8__)
// Sums of Rows rows of a tile against one panel: out[r][0..32). Wide: a panel of widen_panel().
template <int Rows, bool Wide = false>
ROOTS_INLINE void i8_tile(int64_t quads, const Activation8* a, int64_t stride, const int8_t* panel,
                          const int32_t* sums, int32_t (*out)[kPanel]) {
#if defined(__AVX512VNNI__)
  vnni_tile<Rows>(
      quads, a, stride,
      [&](int64_t q, int64_t half) {
        const int8_t* line = panel + q * 128 + half * 64;
        if constexpr (Rows <= kStreamedRows) __builtin_prefetch(line + kAhead);
        return _mm512_loadu_si512(line);
      },
      sums, out);
#elif defined(__AVX2__)
  (void)sums;
  // Vectors of four outputs at a time; few rows take whole lines of the panel, which then is one stream. A
  // chain of sums is an addition long, one cycle, so that a few of them suffice.
  constexpr int kVectors = Rows == 1 ? 8 : Rows == 2 ? 4 : 2;
  for (int64_t from = 0; from < kPanel; from += 4 * kVectors) {
    __m256i acc[Rows * kVectors];
    unrolled<Rows * kVectors>([&](auto n) ROOTS_INLINED { acc[n] = _mm256_setzero_si256(); });
    const Activation8* x = a;
    const int64_t strip_size = quads * kStrip * kQuad;
    const int16_t* wide = reinterpret_cast<const int16_t*>(panel) + from / kStrip * strip_size;
    const int8_t* b = panel + from * kQuad;
    for (int64_t q = 0; q < quads; ++q, x += stride, b += kPanel * kQuad, wide += kStrip * kQuad) {
      if constexpr (Rows == 1 && !Wide) {
        __builtin_prefetch(b + kAhead);
        __builtin_prefetch(b + kAhead + 64);
      }
      const auto weights = [&](int j) {
        if constexpr (Wide)
          return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(wide + j / 2 * strip_size + j % 2 * 16));
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + j * 16)));
      };
      if constexpr (Rows <= 2) {
        __m256i rows[Rows];
        unrolled<Rows>([&](auto r) ROOTS_INLINED { rows[r] = broadcast_quad(x + r * kQuad); });
        unrolled<kVectors>([&](auto j) ROOTS_INLINED {
          const __m256i w = weights(j);
          unrolled<Rows>([&](auto r) ROOTS_INLINED {
            acc[r * kVectors + j] = dot_pairs(acc[r * kVectors + j], rows[r], w);
          });
        });
      } else {
        __m256i w[kVectors];
        unrolled<kVectors>([&](auto j) ROOTS_INLINED { w[j] = weights(j); });
        unrolled<Rows>([&](auto r) ROOTS_INLINED {
          const __m256i v = broadcast_quad(x + r * kQuad);
          unrolled<kVectors>([&](auto j) ROOTS_INLINED {
            acc[r * kVectors + j] = dot_pairs(acc[r * kVectors + j], v, w[j]);
          });
        });
      }
    }
    // each output has two sums side by side
    unrolled<Rows * kVectors / 2>([&](auto n) ROOTS_INLINED {
      constexpr int r = decltype(n)::value / (kVectors / 2), j = decltype(n)::value % (kVectors / 2) * 2;
      const __m256i joined = _mm256_hadd_epi32(acc[r * kVectors + j], acc[r * kVectors + j + 1]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[r] + from + j * 4),
                          _mm256_permute4x64_epi64(joined, 0xd8));
    });
  }
#else
  (void)sums;
  for (int r = 0; r < Rows; ++r)
    for (int64_t c = 0; c < kPanel; ++c) out[r][c] = 0;
  for (int64_t q = 0; q < quads; ++q)
    for (int r = 0; r < Rows; ++r) {
      int8_t x[4];
      __builtin_memcpy(x, a + q * stride + r * kQuad, 4);
      for (int64_t c = 0; c < kPanel; ++c) {
        const int8_t* b = panel + q * 128 + c * 4;
        out[r][c] += x[0] * b[0] + x[1] * b[1] + x[2] * b[2] + x[3] * b[3];
      }
    }
#endif
}

#endif

#if defined(__AMX_INT8__)
// Sums of up to kI8Rows rows of a tile against one panel.
template <int Pairs>
ROOTS_INLINE void amx_tile(int64_t quads, const Activation8* a, const int8_t* panel, int32_t (*out)[kPanel]) {
  unrolled<2 * Pairs>([&](auto t) ROOTS_INLINED { tile_zero<t>(); });
  tile_products<Pairs, true>(quads, a, panel);
  unrolled<2 * Pairs>(
      [&](auto t) ROOTS_INLINED { tile_store<t>(out[t / 2 * kTileSide] + t % 2 * kTileSide, kPanel * 4); });
}
// `height` rows, 16 or 32; there are no sums to undo.
ROOTS_INLINE void i8_tile_dispatch(int64_t, int64_t quads, const Activation8* a, int64_t height,
                                   const int8_t* panel, const int32_t*, int32_t (*out)[kPanel]) {
  height == kTileSide ? amx_tile<1>(quads, a, panel, out) : amx_tile<2>(quads, a, panel, out);
}
#else
template <int Rows, bool Wide>
void i8_tile_rows(int64_t quads, const Activation8* a, int64_t stride, const int8_t* panel,
                  const int32_t* sums, int32_t (*out)[kPanel]) {
  i8_tile<Rows, Wide>(quads, a, stride, panel, sums, out);
}

template <bool Wide = false, int Rows = kI8Rows>
ROOTS_INLINE void i8_tile_dispatch(int64_t count, int64_t quads, const Activation8* a, int64_t stride,
                                   const int8_t* panel, const int32_t* sums, int32_t (*out)[kPanel]) {
  if constexpr (Rows > 1) {
    if (count < Rows) return i8_tile_dispatch<Wide, Rows - 1>(count, quads, a, stride, panel, sums, out);
  }
  i8_tile_rows<Rows, Wide>(quads, a, stride, panel, sums, out);
}
#endif

#if defined(__AMX_INT8__)
// Activations are packed in tiles of 32 rows, or 16 where there are no more: blocks of 64 k, those of the
// second 16 rows beside those of the first.
struct ActivationTiles {
  static constexpr int64_t kDepth = 64;
  int64_t quads, height, count;
  using Registers = TileRegisters;
  ROOTS_INLINE ActivationTiles(int64_t m, int64_t k)
      : quads((k + kDepth - 1) / kDepth * (kDepth / kQuad)),
        height(m <= kTileSide ? kTileSide : kAmxRows),
        count((m + height - 1) / height) {}
  ROOTS_INLINE int64_t stride() const { return height; }
  ROOTS_INLINE int64_t tile_size() const { return quads * height * kQuad; }
  ROOTS_INLINE int64_t tile_bytes() const { return tile_size(); }
  ROOTS_INLINE int64_t bytes() const { return count * tile_bytes(); }
  // Where quad q of row i lies.
  ROOTS_INLINE Activation8* at(Activation8* tiles, int64_t i, int64_t q) const {
    const int64_t row = i % height, block = q * kQuad / kDepth;
    return tiles + i / height * tile_size() + block * height * kDepth + row * kDepth + q * kQuad % kDepth;
  }
  static ROOTS_INLINE void put_quad(Activation8* to, uint32_t quad) { __builtin_memcpy(to, &quad, kQuad); }
  // A row of quads * 4 bytes into its place.
  ROOTS_INLINE void put(Activation8* tiles, int64_t i, const uint8_t* from) const {
    put_dense(tiles, i, reinterpret_cast<const int8_t*>(from), quads * kQuad, 0);
  }
  // What is whole of k neighbouring numbers: how many quads.
  ROOTS_INLINE int64_t put_dense(Activation8* tiles, int64_t i, const int8_t* from, int64_t k,
                                 uint32_t) const {
    Activation8* to = at(tiles, i, 0);
    for (int64_t b = 0; b < k / kDepth; ++b)
      __builtin_memcpy(to + b * height * kDepth, from + b * kDepth, kDepth);
    return k / kDepth * (kDepth / kQuad);
  }
};

#else
// Activations are packed in tiles of equal height, quad by quad, so that one pointer reaches all rows of a
// tile and a tile is one stream: quad q of row r of a tile lies at (q * height + r) * 4.
struct ActivationTiles {
  int64_t quads, height, count;
  struct Registers {};
  ROOTS_INLINE ActivationTiles(int64_t m, int64_t k)
      : quads((k + kQuad - 1) / kQuad),
        height((m - 1) / ((m + kI8Rows - 1) / kI8Rows) + 1),
        count((m + height - 1) / height) {}
  ROOTS_INLINE int64_t stride() const { return height * kQuad; }  // of neighbouring quads of a row
  ROOTS_INLINE int64_t tile_size() const { return quads * stride(); }
  ROOTS_INLINE int64_t tile_bytes() const { return tile_size() * static_cast<int64_t>(sizeof(Activation8)); }
  ROOTS_INLINE int64_t bytes() const { return count * tile_bytes(); }
  // Where quad q of row i lies.
  ROOTS_INLINE Activation8* at(Activation8* tiles, int64_t i, int64_t q) const {
    return tiles + i / height * tile_size() + i % height * kQuad + q * stride();
  }
  // A quad of a row, as it is or with 128 added to each.
  static ROOTS_INLINE void put_quad(Activation8* to, uint32_t quad) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to),
                     _mm_cvtepi8_epi16(_mm_cvtsi32_si128(static_cast<int>(quad))));
#else
    __builtin_memcpy(to, &quad, kQuad);
#endif
  }
  // A row of quads * 4 bytes into its place.
  ROOTS_INLINE void put(Activation8* tiles, int64_t i, const uint8_t* from) const {
    put_dense(tiles, i, reinterpret_cast<const int8_t*>(from), quads * kQuad, 0);
  }
  // What is whole of k neighbouring numbers, some bits flipped: how many quads.
  ROOTS_INLINE int64_t put_dense(Activation8* tiles, int64_t i, const int8_t* from, int64_t k,
                                 uint32_t flip) const {
    Activation8* to = at(tiles, i, 0);
    const int64_t whole = k / kQuad;
    for (int64_t q = 0; q < whole; ++q) {
      uint32_t quad;
      __builtin_memcpy(&quad, from + q * kQuad, kQuad);
      put_quad(to + q * stride(), quad ^ flip);
    }
    return whole;
  }
};
#endif

// max |x| of one row, and the row rounded to int8 (half to even) with scale max / 127; +128 where the product
// instruction wants unsigned activations. A row of zeros gets scale 1, one with a NaN the scale NaN.
// Source: dynamic per-token symmetric quantization, as in LLM.int8() (arXiv 2208.07339), section 2.
ROOTS_INLINE float quantize_row(const float* x0, int64_t k, int64_t padded, uint8_t* q, bool offset) {
  using V = Vec<float>;
  using Bits = typename V::Mask;
  // compared as integers, positive floats have the same order and a NaN is above all
  Bits best[4] = {};
  int64_t i = 0;
  const auto take = [&](Bits& top, V x) {
    const Bits bits = (Bits)x.v & 0x7fffffff;
    top = bits > top ? bits : top;
  };
  for (; i + 4 * V::kWidth <= k; i += 4 * V::kWidth)
    unrolled<4>([&](auto j) ROOTS_INLINED { take(best[j], V::load(x0 + i + j * V::kWidth)); });
  for (; i < k; i += V::kWidth) take(best[0], V::load_partial(x0 + i, k - i < V::kWidth ? k - i : V::kWidth));
  unrolled<3>([&](auto j) ROOTS_INLINED { best[0] = best[j + 1] > best[0] ? best[j + 1] : best[0]; });
  int32_t bits = 0;
  for (int j = 0; j < V::kWidth; ++j) bits = best[0][j] > bits ? best[0][j] : bits;
  float top;
  __builtin_memcpy(&top, &bits, 4);
  const float scale = bits ? top / 127.0f : 1.0f;
  const float inverse = bits ? 127.0f / top : 0.0f;
  const int bias = offset ? 128 : 0;
  // adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits
  typedef uint8_t Bytes __attribute__((vector_size(V::kWidth)));
  const V magic(12582912.0f);
  const int32_t zero = 0x4B400000 - bias;
  for (i = 0; i < k; i += V::kWidth) {
    const int64_t n = k - i < V::kWidth ? k - i : V::kWidth;
    const V x = V::load_partial(x0 + i, n) * V(inverse) + magic;
    const Bytes bytes = __builtin_convertvector((Bits)x.v - zero, Bytes);
    // a constant size where possible: a variable one is a call
    if (n == V::kWidth)
      __builtin_memcpy(q + i, &bytes, V::kWidth);
    else
      __builtin_memcpy(q + i, &bytes, static_cast<size_t>(n));
  }
  for (i = k; i < padded; ++i) q[i] = static_cast<uint8_t>(bias);
  return scale;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
