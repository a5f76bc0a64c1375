// Products of bf16 numbers with float sums. Operands are float32 (rounded to nearest even while they are
// packed) or bf16; any strides. With AVX512_BF16 two neighbouring k share a 32-bit lane, as vdpbf16ps wants
// them; elsewhere panels hold the rounded numbers as floats and the float tile multiplies them. With AMX,
// panels of B are the same and rows of A lie along k. All are exact products; only the order of additions
// differs.
#pragma once

#include "cpu/dot.h"
#include "cpu/gemm/gemm.h"
#if defined(__AMX_BF16__)
#include "cpu/gemm/amx.h"
#endif

namespace roots {
namespace ROOTS_ISA {
namespace {

// A float32 or bf16 matrix; offsets in elements.
struct HalfMatrix {
  const void* data;
  bool is_bf16;
  int64_t row_stride, column_stride;
};

ROOTS_INLINE uint16_t bf16_at(const HalfMatrix& m, int64_t offset) {
  return m.is_bf16 ? static_cast<const uint16_t*>(m.data)[offset]
                   : f32_to_bf16(static_cast<const float*>(m.data)[offset]);
}

ROOTS_INLINE float bf16_to_f32_at(const HalfMatrix& m, int64_t offset) {
  return m.is_bf16 ? bf16_to_f32(static_cast<const uint16_t*>(m.data)[offset])
                   : static_cast<const float*>(m.data)[offset];
}

// n <= kWidth neighbouring elements as floats; zero beyond.
ROOTS_INLINE Vec<float> load_widened(const HalfMatrix& m, int64_t offset, int64_t n) {
  constexpr int64_t W = Vec<float>::kWidth;
  if (!m.is_bf16) return Vec<float>::load_partial(static_cast<const float*>(m.data) + offset, n);
  const auto* p = static_cast<const uint16_t*>(m.data) + offset;
  typedef uint16_t Halves __attribute__((vector_size(W * 2)));
  typedef uint32_t Words __attribute__((vector_size(W * 4)));
  Halves h = {};
  if (n == W) {
    __builtin_memcpy(&h, p, sizeof h);
  } else {
    for (int64_t i = 0; i < n; ++i) h[i] = p[i];
  }
  // as intrinsics: GCC 12 converts the halves of the vector apart, five instructions for one
#if defined(__AVX512F__)
  const auto words = (Words)_mm512_cvtepu16_epi32((__m256i)h);
#elif defined(__AVX2__)
  const auto words = (Words)_mm256_cvtepu16_epi32((__m128i)h);
#else
  const Words words = __builtin_convertvector(h, Words);
#endif
  return Vec<float>((Vec<float>::Raw)(words << 16));
}

// To nearest even, as f32_to_bf16, but a NaN may lose its payload.
ROOTS_INLINE Vec<float> rounded_to_bf16(Vec<float> x) {
  typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
  const Words bits = (Words)x.v, odd = (bits >> 16) & 1;
  const Vec<float> r((Vec<float>::Raw)((bits + 0x7fff + odd) & 0xffff0000u));
  return select<float>(x != x, x, r);
}

#if defined(__AVX512BF16__)

struct PairPanels : VectorPanels {
  using Value = float;
  using Packed = uint32_t;
  static constexpr int kGroup = 2;
  static ROOTS_INLINE __m512i load(const Packed* p) { return _mm512_loadu_si512(p); }
  static ROOTS_INLINE __m512i broadcast(Packed a) { return _mm512_set1_epi32(static_cast<int>(a)); }
  static ROOTS_INLINE Vec<float> multiply_add(__m512i a, __m512i b, Vec<float> sum) {
    dot_pairs(sum, a, b);
    return sum;
  }
};

#if defined(__AMX_BF16__)
struct HalfPanels {
  using Value = float;
  using Packed = uint32_t;
  using Registers = TileRegisters;
  static constexpr int kGroup = 2;
  // deep, so that C, which lies in memory, is written once; panels stream from L2
  static constexpr int64_t kRows = kAmxRows, kDepth = 1024;
  static constexpr int64_t kAtOnce = 32 << 20;
  static constexpr bool kEqualHeights = false, kOwnTile = true;
  static constexpr int64_t padded(int64_t depth) { return ceil_div(depth, kTileSide) * kTileSide; }

