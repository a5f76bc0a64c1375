// Copies between views and between element types, and fills. Every other kernel may assume float32/float64:
// lib/ops converts through this file.
#include "core/convert.h"
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

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
  return by_dtype(x.dtype, [&](auto from) -> Status {
    using From = decltype(from);
    return by_dtype(out.dtype, [&](auto to) -> Status {
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
  return by_dtype(out.dtype, [&](auto to) -> Status {
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
