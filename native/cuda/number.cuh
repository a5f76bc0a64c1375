// One number with the interface that core/elementwise.h wants of a vector, the mathematics of this device,
// and the 16-bit floats.
#pragma once

#include <math.h>
#include <string.h>

#include "core/dtype.h"
#include "core/half.h"
#include "core/status.h"
#include "cuda/platform.cuh"

namespace roots {
namespace cuda {

ROOTS_BOTH float infinity(float) { return __builtin_huge_valf(); }
ROOTS_BOTH double infinity(double) { return __builtin_huge_val(); }

ROOTS_BOTH float exp_of(float x) { return expf(x); }
ROOTS_BOTH double exp_of(double x) { return ::exp(x); }
ROOTS_BOTH float log_of(float x) { return logf(x); }
ROOTS_BOTH double log_of(double x) { return ::log(x); }
ROOTS_BOTH float sqrt_of(float x) { return sqrtf(x); }
ROOTS_BOTH double sqrt_of(double x) { return ::sqrt(x); }
ROOTS_BOTH float erf_of(float x) { return erff(x); }
ROOTS_BOTH double erf_of(double x) { return ::erf(x); }
ROOTS_BOTH float fma_of(float a, float b, float c) { return fmaf(a, b, c); }
ROOTS_BOTH double fma_of(double a, double b, double c) { return ::fma(a, b, c); }
// Never fused with what comes next.
#if defined(__CUDA_ARCH__)
ROOTS_DEVICE double mul_rounded(double a, double b) { return __dmul_rn(a, b); }
ROOTS_DEVICE double add_rounded(double a, double b) { return __dadd_rn(a, b); }
#else
ROOTS_BOTH double mul_rounded(double a, double b) { return a * b; }
ROOTS_BOTH double add_rounded(double a, double b) { return a + b; }
#endif
// Integers wrap around, as in PyTorch.
ROOTS_BOTH int32_t fma_of(int32_t a, int32_t b, int32_t c) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b) + static_cast<uint32_t>(c));
}
ROOTS_BOTH int64_t fma_of(int64_t a, int64_t b, int64_t c) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) + static_cast<uint64_t>(c));
}

template <class T>
struct Number {
  using Element = T;
  using Mask = bool;
  static constexpr bool kHasErf = true;
  T v;
  Number() = default;
  ROOTS_BOTH explicit Number(T x) : v(x) {}
  template <class X>
  ROOTS_BOTH explicit Number(X x) : v(static_cast<T>(x)) {}
  friend ROOTS_BOTH Number operator+(Number a, Number b) { return Number(a.v + b.v); }
  friend ROOTS_BOTH Number operator-(Number a, Number b) { return Number(a.v - b.v); }
  friend ROOTS_BOTH Number operator*(Number a, Number b) { return Number(a.v * b.v); }
  friend ROOTS_BOTH Number operator/(Number a, Number b) { return Number(a.v / b.v); }
  friend ROOTS_BOTH Number operator-(Number a) { return Number(-a.v); }
  friend ROOTS_BOTH bool operator<(Number a, Number b) { return a.v < b.v; }
  friend ROOTS_BOTH bool operator<=(Number a, Number b) { return a.v <= b.v; }
  friend ROOTS_BOTH bool operator>(Number a, Number b) { return a.v > b.v; }
  friend ROOTS_BOTH bool operator>=(Number a, Number b) { return a.v >= b.v; }
  friend ROOTS_BOTH bool operator==(Number a, Number b) { return a.v == b.v; }
  friend ROOTS_BOTH bool operator!=(Number a, Number b) { return a.v != b.v; }
  friend ROOTS_BOTH Number exp(Number a) { return Number(exp_of(a.v)); }
  friend ROOTS_BOTH Number exp_below(Number a) { return Number(exp_of(a.v)); }
  friend ROOTS_BOTH Number exp_wide(Number a) { return Number(exp_of(a.v)); }
  friend ROOTS_BOTH Number log(Number a) { return Number(log_of(a.v)); }
  friend ROOTS_BOTH Number sqrt(Number a) { return Number(sqrt_of(a.v)); }
  friend ROOTS_BOTH Number native_erf(Number a) { return Number(erf_of(a.v)); }
  friend ROOTS_BOTH Number abs(Number a) { return Number(a.v < 0 ? -a.v : a.v); }
  friend ROOTS_BOTH Number fma(Number a, Number b, Number c) { return Number(fma_of(a.v, b.v, c.v)); }
  // a NaN on either side wins, as on the CPU
  friend ROOTS_BOTH Number max(Number a, Number b) { return Number(a.v > b.v || a.v != a.v ? a.v : b.v); }
  friend ROOTS_BOTH Number min(Number a, Number b) { return Number(a.v < b.v || a.v != a.v ? a.v : b.v); }
};

ROOTS_BOTH float to_float(Bf16 x) { return bf16_to_f32(x.bits); }
ROOTS_BOTH float to_float(F16 x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  return f16_to_f32(x.bits);
#endif
}
ROOTS_BOTH Bf16 to_bf16(float x) { return {f32_to_bf16(x)}; }
ROOTS_BOTH F16 to_f16(float x) { return {f32_to_f16(x)}; }
// Two of them as one word, the first in the low half.
ROOTS_DEVICE uint32_t bf16_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
#endif
}

ROOTS_DEVICE uint32_t f16_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return to_f16(low).bits | static_cast<uint32_t>(to_f16(high).bits) << 16;
#endif
}

// The integer as wide as an element.
template <class F>
Status by_size(int64_t size, const F& f) {
  switch (size) {
    case 8: return f(uint64_t{});
    case 4: return f(uint32_t{});
    case 2: return f(uint16_t{});
    default: return f(uint8_t{});
  }
}

template <class F>
Status dispatch_float(DType dtype, const F& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  return "needs float32 or float64";
}

template <class F>
Status dispatch_number(DType dtype, const F& f) {
  if (dtype == DType::i32) return f(int32_t{});
  if (dtype == DType::i64) return f(int64_t{});
  return dispatch_float(dtype, f);
}

}  // namespace cuda
}  // namespace roots