  // As square as can be, since panels come from L3, with panels of both that fill a half of L2; eight and
  // more where each is worth waking a thread for.
  static ROOTS_INLINE ChunkGrid chunks(int64_t m_panels, int64_t n_panels, int64_t tile_flops) {
    constexpr int64_t kChunks = 8, kLeastFlops = 8000000, kHalfOfL2 = 1 << 20;
    int64_t most = kHalfOfL2 * kAmxColumns / tile_flops;
    most = most < 4 ? 4 : most < 16 ? most : 16;
    ChunkGrid grid{m_panels < most ? m_panels : most, n_panels < most ? n_panels : most};
    while (ceil_div(m_panels, grid.rows) * ceil_div(n_panels, grid.columns) < kChunks &&
           grid.rows * grid.columns > 1 && grid.rows * grid.columns * tile_flops >= 2 * kLeastFlops) {
      int64_t& larger = grid.rows >= grid.columns ? grid.rows : grid.columns;
      larger = ceil_div(larger, 2);
    }
    return grid;
  }

  // C = onto + bias + A B, each where there is one, up to 32 x 32.
  static void tile(int64_t rows, int64_t depth, const Packed* a, const Packed* b, float* c, int64_t ldc,
                   int64_t columns, const float* onto, const float* bias) {
    rows > kTileSide ? tile_of<2>(rows, depth, a, b, c, ldc, columns, onto, bias)
                     : tile_of<1>(rows, depth, a, b, c, ldc, columns, onto, bias);
  }

