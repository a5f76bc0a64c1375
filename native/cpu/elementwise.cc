// Element-wise kernels: walk the views row by row; whole vectors where a row is dense or constant, otherwise
// elements are gathered into a vector first. The formulas are in core/elementwise.h.
#include "core/elementwise.h"

#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// One vector from a row of stride 0, 1 or anything else.
template <class T>
ROOTS_INLINE Vec<T> load_row(const T* p, int64_t stride, int64_t i, int64_t n) {
  if (stride == 1) return n == Vec<T>::kWidth ? Vec<T>::load(p + i) : Vec<T>::load_partial(p + i, n);
  if (stride == 0) return Vec<T>(*p);
  Vec<T> r{};
  for (int64_t j = 0; j < n; ++j) r.v[j] = p[(i + j) * stride];
  return r;
}

template <class T>
ROOTS_INLINE void store_row(Vec<T> value, T* p, int64_t stride, int64_t i, int64_t n) {
  if (stride == 1) {
    if (n == Vec<T>::kWidth)
      value.store(p + i);
    else
      value.store_partial(p + i, n);
    return;
  }
  for (int64_t j = 0; j < n; ++j) p[(i + j) * stride] = value.v[j];
}

// out = f(inputs...), all of element type T.
template <class T, int N, class F>
ROOTS_INLINE Status map(const Context& context, const Tensor* const (&views)[N], const F& f) {
  for (int k = 1; k < N; ++k) {
    CHECK(views[k]->dtype == views[0]->dtype, "dtypes differ");
    CHECK(same_shape(*views[0], *views[k]), "shapes differ");
  }
  const Walk<N> walk(views);
  T* pointers[N];
  for (int k = 0; k < N; ++k) pointers[k] = data<T>(*views[k]);
  bool dense = true;
  for (int k = 0; k < N; ++k) dense = dense && walk.inner_stride(k) == 1;
  context.parallel_for(walk.chunks, [&](int64_t chunk) {
    walk.run(chunk, [&](const int64_t(&offsets)[N], int64_t n) {
      constexpr int64_t kWidth = Vec<T>::kWidth;
      int64_t i = 0;
      // the common case gets a loop without decisions in it, three times as fast; float alone, for the sake
      // of compile time
      if constexpr (sizeof(T) == 4 && static_cast<T>(0.5) != 0) {
        if (dense) {
          T* p[N];
          for (int k = 0; k < N; ++k) p[k] = pointers[k] + offsets[k];
          for (; i + kWidth <= n; i += kWidth) {
            Vec<T> in[N];
            for (int k = 1; k < N; ++k) in[k] = Vec<T>::load(p[k] + i);
            f(in).store(p[0] + i);
          }
        }
      }
      for (; i < n; i += kWidth) {
        const int64_t m = n - i < kWidth ? n - i : kWidth;
        Vec<T> in[N];
        for (int k = 1; k < N; ++k) in[k] = load_row(pointers[k] + offsets[k], walk.inner_stride(k), i, m);
        store_row(f(in), pointers[0] + offsets[0], walk.inner_stride(0), i, m);
      }
    });
  });
  return nullptr;
}

template <class F>
ROOTS_INLINE Status dispatch_float(DType dtype, const F& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  return "needs float32 or float64";
}

template <class F>
ROOTS_INLINE Status dispatch_number(DType dtype, const F& f) {
  if (dtype == DType::i32) return f(int32_t{});
  if (dtype == DType::i64) return f(int64_t{});
  return dispatch_float(dtype, f);
}

template <class Formula>
Status unary_forward(const Context& context, const Tensor& x, const Tensor& out) {
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, 2>(context, {&out, &x}, [](const Vec<T>(&in)[2]) { return Formula::forward(in[1]); });
  });
}

template <class Formula>
Status unary_backward(const Context& context, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, 3>(context, {&dx, &dy, &x},
                     [](const Vec<T>(&in)[3]) { return in[1] * Formula::derivative(in[2]); });
  });
}

template <class Formula>
Status binary(const Context& context, const Tensor& a, const Tensor& b, const Tensor& out) {
  return dispatch_number(out.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, 3>(context, {&out, &a, &b},
                     [](const Vec<T>(&in)[3]) { return Formula::apply(in[1], in[2]); });
  });
}

template <class Formula>
Status compare(const Context& context, const Tensor& a, const Tensor& b, const Tensor& out) {
  CHECK(out.dtype == DType::boolean && a.dtype == b.dtype, "dtypes differ");
  CHECK(same_shape(a, b) && same_shape(a, out), "shapes differ");
  const Tensor* const views[3] = {&out, &a, &b};
  return dispatch_number(a.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    const Walk<3> walk(views);
    context.parallel_for(walk.chunks, [&](int64_t chunk) {
      walk.run(chunk, [&](const int64_t(&offsets)[3], int64_t n) {
        constexpr int64_t kWidth = Vec<T>::kWidth;
        uint8_t* o = data<uint8_t>(out) + offsets[0];
        for (int64_t i = 0; i < n; i += kWidth) {
          const int64_t m = n - i < kWidth ? n - i : kWidth;
          const auto mask = Formula::apply(load_row(data<T>(a) + offsets[1], walk.inner_stride(1), i, m),
                                           load_row(data<T>(b) + offsets[2], walk.inner_stride(2), i, m));
          for (int64_t j = 0; j < m; ++j) o[(i + j) * walk.inner_stride(0)] = mask[j] ? 1 : 0;
        }
      });
    });
    return nullptr;
  });
}

