// The dot products of AVX-512: four bytes, or two bfloat16, to a lane of 32 bits. As assembly: with the
// intrinsics GCC 12 copies every sum from register to register, a quarter of the time. By them where
// native/test/avx512_emulated.h stands in for the processor.
#pragma once

#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

#if defined(__AVX512VNNI__)
// sum += unsigned a x signed b, four to a lane.
ROOTS_INLINE void dot_quads(__m512i& sum, __m512i a, __m512i b) {
#if defined(ROOTS_AVX512_EMULATED)
  sum = _mm512_dpbusd_epi32(sum, a, b);
#else
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#endif
}
// The same four b in every lane.
ROOTS_INLINE void dot_quads(__m512i& sum, __m512i a, const int8_t (&b)[4]) {
#if defined(ROOTS_AVX512_EMULATED)
  int32_t quad;
  __builtin_memcpy(&quad, b, 4);
  sum = _mm512_dpbusd_epi32(sum, a, _mm512_set1_epi32(quad));
#else
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(b));
#endif
}
#endif

#if defined(__AVX512BF16__)
// sum += a x b, two to a lane.
ROOTS_INLINE void dot_pairs(Vec<float>& sum, __m512i a, __m512i b) {
#if defined(ROOTS_AVX512_EMULATED)
  sum.v = (Vec<float>::Raw)_mm512_dpbf16_ps((__m512)sum.v, a, b);
#else
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a), "v"(b));
#endif
}
#endif

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