 private:
  template <int Pairs>
  static ROOTS_INLINE void tile_of(int64_t rows, int64_t depth, const Packed* a, const Packed* b, float* c,
                                   int64_t ldc, int64_t columns, const float* onto, const float* bias) {
    const bool whole = rows == Pairs * kTileSide && columns == kAmxColumns;
    const auto each = [](auto f) ROOTS_INLINED {
      unrolled<2 * Pairs>([&](auto t) ROOTS_INLINED { f(t, t / 2 * kTileSide, t % 2 * kTileSide); });
    };
    if (whole && !(onto && bias)) {
      // a bias is the same in all rows: rows no bytes apart
      const float* start = onto ? onto : bias;
      const int64_t stride = onto ? ldc : 0;
      if (start)
        each([&](auto t, int64_t i, int64_t j)
                 ROOTS_INLINED { tile_load<t>(start + i * stride + j, stride * 4); });
      else
        each([&](auto t, int64_t, int64_t) ROOTS_INLINED { tile_zero<t>(); });
      tile_products<Pairs, false>(depth, a, b);
      each([&](auto t, int64_t i, int64_t j) ROOTS_INLINED { tile_store<t>(c + i * ldc + j, ldc * 4); });
      return;
    }
    alignas(64) float sums[Pairs * kTileSide * kAmxColumns];
    each([&](auto t, int64_t, int64_t) ROOTS_INLINED { tile_zero<t>(); });
    tile_products<Pairs, false>(depth, a, b);
    each([&](auto t, int64_t i, int64_t j)
             ROOTS_INLINED { tile_store<t>(sums + i * kAmxColumns + j, kAmxColumns * 4); });
    using V = Vec<float>;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; j += V::kWidth) {
        const int64_t n = columns - j < V::kWidth ? columns - j : V::kWidth;
        V x = V::load(sums + i * kAmxColumns + j);
        if (bias) x = x + V::load_partial(bias + j, n);
        if (onto) x = x + V::load_partial(onto + i * ldc + j, n);
        x.store_partial(c + i * ldc + j, n);
      }
  }
};
#else
using HalfPanels = PairPanels;
#endif

// n <= 32 neighbouring elements as bf16 in order, zero beyond.
ROOTS_INLINE __m512i load_bf16(const HalfMatrix& m, int64_t offset, int64_t n) {
  if (m.is_bf16) {
    const auto* p = static_cast<const uint16_t*>(m.data) + offset;
    return n == 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  }
  const auto* p = static_cast<const float*>(m.data) + offset;
  const Vec<float> low = Vec<float>::load_partial(p, n < 16 ? n : 16);
  const Vec<float> high = n > 16 ? Vec<float>::load_partial(p + 16, n - 16) : Vec<float>();
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high.v, (__m512)low.v);
}

// Lines (rows of A, columns of B) of a panel of `width` lines; along k with stride `along`, across lines with
// stride `across`.
ROOTS_INLINE void pack_half(const HalfMatrix& m, int64_t origin, int64_t across, int64_t along, int64_t lines,
                            int64_t width, int64_t depth, uint32_t* out) {
  const int64_t groups = ceil_div(depth, 2);
  if (along == 1) {
    // 16 lines x 16 pairs at a time, transposed as 32-bit numbers
    for (int64_t r = 0; r < width; r += 16)
      for (int64_t g = 0; g < groups; g += 16) {
        const int64_t k = 2 * g, n = depth - k < 32 ? depth - k : 32,
                      pairs = groups - g < 16 ? groups - g : 16;
        Vec<float> rows[16];
#pragma GCC unroll 16
        for (int64_t j = 0; j < 16; ++j)
          rows[j] = r + j < lines
                        ? Vec<float>((Vec<float>::Raw)load_bf16(m, origin + (r + j) * across + k, n))
                        : Vec<float>();
        transpose_square(rows);
        const int64_t keep = width - r < 16 ? width - r : 16;
#pragma GCC unroll 16
        for (int64_t q = 0; q < 16; ++q)
          if (q < pairs) rows[q].store_partial(reinterpret_cast<float*>(out + (g + q) * width + r), keep);
      }
    return;
  }
  if (across == 1) {
    // two rows of k, interleaved
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t r = 0; r < width; r += 16) {
        const int64_t left = lines - r, n = left < 0 ? 0 : (left < 16 ? left : 16),
                      at = origin + 2 * g * along + r;
        const __m512i low = load_bf16(m, at, n),
                      high = 2 * g + 1 < depth ? load_bf16(m, at + along, n) : _mm512_setzero_si512();
        const __m512i both = _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1);
        const int64_t keep = width - r < 16 ? width - r : 16;
        Vec<float>((Vec<float>::Raw)_mm512_permutexvar_epi16(order, both))
            .store_partial(reinterpret_cast<float*>(out + g * width + r), keep);
      }
    return;
  }
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t r = 0; r < width; ++r) {
      const int64_t at = origin + r * across + 2 * g * along;
      const uint32_t low = r < lines ? bf16_at(m, at) : 0,
                     high = r < lines && 2 * g + 1 < depth ? bf16_at(m, at + along) : 0;
      out[g * width + r] = low | high << 16;
    }
}

#else

using HalfPanels = PlainPanels<float>;

// Lines (rows of A, columns of B) of a panel of `width` lines; along k with stride `along`, across lines with
// stride `across`.
ROOTS_INLINE void pack_half(const HalfMatrix& m, int64_t origin, int64_t across, int64_t along, int64_t lines,
                            int64_t width, int64_t depth, float* out) {
  constexpr int64_t W = Vec<float>::kWidth;
  if (along == 1) {
    for (int64_t r = 0; r < width; r += W)
      for (int64_t k = 0; k < depth; k += W) {
        const int64_t n = depth - k < W ? depth - k : W, keep = width - r < W ? width - r : W;
        Vec<float> rows[W];
        for (int64_t j = 0; j < W; ++j)
          rows[j] = r + j < lines ? rounded_to_bf16(load_widened(m, origin + (r + j) * across + k, n))
                                  : Vec<float>();
        transpose_square(rows);
        for (int64_t q = 0; q < n; ++q) rows[q].store_partial(out + (k + q) * width + r, keep);
      }
    return;
  }
  if (across == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < width; r += W) {
        const int64_t left = lines - r, n = left < 0 ? 0 : left < W ? left : W;
        rounded_to_bf16(load_widened(m, origin + k * along + r, n))
            .store_partial(out + k * width + r, width - r < W ? width - r : W);
      }
    return;
  }
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t r = 0; r < width; ++r)
      out[k * width + r] = r < lines ? bf16_to_f32(bf16_at(m, origin + r * across + k * along)) : 0.0f;
}

