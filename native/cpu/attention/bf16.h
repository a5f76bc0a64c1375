// Attention from operands rounded to bf16, with float scores, sums and softmax: twice the rate of the float
// tile where the processor multiplies bf16, and half the bytes of a cache stored so. Tensors may be float32
// or bf16 each.
#pragma once

#include "cpu/attention/decode.h"
#include "cpu/gemm/bf16.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

ROOTS_INLINE HalfMatrix half_rows(const Tensor& t) {
  return {t.data, t.dtype == DType::bf16, t.strides[2], 1};
}
ROOTS_INLINE int64_t half_offset(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}

struct HalfForm {
  using Value = float;
  using Panels = HalfPanels;
  using Packed = HalfPanels::Packed;
  static constexpr bool kScaledRows = false;
  static void pack_keys(const Tensor& k, int64_t b, int64_t g, int64_t count, int64_t depth, Packed* out) {
    constexpr int64_t C = kTileColumns<float>;
    const int64_t groups = ceil_div(depth, Panels::kGroup);
    for (int64_t j = 0; j < count; j += C)
      pack_half(half_rows(k), half_offset(k, b, g, j), k.strides[2], 1, count - j < C ? count - j : C, C,
                depth, out + j * groups);
  }
  static void pack_values(const Tensor& v, int64_t b, int64_t g, int64_t count, int64_t depth, Packed* out) {
    pack_half(half_rows(v), half_offset(v, b, g, 0), 1, v.strides[2], depth, whole_tiles<float>(depth), count,
              out);
  }
  static void pack_queries(const Tensor& q, int64_t b, int64_t h, int64_t i0, int64_t rows, int64_t depth,
                           Packed* out) {
    const HalfMatrix m = half_rows(q);
    constexpr int64_t stride = kScoreStride / Panels::kGroup;
    for (int64_t d = 0; d < depth; d += kKeys, out += kTileRows * stride)
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t n = depth - d < kKeys ? depth - d : kKeys, at = half_offset(q, b, h, i0 + r) + d;
#if defined(__AVX512BF16__)
        for (int64_t i = 0; i < n; i += 32)
          _mm512_storeu_si512(out + r * stride + i / 2, load_bf16(m, at + i, n - i < 32 ? n - i : 32));
#else
        constexpr int64_t W = Vec<float>::kWidth;
        for (int64_t i = 0; i < n; i += W)
          rounded_to_bf16(load_widened(m, at + i, n - i < W ? n - i : W)).store(out + r * stride + i);
#endif
      }
  }
#if defined(__AVX512BF16__)
  static ROOTS_INLINE Packed* weights(float*, Packed* own) { return own; }
  static ROOTS_INLINE void store_weights(const float* row, int64_t padded, Packed* to) {
    for (int64_t j = 0; j < padded; j += 32)
      _mm512_storeu_si512(
          to + j / 2, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + j + 16), _mm512_loadu_ps(row + j)));
  }
#else
  static ROOTS_INLINE Packed* weights(float* scores, Packed*) { return scores; }
  static ROOTS_INLINE void store_weights(const float*, int64_t padded, Packed* to) {
    for (int64_t j = 0; j < padded; j += Vec<float>::kWidth)
      rounded_to_bf16(Vec<float>::load(to + j)).store(to + j);
  }
#endif
  static ROOTS_INLINE void store(Vec<float> x, const Tensor& out, int64_t b, int64_t h, int64_t i, int64_t d,
                                 int64_t n) {
    const int64_t at = half_offset(out, b, h, i) + d;
    if (out.dtype == DType::f32) return x.store_partial(data<float>(out) + at, n);
    uint16_t* to = data<uint16_t>(out) + at;
#if defined(__AVX512BF16__)
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << n) - 1u),
                             (__m256i)_mm512_cvtneps_pbh((__m512)x.v));
#else
    for (int64_t j = 0; j < n; ++j) to[j] = f32_to_bf16(x.v[j]);
#endif
  }

  static ROOTS_INLINE Vec<float> load(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t d,
                                      int64_t n) {
    return load_widened(half_rows(t), half_offset(t, b, h, i) + d, n);
  }
  template <class Use>
  static ROOTS_INLINE void with_rows(const Tensor& t, int64_t b, int64_t h, int64_t i, const Use& use) {
    if (t.dtype == DType::f32) return PlainForm<float>::with_rows(t, b, h, i, use);
    const HalfMatrix rows{data<uint16_t>(t) + half_offset(t, b, h, i), true, 0, 1};
    const int64_t stride = t.strides[2];
    use([=](int64_t j, int64_t d, int64_t n) { return load_widened(rows, j * stride + d, n); });
  }
};

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
