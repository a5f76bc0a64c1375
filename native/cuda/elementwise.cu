// Element-wise kernels; the formulas are in core/elementwise.h.
#include "core/elementwise.h"
#include "cuda/declare.cuh"
#include "cuda/map.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T, class Formula>
struct Forward {
  ROOTS_DEVICE T operator()(T x) const { return Formula::forward(Number<T>(x)).v; }
};
template <class T, class Formula>
struct Backward {
  ROOTS_DEVICE T operator()(T dy, T x) const { return dy * Formula::derivative(Number<T>(x)).v; }
};
template <class T, class Formula>
struct Apply {
  ROOTS_DEVICE T operator()(T a, T b) const { return Formula::apply(Number<T>(a), Number<T>(b)).v; }
};
template <class T, class Formula>
struct Compare {
  ROOTS_DEVICE uint8_t operator()(T a, T b) const {
    return Formula::apply(Number<T>(a), Number<T>(b)) ? 1 : 0;
  }
};
template <class T>
struct Affine {
  T scale, shift;
  ROOTS_DEVICE T operator()(T x) const { return x * scale + shift; }
};
template <class T>
struct Clamp {
  T low, high;
  ROOTS_DEVICE T operator()(T x) const {
    const Number<T> lo(low), hi(high);
    return min(max(Number<T>(x), lo), hi).v;
  }
};
template <class T>
struct ClampBackward {
  T low, high;
  ROOTS_DEVICE T operator()(T dy, T x) const { return x < low || x > high ? T(0) : dy; }
};
template <class T>
struct Where {
  ROOTS_DEVICE T operator()(uint8_t condition, T a, T b) const { return condition ? a : b; }
};
template <class T>
struct SwiGLU {
  ROOTS_DEVICE T operator()(T gate, T up) const {
    return formula::silu_formula::forward(Number<T>(gate)).v * up;
  }
};
template <class T>
struct SwiGLUGate {
  ROOTS_DEVICE T operator()(T dy, T gate, T up) const {
    return dy * up * formula::silu_formula::derivative(Number<T>(gate)).v;
  }
};

bool dtypes_agree(const Tensor& a, const Tensor& b) { return a.dtype == b.dtype; }

template <class Formula>
Status unary_forward(const Tensor& x, const Tensor& out) {
  CHECK(dtypes_agree(x, out), "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T>(Forward<T, Formula>{}, {&out, &x});
  });
}
template <class Formula>
Status unary_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  CHECK(dtypes_agree(x, dy) && dtypes_agree(x, dx), "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T, T>(Backward<T, Formula>{}, {&dx, &dy, &x});
  });
}
template <class Formula>
Status binary(const Tensor& a, const Tensor& b, const Tensor& out) {
  CHECK(dtypes_agree(a, b) && dtypes_agree(a, out), "dtypes differ");
  return dispatch_number(out.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T, T>(Apply<T, Formula>{}, {&out, &a, &b});
  });
}
// Division of integers: lib/ops promotes them to float first.
template <>
Status binary<formula::div_formula>(const Tensor& a, const Tensor& b, const Tensor& out) {
  CHECK(dtypes_agree(a, b) && dtypes_agree(a, out), "dtypes differ");
  return dispatch_float(out.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T, T>(Apply<T, formula::div_formula>{}, {&out, &a, &b});
  });
}
template <class Formula>
Status compare(const Tensor& a, const Tensor& b, const Tensor& out) {
  CHECK(out.dtype == DType::boolean && dtypes_agree(a, b), "dtypes differ");
  return dispatch_number(a.dtype, [&](auto t) {
    using T = decltype(t);
    return map<uint8_t, T, T>(Compare<T, Formula>{}, {&out, &a, &b});
  });
}

}  // namespace

#undef UNARY
#undef BINARY
#undef COMPARE
#define KERNEL(...)
#define UNARY(name)                                                        \
  Status name##_forward(const Context&, Tensor x, Tensor out) {            \
    return unary_forward<formula::name##_formula>(x, out);                 \
  }                                                                        \
  Status name##_backward(const Context&, Tensor dy, Tensor x, Tensor dx) { \
    return unary_backward<formula::name##_formula>(dy, x, dx);             \
  }
#define BINARY(name)                                            \
  Status name(const Context&, Tensor a, Tensor b, Tensor out) { \
    return binary<formula::name##_formula>(a, b, out);          \
  }
#define COMPARE(name)                                           \
  Status name(const Context&, Tensor a, Tensor b, Tensor out) { \
    return compare<formula::name##_formula>(a, b, out);         \
  }
#include "kernels.def"
#undef KERNEL

Status affine(const Context&, Tensor x, Tensor out, double scale, double shift) {
  CHECK(dtypes_agree(x, out), "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T>(Affine<T>{static_cast<T>(scale), static_cast<T>(shift)}, {&out, &x});
  });
}

Status clamp_forward(const Context&, Tensor x, Tensor out, double low, double high) {
  CHECK(dtypes_agree(x, out), "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T>(Clamp<T>{static_cast<T>(low), static_cast<T>(high)}, {&out, &x});
  });
}

Status clamp_backward(const Context&, Tensor dy, Tensor x, Tensor dx, double low, double high) {
  CHECK(dtypes_agree(x, dy) && dtypes_agree(x, dx), "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T, T>(ClampBackward<T>{static_cast<T>(low), static_cast<T>(high)}, {&dx, &dy, &x});
  });
}

Status where(const Context&, Tensor condition, Tensor a, Tensor b, Tensor out) {
  CHECK(condition.dtype == DType::boolean, "condition must be bool");
  CHECK(dtypes_agree(a, out) && dtypes_agree(b, out), "dtypes differ");
  return dispatch_number(out.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, uint8_t, T, T>(Where<T>{}, {&out, &condition, &a, &b});
  });
}

Status swiglu_forward(const Context&, Tensor gate, Tensor up, Tensor out) {
  CHECK(dtypes_agree(gate, up) && dtypes_agree(gate, out), "dtypes differ");
  return dispatch_float(gate.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, T, T>(SwiGLU<T>{}, {&out, &gate, &up});
  });
}

Status swiglu_backward(const Context&, Tensor dy, Tensor gate, Tensor up, Tensor dgate, Tensor dup) {
  CHECK(dtypes_agree(gate, up) && dtypes_agree(gate, dy) && dtypes_agree(gate, dgate) &&
            dtypes_agree(gate, dup),
        "dtypes differ");
  return dispatch_float(gate.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    if (const Status status = map<T, T, T, T>(SwiGLUGate<T>{}, {&dgate, &dy, &gate, &up})) return status;
    return map<T, T, T>(SwiGLU<T>{}, {&dup, &gate, &dy});
  });
}

}  // namespace cuda
}  // namespace roots
