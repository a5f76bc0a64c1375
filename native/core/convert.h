// Conversions between element types, the same on every device.
#pragma once

#include "core/dtype.h"
#include "core/half.h"
#include "core/status.h"

namespace roots {
namespace {

// f(an element of the dtype)
template <class F>
inline Status by_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::f64: return f(double{});
    case DType::bf16: return f(Bf16{});
    case DType::f16: return f(F16{});
    case DType::i8: return f(int8_t{});
    case DType::u8: return f(uint8_t{});
    case DType::i32: return f(int32_t{});
    case DType::i64: return f(int64_t{});
    case DType::boolean: return f(Bool{});
  }
  return "unknown dtype";
}

template <class T>
ROOTS_PORTABLE T read(T x) {
  return x;
}
ROOTS_PORTABLE float read(Bf16 x) { return bf16_to_f32(x.bits); }
ROOTS_PORTABLE float read(F16 x) { return f16_to_f32(x.bits); }
ROOTS_PORTABLE uint8_t read(Bool x) { return x.value; }

// Float to integer truncates; out of range saturates and NaN gives 0, so that no input is undefined
// behaviour.
template <class I, class X>
ROOTS_PORTABLE I to_integer(X x) {
  if constexpr (static_cast<X>(0.5) == X(0)) {
    return static_cast<I>(x);
  } else {
    constexpr int kBits = static_cast<int>(sizeof(I)) * 8;
    constexpr bool kSigned = static_cast<I>(-1) < I(0);
    constexpr double kMax =
        kSigned ? static_cast<double>((1ull << (kBits - 2))) * 2.0 : static_cast<double>(1ull << kBits % 64);
    constexpr double kMin = kSigned ? -kMax : 0.0;
    const double d = static_cast<double>(x);
    if (d != d) return I(0);
    if (d >= kMax)
      return static_cast<I>(kSigned ? static_cast<I>(~(1ull << (kBits - 1))) : static_cast<I>(~0ull));
    if (d <= kMin) return static_cast<I>(kSigned ? (1ull << (kBits - 1)) : 0ull);
    return static_cast<I>(d);
  }
}

// Integers; what is none has a function of its own.
template <class I, class X>
ROOTS_PORTABLE void write(I& o, X x) {
  o = to_integer<I>(x);
}
template <class X>
ROOTS_PORTABLE void write(float& o, X x) {
  o = static_cast<float>(x);
}
template <class X>
ROOTS_PORTABLE void write(double& o, X x) {
  o = static_cast<double>(x);
}
// double to 16 bits in one rounding: the sticky bit of the first rounding is kept (round to odd).
ROOTS_PORTABLE float to_odd(double x) {
  float f = static_cast<float>(x);
  uint32_t bits;
  __builtin_memcpy(&bits, &f, 4);
  if (static_cast<double>(f) != x && x == x && !(bits & 1u)) {
    const bool up = (static_cast<double>(f) > x) == (x > 0);  // |f| > |x|
    bits += up ? -1u : 1u;
    __builtin_memcpy(&f, &bits, 4);
  }
  return f;
}
template <class X>
ROOTS_PORTABLE float narrow(X x) {
  if constexpr (sizeof(X) == 8)
    return to_odd(static_cast<double>(x));
  else
    return static_cast<float>(x);
}
template <class X>
ROOTS_PORTABLE void write(Bf16& o, X x) {
  o.bits = f32_to_bf16(narrow(x));
}
template <class X>
ROOTS_PORTABLE void write(F16& o, X x) {
  o.bits = f32_to_f16(narrow(x));
}
template <class X>
ROOTS_PORTABLE void write(Bool& o, X x) {
  o.value = x != X(0);
}

}  // namespace
}  // namespace roots
