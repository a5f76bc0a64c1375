// matmul and linear of operands rounded to float16, or stored in it, with float32 products and sums: no
// processor here multiplies float16 numbers. Rounded operands go through a workspace.
#include "core/half.h"
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

ROOTS_INLINE void round_row(const float* from, float* to, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i,
                     _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT)));
#endif
  for (; i < n; ++i) to[i] = f16_to_f32(f32_to_f16(from[i]));
}
ROOTS_INLINE void round_row(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = f16_to_f32(from[i]);
}

// t as float32 numbers that float16 has, in memory of its own, its last two axes in the order they have in t.
Status rounded(const Context& context, const Tensor& t, int slot, Tensor* out) {
  CHECK(t.dtype == DType::f32 || t.dtype == DType::f16, "needs float32 or float16");
  const int64_t n = numel(t);
  auto* to =
      static_cast<float*>(context.workspace(context.host, slot, static_cast<size_t>(n + 1) * sizeof(float)));
  CHECK(to != nullptr, "out of memory");
  Tensor from = t;
  *out = t;
  out->data = to;
  out->dtype = DType::f32;
  const int32_t r = t.rank;
  const bool turned = t.strides[r - 1] != 1 && t.strides[r - 2] == 1;
  int64_t step = 1;
  for (int32_t i = r - 1; i >= 0; --i) {
    const int32_t axis = !turned || i < r - 2 ? i : 2 * r - 3 - i;
    out->strides[axis] = step;
    step *= t.shape[axis];
    from.shape[i] = t.shape[axis];
    from.strides[i] = t.strides[axis];
  }
  Tensor dense = from;
  dense.data = to;
  step = 1;
  for (int32_t i = r - 1; i >= 0; step *= dense.shape[i--]) dense.strides[i] = step;
  const Tensor* const views[] = {&from, &dense};
  const Walk<2> walk(views);
  const int64_t stride = walk.inner_stride(0);
  const auto convert = [&](const auto* data) {
    context.parallel_for(walk.chunks, [&](int64_t chunk) {
      walk.run(chunk, [&](const int64_t* at, int64_t count) {
        if (stride == 1) return round_row(data + at[0], to + at[1], count);
        for (int64_t i = 0; i < count; ++i) round_row(data + at[0] + i * stride, to + at[1] + i, 1);
      });
    });
  };
  if (t.dtype == DType::f32)
    convert(data<const float>(t));
  else
    convert(data<const uint16_t>(t));
  return nullptr;
}

}  // namespace

Status matmul_f16(const Context& context, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  CHECK(out.dtype == DType::f32 && a.rank >= 2 && b.rank >= 2, "needs matrices, float32 out");
  Tensor wide_a, wide_b;
  if (const Status status = rounded(context, a, 4, &wide_a)) return status;
  if (const Status status = rounded(context, b, 5, &wide_b)) return status;
  return ROOTS_ISA::matmul(context, wide_a, wide_b, out, accumulate);
}

Status linear_f16(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, Tensor out,
                  OptionalTensor pre, int64_t activation) {
  CHECK(out.dtype == DType::f32 && x.rank == 2 && weight.rank == 2, "needs matrices, float32 out");
  Tensor wide_x, wide_weight;
  if (const Status status = rounded(context, x, 4, &wide_x)) return status;
  if (const Status status = rounded(context, weight, 5, &wide_weight)) return status;
  return ROOTS_ISA::linear(context, wide_x, wide_weight, bias, out, pre, activation);
}

}  // namespace ROOTS_ISA
}  // namespace roots
