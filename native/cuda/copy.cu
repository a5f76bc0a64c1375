// Copies between views and between element types, fills, and the lower triangle.
#include "core/convert.h"
#include "cuda/declare.cuh"
#include "cuda/map.cuh"

namespace roots {
namespace cuda {
namespace {

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
  return by_dtype(x.dtype, [&](auto from) -> Status {
    using From = decltype(from);
    return by_dtype(out.dtype, [&](auto to) -> Status {
      using To = decltype(to);
      return map<To, From>(Convert<From, To>{}, {&out, &x});
    });
  });
}

Status fill(const Context&, Tensor out, double value) {
  return by_dtype(out.dtype, [&](auto to) {
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