#endif

#if defined(__AMX_BF16__)
// Rows of A as tile_products() reads them: blocks of 16 pairs of up to 16 rows, zeros beyond both; where
// there are more than 16 rows, the blocks of the second half beside those of the first.
ROOTS_INLINE void pack_tile_rows(const HalfMatrix& m, int64_t origin, int64_t across, int64_t along,
                                 int64_t lines, int64_t depth, uint32_t* out) {
  constexpr int64_t kWords = kTileBytes / 4;
  const int64_t halves = lines > kTileSide ? 2 : 1;
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (int64_t k = 0; k < depth; k += 32)
    for (int64_t half = 0; half < halves; ++half, out += kWords) {
      const int64_t r0 = half * kTileSide, left = lines - r0, rows = left < kTileSide ? left : kTileSide,
                    n = depth - k < 32 ? depth - k : 32, from = origin + r0 * across + k * along;
      if (along == 1) {
        for (int64_t r = 0; r < rows; ++r)
          _mm512_storeu_si512(out + r * 16, load_bf16(m, from + r * across, n));
        for (int64_t r = rows; r < kTileSide; ++r) _mm512_storeu_si512(out + r * 16, _mm512_setzero_si512());
      } else if (across == 1) {
        // two lines of k interleaved, then pairs across rows transposed
        Vec<float> pairs[16];
        unrolled<16>([&](auto g) ROOTS_INLINED {
          const __m512i low = 2 * g < n ? load_bf16(m, from + 2 * g * along, rows) : _mm512_setzero_si512(),
                        high = 2 * g + 1 < n ? load_bf16(m, from + (2 * g + 1) * along, rows)
                                             : _mm512_setzero_si512();
          pairs[g] = Vec<float>((Vec<float>::Raw)_mm512_permutexvar_epi16(
              order, _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1)));
        });
        transpose_square(pairs);
        unrolled<16>([&](auto r) ROOTS_INLINED { pairs[r].store(reinterpret_cast<float*>(out) + r * 16); });
      } else {
        for (int64_t r = 0; r < kTileSide; ++r)
          for (int64_t g = 0; g < 16; ++g) {
            const int64_t at = from + r * across + 2 * g * along;
            const uint32_t low = r < rows && 2 * g < n ? bf16_at(m, at) : 0,
                           high = r < rows && 2 * g + 1 < n ? bf16_at(m, at + along) : 0;
            out[r * 16 + g] = low | high << 16;
          }
      }
    }
}
#endif

struct PackHalfRows {
  static constexpr bool kInPlace = false;
  HalfMatrix a;
  ROOTS_INLINE void operator()(int64_t i0, int64_t rows, int64_t k0, int64_t depth,
                               HalfPanels::Packed* out) const {
#if defined(__AMX_BF16__)
    pack_tile_rows(a, i0 * a.row_stride + k0 * a.column_stride, a.row_stride, a.column_stride, rows, depth,
                   out);
#else
    pack_half(a, i0 * a.row_stride + k0 * a.column_stride, a.row_stride, a.column_stride, rows, kTileRows,
              depth, out);
#endif
  }
};
struct PackHalfColumns {
  static constexpr bool kInPlace = false;
  HalfMatrix b;
  ROOTS_INLINE void operator()(int64_t j0, int64_t columns, int64_t k0, int64_t depth,
                               HalfPanels::Packed* out) const {
    pack_half(b, j0 * b.column_stride + k0 * b.row_stride, b.column_stride, b.row_stride, columns,
              kTileColumns<float>, depth, out);
  }
};

