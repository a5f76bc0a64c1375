// Copies between views and between element types, fills, and the lower triangle.
#include "cuda/declare.cuh"
#include "cuda/map.cuh"

namespace roots {
namespace cuda {
namespace {

template <class F>
Status dispatch(DType dtype, const F& f) {
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
ROOTS_BOTH T read(T x) {
  return x;
}
ROOTS_BOTH float read(Bf16 x) { return to_float(x); }
ROOTS_BOTH float read(F16 x) { return to_float(x); }
ROOTS_BOTH uint8_t read(Bool x) { return x.value; }

// Float to integer truncates; out of range saturates and NaN gives 0.
template <class I, class X>
ROOTS_BOTH I to_integer(X x) {
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

// double to 16 bits in one rounding: the sticky bit of the first rounding is kept (round to odd).
ROOTS_BOTH float to_odd(double x) {
  const float f = static_cast<float>(x);
  uint32_t bits = bits_of(f);
  if (static_cast<double>(f) != x && x == x && !(bits & 1u)) {
    const bool beyond = (static_cast<double>(f) > x) == (x > 0);
    bits += beyond ? 0xffffffffu : 1u;
  }
  return float_from(bits);
}
template <class X>
ROOTS_BOTH float narrow(X x) {
  if constexpr (sizeof(X) == 8)
    return to_odd(static_cast<double>(x));
  else
    return static_cast<float>(x);
}

template <class X>
ROOTS_BOTH void write(float& o, X x) {
  o = static_cast<float>(x);
}
template <class X>
ROOTS_BOTH void write(double& o, X x) {
  o = static_cast<double>(x);
}
template <class X>
ROOTS_BOTH void write(Bf16& o, X x) {
  o = to_bf16(narrow(x));
}
template <class X>
ROOTS_BOTH void write(F16& o, X x) {
  o = to_f16(narrow(x));
}
template <class X>
ROOTS_BOTH void write(int8_t& o, X x) {
  o = to_integer<int8_t>(x);
}
template <class X>
ROOTS_BOTH void write(uint8_t& o, X x) {
  o = to_integer<uint8_t>(x);
}
template <class X>
ROOTS_BOTH void write(int32_t& o, X x) {
  o = to_integer<int32_t>(x);
}
template <class X>
ROOTS_BOTH void write(int64_t& o, X x) {
  o = to_integer<int64_t>(x);
}
template <class X>
ROOTS_BOTH void write(Bool& o, X x) {
  o.value = x != X(0) ? 1 : 0;
}

template <class Unit>
struct Same {
  ROOTS_DEVICE Unit operator()(Unit x) const { return x; }
};
template <class From, class To>
struct Convert {
  ROOTS_DEVICE To operator()(From x) const {
    To o;
    write(o, read(x));
    return o;
  }
};
template <class T>
struct Constant {
  T value;
  ROOTS_DEVICE T operator()() const { return value; }
};

template <class Unit>
__global__ void tril_kernel(const Unit* x, Unit* out, int64_t count, int64_t rows, int64_t columns,
                            int64_t diagonal) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t column = i % columns, row = i / columns % rows;
    out[i] = column <= row + diagonal ? x[i] : Unit(0);
  }
}

}  // namespace

Status copy(const Context&, Tensor x, Tensor out) {
  CHECK(same_shape(x, out), "shapes differ");
  if (x.dtype == out.dtype)
    return by_size(dtype_size(x.dtype), [&](auto unit) {
      using Unit = decltype(unit);
      return map<Unit, Unit>(Same<Unit>{}, {&out, &x});
    });
  return dispatch(x.dtype, [&](auto from) -> Status {
    using From = decltype(from);
    return dispatch(out.dtype, [&](auto to) -> Status {
      using To = decltype(to);
      return map<To, From>(Convert<From, To>{}, {&out, &x});
    });
  });
}

Status fill(const Context&, Tensor out, double value) {
  return dispatch(out.dtype, [&](auto to) {
    using To = decltype(to);
    Constant<To> constant;
    write(constant.value, value);
    return map<To>(constant, {&out});
  });
}

Status tril(const Context&, Tensor x, Tensor out, int64_t diagonal) {
  CHECK(same_shape(x, out) && x.dtype == out.dtype && x.rank >= 2, "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(out), "needs contiguous tensors");
  const int64_t n = numel(x);
  if (n == 0) return nullptr;
  return by_size(dtype_size(x.dtype), [&](auto unit) {
    using Unit = decltype(unit);
    return launch(tril_kernel<Unit>, grid_for(ceil_div(n, kMapThreads)), kMapThreads, 0, data<Unit>(x),
                  data<Unit>(out), n, x.shape[x.rank - 2], x.shape[x.rank - 1], diagonal);
  });
}

}  // namespace cuda
}  // namespace roots
