// Copies between views and between element types, and fills. Every other kernel may assume float32/float64:
// lib/ops converts through this file.
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// 16-bit floats as distinct types, so that convert() can be overloaded.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
struct Bool {
  uint8_t value;
};

template <class F>
ROOTS_INLINE Status dispatch(DType dtype, const F& f) {
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
ROOTS_INLINE T read(T x) {
  return x;
}
ROOTS_INLINE float read(Bf16 x) { return bf16_to_f32(x.bits); }
ROOTS_INLINE float read(F16 x) { return f16_to_f32(x.bits); }
ROOTS_INLINE uint8_t read(Bool x) { return x.value; }

// Float to integer truncates; out of range saturates and NaN gives 0, so that no input is undefined
// behaviour.
template <class I, class X>
ROOTS_INLINE I to_integer(X x) {
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

template <class X>
ROOTS_INLINE void write(float& o, X x) {
  o = static_cast<float>(x);
}
template <class X>
ROOTS_INLINE void write(double& o, X x) {
  o = static_cast<double>(x);
}
// double to 16 bits in one rounding: the sticky bit of the first rounding is kept (round to odd).
ROOTS_INLINE float to_odd(double x) {
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
ROOTS_INLINE float narrow(X x) {
  return sizeof(X) == 8 ? to_odd(static_cast<double>(x)) : static_cast<float>(x);
}
template <class X>
ROOTS_INLINE void write(Bf16& o, X x) {
  o.bits = f32_to_bf16(narrow(x));
}
template <class X>
ROOTS_INLINE void write(F16& o, X x) {
  o.bits = f32_to_f16(narrow(x));
}
template <class X>
ROOTS_INLINE void write(int8_t& o, X x) {
  o = to_integer<int8_t>(x);
}
template <class X>
ROOTS_INLINE void write(uint8_t& o, X x) {
  o = to_integer<uint8_t>(x);
}
template <class X>
ROOTS_INLINE void write(int32_t& o, X x) {
  o = to_integer<int32_t>(x);
}
template <class X>
ROOTS_INLINE void write(int64_t& o, X x) {
  o = to_integer<int64_t>(x);
}
template <class X>
ROOTS_INLINE void write(Bool& o, X x) {
  o.value = x != X(0);
}

// Same element type: bytes, by the widest unit of that size.
template <class Unit>
ROOTS_INLINE void copy_units(const Context& context, const Walk<2>& walk, const Tensor& x,
                             const Tensor& out) {
  context.parallel_for(walk.chunks, [&](int64_t chunk) {
    walk.run(chunk, [&](const int64_t(&o)[2], int64_t n) {
      Unit* to = data<Unit>(out) + o[0];
      const Unit* from = data<Unit>(x) + o[1];
      const int64_t to_stride = walk.inner_stride(0), from_stride = walk.inner_stride(1);
      if (to_stride == 1 && from_stride == 1) {
        __builtin_memmove(to, from, static_cast<size_t>(n) * sizeof(Unit));
      } else {
        for (int64_t i = 0; i < n; ++i) to[i * to_stride] = from[i * from_stride];
      }
    });
  });
}

}  // namespace

Status copy(const Context& context, Tensor x, Tensor out) {
  CHECK(same_shape(x, out), "shapes differ");
  const Tensor* const views[2] = {&out, &x};
  const Walk<2> walk(views);
  if (x.dtype == out.dtype) {
    switch (dtype_size(x.dtype)) {
      case 8: copy_units<uint64_t>(context, walk, x, out); break;
      case 4: copy_units<uint32_t>(context, walk, x, out); break;
      case 2: copy_units<uint16_t>(context, walk, x, out); break;
      default: copy_units<uint8_t>(context, walk, x, out);
    }
    return nullptr;
  }
  return dispatch(x.dtype, [&](auto from) -> Status {
    using From = decltype(from);
    return dispatch(out.dtype, [&](auto to) -> Status {
      using To = decltype(to);
      context.parallel_for(walk.chunks, [&](int64_t chunk) {
        walk.run(chunk, [&](const int64_t(&o)[2], int64_t n) {
          To* t = data<To>(out) + o[0];
          const From* f = data<From>(x) + o[1];
          const int64_t ts = walk.inner_stride(0), fs = walk.inner_stride(1);
          if (ts == 1 && fs == 1)
            for (int64_t i = 0; i < n; ++i) write(t[i], read(f[i]));
          else
            for (int64_t i = 0; i < n; ++i) write(t[i * ts], read(f[i * fs]));
        });
      });
      return nullptr;
    });
  });
}

Status fill(const Context& context, Tensor out, double value) {
  const Tensor* const views[1] = {&out};
  const Walk<1> walk(views);
  return dispatch(out.dtype, [&](auto to) -> Status {
    using To = decltype(to);
    To element;
    write(element, value);
    context.parallel_for(walk.chunks, [&](int64_t chunk) {
      walk.run(chunk, [&](const int64_t(&o)[1], int64_t n) {
        To* t = data<To>(out) + o[0];
        for (int64_t i = 0; i < n; ++i) t[i * walk.inner_stride(0)] = element;
      });
    });
    return nullptr;
  });
}

}  // namespace ROOTS_ISA
}  // namespace roots
