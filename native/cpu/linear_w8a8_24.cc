// linear_w8a8 with weights of which two in four are zero: the panels of gemm/i8.h with the zeros left out. Of
// each 64 bytes (16 outputs x 4 inputs) 32 are kept, in order, and 64 bits say where they go, so that one
// `vpexpandb` (AVX-512 VBMI2) makes the operand of the dot product: 80 bytes are read where dense weights
// take 128.
//   packed: for each panel and quad of inputs 2 x 32 values and 2 x 8 bytes of mask; then one int32 sum per
//   output
#include "cpu/declare.h"
#include "cpu/gemm/linear_i8.h"

namespace roots {
#if defined(__AMX_INT8__)
namespace avx512_vbmi2 {
decltype(ROOTS_ISA::linear_w8a8_24) linear_w8a8_24;  // for few rows
}
#endif
namespace ROOTS_ISA {
namespace {

constexpr int64_t kHalf = 64, kKept = 32, kQuadBytes = 2 * kKept + 2 * 8;

struct SparseShape {
  PackedShape dense;
  ROOTS_INLINE SparseShape(int64_t n, int64_t k) : dense(n, k) {}
  ROOTS_INLINE int64_t panel_bytes() const { return dense.quads * kQuadBytes; }
  ROOTS_INLINE int64_t weight_bytes() const { return dense.panels * panel_bytes(); }
  ROOTS_INLINE int64_t total_bytes() const { return weight_bytes() + dense.panels * kPanel * 4; }
};

ROOTS_INLINE uint64_t mask_of(const int8_t* quad, int64_t half) {
  uint64_t mask;
  __builtin_memcpy(&mask, quad + 2 * kKept + half * 8, 8);
  return mask;
}

#if defined(__AVX512VBMI2__)
ROOTS_INLINE __m512i expand(const int8_t* quad, int64_t half) {
  return _mm512_maskz_expand_epi8(
      mask_of(quad, half),
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(quad + half * kKept))));
}
#endif

#if defined(__AVX2__) && !defined(__AVX512VBMI2__)
// For each mask of eight bits: where, of the bytes kept, each of eight comes from; 0x80 gives zero.
struct ExpandControls {
  uint64_t of[256];
  constexpr ExpandControls() : of{} {
    for (int mask = 0; mask < 256; ++mask) {
      uint64_t control = 0, next = 0;
      for (int i = 0; i < 8; ++i) control |= (mask >> i & 1 ? next++ : uint64_t{0x80}) << 8 * i;
      of[mask] = control;
    }
  }
};
constexpr ExpandControls kExpandControls;
#endif

// One quad of inputs of a panel, dense.
ROOTS_INLINE void expand_quad(const int8_t* quad, int8_t* to) {
  for (int64_t half = 0; half < 2; ++half) {
#if defined(__AVX512VBMI2__)
    _mm512_storeu_si512(to + half * kHalf, expand(quad, half));
#elif defined(__AVX2__)
    // every output keeps two of four bytes: four of eight positions, eight of sixteen
    uint64_t mask = mask_of(quad, half);
    for (int64_t i = 0; i < 4; ++i, mask >>= 16) {
      const __m128i kept = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(quad + half * kKept + i * 8));
      const uint64_t low = kExpandControls.of[mask & 255],
                     high = kExpandControls.of[mask >> 8 & 255] + 0x0404040404040404u;
      const __m128i control = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + half * kHalf + i * 16),
                       _mm_shuffle_epi8(kept, control));
    }
#else
    const uint64_t mask = mask_of(quad, half);
    const int8_t* kept = quad + half * kKept;
    for (int64_t i = 0; i < kHalf; ++i) to[half * kHalf + i] = mask >> i & 1 ? *kept++ : int8_t{0};
#endif
  }
}

// Whether tiles expand panels themselves.
#if defined(__AVX512VBMI2__) && !defined(__AMX_INT8__)
#define ROOTS_EXPANDING_TILES
#endif

#if defined(ROOTS_EXPANDING_TILES)
// Rows rows of a tile against a panel that is expanded on its way.
template <int Rows>
void sparse_tile(int64_t quads, const Activation8* a, int64_t stride, const int8_t* panel,
                 const int32_t* sums, int32_t (*out)[kPanel]) {
  vnni_tile<Rows>(
      quads, a, stride, [&](int64_t q, int64_t half) { return expand(panel + q * kQuadBytes, half); }, sums,
      out);
}

template <int Rows = kI8Rows>
ROOTS_INLINE void sparse_dispatch(int64_t count, int64_t quads, const Activation8* a, int64_t stride,
                                  const int8_t* panel, const int32_t* sums, int32_t (*out)[kPanel]) {
  if constexpr (Rows > 1) {
    if (count < Rows) return sparse_dispatch<Rows - 1>(count, quads, a, stride, panel, sums, out);
  }
  sparse_tile<Rows>(quads, a, stride, panel, sums, out);
}
#endif