// Division of integers would trap on zero; lib/ops promotes them to float first.
template <>
ROOTS_INLINE Status binary<formula::div_formula>(const Context& context, const Tensor& a, const Tensor& b,
                                                 const Tensor& out) {
  return dispatch_float(out.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, 3>(context, {&out, &a, &b}, [](const Vec<T>(&in)[3]) { return in[1] / in[2]; });
  });
}

}  // namespace

#undef UNARY
#undef BINARY
#undef COMPARE
#define KERNEL(...)
#define UNARY(name)                                                                \
  Status name##_forward(const Context& context, Tensor x, Tensor out) {            \
    return unary_forward<formula::name##_formula>(context, x, out);                \
  }                                                                                \
  Status name##_backward(const Context& context, Tensor dy, Tensor x, Tensor dx) { \
    return unary_backward<formula::name##_formula>(context, dy, x, dx);            \
  }
#define BINARY(name)                                                    \
  Status name(const Context& context, Tensor a, Tensor b, Tensor out) { \
    return binary<formula::name##_formula>(context, a, b, out);         \
  }
#define COMPARE(name)                                                   \
  Status name(const Context& context, Tensor a, Tensor b, Tensor out) { \
    return compare<formula::name##_formula>(context, a, b, out);        \
  }
#include "kernels.def"
#undef KERNEL

Status affine(const Context& context, Tensor x, Tensor out, double scale, double shift) {
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    const Vec<T> s(static_cast<T>(scale)), b(static_cast<T>(shift));
    // two roundings, as x * s + b written out: the same bits on every instruction set
    return map<T, 2>(context, {&out, &x}, [&](const Vec<T>(&in)[2]) { return in[1] * s + b; });
  });
}

Status clamp_forward(const Context& context, Tensor x, Tensor out, double low, double high) {
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    const Vec<T> lo(static_cast<T>(low)), hi(static_cast<T>(high));
    return map<T, 2>(context, {&out, &x}, [&](const Vec<T>(&in)[2]) { return min(max(in[1], lo), hi); });
  });
}

Status clamp_backward(const Context& context, Tensor dy, Tensor x, Tensor dx, double low, double high) {
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    const Vec<T> lo(static_cast<T>(low)), hi(static_cast<T>(high)), zero(T(0));
    return map<T, 3>(context, {&dx, &dy, &x}, [&](const Vec<T>(&in)[3]) {
      return select<T>(in[2] < lo, zero, select<T>(in[2] > hi, zero, in[1]));
    });
  });
}

Status swiglu_forward(const Context& context, Tensor gate, Tensor up, Tensor out) {
  return dispatch_float(gate.dtype, [&](auto t) {
    using T = decltype(t);
    return map<T, 3>(context, {&out, &gate, &up},
                     [](const Vec<T>(&in)[3]) { return formula::silu_formula::forward(in[1]) * in[2]; });
  });
}

Status swiglu_backward(const Context& context, Tensor dy, Tensor gate, Tensor up, Tensor dgate, Tensor dup) {
  CHECK(same_shape(dgate, dup), "shapes differ");
  return dispatch_float(gate.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    const Status status = map<T, 4>(context, {&dgate, &dy, &gate, &up}, [](const Vec<T>(&in)[4]) {
      return in[1] * in[3] * formula::silu_formula::derivative(in[2]);
    });
    if (status) return status;
    return map<T, 3>(context, {&dup, &dy, &gate},
                     [](const Vec<T>(&in)[3]) { return in[1] * formula::silu_formula::forward(in[2]); });
  });
}

Status where(const Context& context, Tensor condition, Tensor a, Tensor b, Tensor out) {
  CHECK(condition.dtype == DType::boolean, "condition must be bool");
  CHECK(a.dtype == out.dtype && b.dtype == out.dtype, "dtypes differ");
  CHECK(same_shape(condition, out) && same_shape(a, out) && same_shape(b, out), "shapes differ");
  return dispatch_number(out.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    const Tensor* const views[4] = {&out, &condition, &a, &b};
    const Walk<4> walk(views);
    context.parallel_for(walk.chunks, [&](int64_t chunk) {
      walk.run(chunk, [&](const int64_t(&o)[4], int64_t n) {
        for (int64_t i = 0; i < n; ++i)
          data<T>(out)[o[0] + i * walk.inner_stride(0)] =
              data<uint8_t>(condition)[o[1] + i * walk.inner_stride(1)]
                  ? data<T>(a)[o[2] + i * walk.inner_stride(2)]
                  : data<T>(b)[o[3] + i * walk.inner_stride(3)];
      });
    });
    return nullptr;
  });
}

Status tril(const Context& context, Tensor x, Tensor out, int64_t diagonal) {
  CHECK(same_shape(x, out) && x.dtype == out.dtype && x.rank >= 2, "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(out), "needs contiguous tensors");
  const int64_t columns = x.shape[x.rank - 1], rows = x.shape[x.rank - 2];
  const int64_t size = dtype_size(x.dtype), total = numel(x) / (columns > 0 ? columns : 1);
  context.parallel_for((total + 63) / 64, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * 64 < total ? (chunk + 1) * 64 : total;
    for (int64_t r = chunk * 64; r < end; ++r) {
      int64_t keep = r % rows + diagonal + 1;
      keep = keep < 0 ? 0 : keep > columns ? columns : keep;
      const char* from = data<char>(x) + r * columns * size;
      char* to = data<char>(out) + r * columns * size;
      __builtin_memmove(to, from, static_cast<size_t>(keep * size));
      __builtin_memset(to + keep * size, 0, static_cast<size_t>((columns - keep) * size));
    }
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