// Dot products of bf16 rows: pairs in one instruction, or widened.
#if defined(__AMX_BF16__)
constexpr int64_t kHalfDotRows = 8;  // more are multiplied by tiles
#else
constexpr int64_t kHalfDotRows = kDotRows;
#endif
struct HalfDots {
  using Value = float;
  using Column = uint16_t;
#if defined(__AVX512BF16__)
  using Row = uint16_t;
  static constexpr int64_t kStep = 32;
  static ROOTS_INLINE __m512i load(const uint16_t* p, int64_t n) {
    return n == 32 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16((1u << n) - 1u, p);
  }
  static ROOTS_INLINE Vec<float> multiply_add(__m512i a, __m512i b, Vec<float> sum) {
    return PairPanels::multiply_add(a, b, sum);
  }
  static ROOTS_INLINE uint16_t rounded(float x) { return f32_to_bf16(x); }
#else
  using Row = float;
  static constexpr int64_t kStep = Vec<float>::kWidth;
  static ROOTS_INLINE Vec<float> load(const float* p, int64_t n) { return Vec<float>::load_partial(p, n); }
  static ROOTS_INLINE Vec<float> load(const uint16_t* p, int64_t n) {
    return load_widened({p, true, 0, 1}, 0, n);
  }
  static ROOTS_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> sum) {
    return fma(a, b, sum);
  }
  static ROOTS_INLINE float rounded(float x) { return bf16_to_f32(f32_to_bf16(x)); }
#endif
};

// Few rows of A against the rows of a bf16 weight, dense along k, which is read in place.
ROOTS_INLINE Status few_rows_bf16(const Context& context, int64_t M, int64_t N, int64_t K,
                                  const HalfMatrix& a, const HalfMatrix& b, float* c, int64_t ldc,
                                  const Epilogue<float>& epilogue) {
  auto* rows = static_cast<HalfDots::Row*>(
      context.workspace(context.host, 0, static_cast<size_t>(M * K) * sizeof(HalfDots::Row)));
  CHECK(rows, "out of memory");
  context.parallel_for(ceil_div(M, 16), [&](int64_t chunk) {
    for (int64_t i = chunk * 16; i < M && i < chunk * 16 + 16; ++i)
      for (int64_t k = 0; k < K; ++k)
        rows[i * K + k] = HalfDots::rounded(bf16_to_f32_at(a, i * a.row_stride + k * a.column_stride));
  });
  const int64_t columns = dot_columns(M, N, K / 2 + 1);
  context.parallel_for(ceil_div(N, columns), [&](int64_t chunk) {
    const int64_t j0 = chunk * columns, j1 = j0 + columns < N ? j0 + columns : N;
    dots<HalfDots>(rows, K, static_cast<const uint16_t*>(b.data), b.column_stride, M, K, j0, j1, c, ldc);
    if (!epilogue.empty()) epilogue.apply(c + j0, ldc, j0, j0, M, j1 - j0);
  });
  return nullptr;
}

template <bool Serial>
ROOTS_INLINE Status gemm_bf16(const Context& context, int64_t M, int64_t N, int64_t K, const HalfMatrix& a,
                              const HalfMatrix& b, float* c, int64_t ldc, const Epilogue<float>& epilogue) {
  if (M == 0 || N == 0) return nullptr;
  if (K == 0)
    return gemm<float, Serial>(context, M, N, 0, {nullptr, 0, 0}, {nullptr, 0, 0}, c, ldc, epilogue);
  if (!Serial && M <= kHalfDotRows && b.is_bf16 && b.row_stride == 1 && !epilogue.accumulate)
    return few_rows_bf16(context, M, N, K, a, b, c, ldc, epilogue);
  return gemm_packed<HalfPanels, Serial>(context, M, N, K, PackHalfRows{a}, PackHalfColumns{b}, c, ldc,
                                         epilogue);
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