struct SparsePanels {
  const int8_t* data;
  SparseShape shape;
  bool in_place;  // expanded by every tile; otherwise once per panel, into scratch memory
  ROOTS_INLINE const int8_t* panel(const Context& context, int64_t p, int64_t) const {
    const int8_t* from = data + p * shape.panel_bytes();
    if (in_place) return from;
    auto* to = static_cast<int8_t*>(
        context.scratch(context.host, 6, static_cast<size_t>(shape.dense.panel_bytes() + 1)));
    for (int64_t q = 0; to && q < shape.dense.quads; ++q)
      expand_quad(from + q * kQuadBytes, to + q * 2 * kHalf);
    return to;
  }
  ROOTS_INLINE void prefetch(int64_t p, int64_t slice, int64_t slices) const {
    prefetch_slice(data + p * shape.panel_bytes(), shape.panel_bytes(), slice, slices);
  }
  ROOTS_INLINE void tile(int64_t count, int64_t quads, const Activation8* a, int64_t stride,
                         const int8_t* panel, const int32_t* sums, int32_t (*out)[kPanel]) const {
#if defined(ROOTS_EXPANDING_TILES)
    if (in_place) return sparse_dispatch(count, quads, a, stride, panel, sums, out);
#endif
    i8_tile_dispatch(count, quads, a, stride, panel, sums, out);
  }
};

}  // namespace

// weight (N, K) int8 <-> packed. Fails where four neighbouring inputs of an output hold more than two values.
Status linear_24_pack(const Context& context, Tensor weight, Tensor packed, int64_t unpack) {
  const int64_t N = weight.shape[0], K = weight.shape[1];
  const SparseShape shape(N, K);
  if (const Status status = check_i8_pack(weight, packed, shape.total_bytes())) return status;
  auto* bytes = data<int8_t>(packed);
  auto* sums = bytes + shape.weight_bytes();
  int32_t dense = 0;
  context.parallel_for(shape.dense.panels, [&](int64_t p) {
    int32_t total[kPanel] = {};
    for (int64_t q = 0; q < shape.dense.quads; ++q) {
      int8_t* quad = bytes + p * shape.panel_bytes() + q * kQuadBytes;
      int8_t all[2 * kHalf] = {};
      if (unpack) expand_quad(quad, all);
      for (int64_t c = 0; c < kPanel && p * kPanel + c < N; ++c)
        for (int64_t e = 0; e < kQuad && q * kQuad + e < K; ++e) {
          int8_t& value = data<int8_t>(weight)[(p * kPanel + c) * K + q * kQuad + e];
          if (unpack)
            value = all[c * kQuad + e];
          else
            all[c * kQuad + e] = value;
        }
      if (unpack) continue;
      for (int64_t half = 0; half < 2; ++half) {
        uint64_t mask = 0;
        int8_t kept[kKept] = {};
        int64_t count = 0;
        for (int64_t c = 0; c < kHalf / kQuad; ++c) {
          // two of each four, zeros where there are fewer
          int64_t own = 0;
          for (int64_t e = 0; e < kQuad; ++e) own += all[half * kHalf + c * kQuad + e] != 0;
          if (own > 2) {
            __atomic_store_n(&dense, 1, __ATOMIC_RELAXED);
            return;
          }
          int64_t spare = 2 - own;
          for (int64_t e = 0; e < kQuad; ++e) {
            const int64_t i = c * kQuad + e;
            const int8_t value = all[half * kHalf + i];
            if (value == 0 && spare-- <= 0) continue;
            mask |= uint64_t{1} << i;
            kept[count++] = value;
            total[half * (kPanel / 2) + c] += value;
          }
        }
        __builtin_memcpy(quad + half * kKept, kept, kKept);
        __builtin_memcpy(quad + 2 * kKept + half * 8, &mask, 8);
      }
    }
    if (!unpack) __builtin_memcpy(sums + p * kPanel * 4, total, sizeof total);
  });
  return dense ? "four neighbouring inputs of an output hold more than two values" : nullptr;
}

Status linear_w8a8_24(const Context& context, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                      OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  const SparseShape shape(out.shape[1], x.shape[1]);
  if (const Status status = check_linear_i8(x, packed, shape.total_bytes(), scale, out, end, true))
    return status;
#if defined(__AMX_INT8__)
  // a tile computes sixteen rows however few there are, from panels that are expanded into memory
  if (x.shape[0] <= kVectorRows)
    return avx512_vbmi2::linear_w8a8_24(context, x, packed, scale, bias, gate, residual, out, activation);
#endif
  const auto* weights = data<int8_t>(packed);
#if defined(ROOTS_EXPANDING_TILES)
  const bool in_place = x.shape[0] <= kI8Rows;
#else
  const bool in_place = false;
#endif
  return linear_i8(context, x, SparsePanels{weights, shape, in_place},
                   reinterpret_cast<const int32_t*>(weights + shape.weight_bytes()), scale, out, end);
}

}  // namespace ROOTS_ISA
}  // namespace roots
