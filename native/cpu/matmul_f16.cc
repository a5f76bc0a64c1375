// matmul and linear of operands rounded to float16, or stored in it, with float32 products and sums: no
// processor here multiplies float16 numbers. Rounded operands go through a workspace.
#include "cpu/declare.h"
#include "cpu/layout.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

void swap_last_two(Tensor* t) {
  int64_t* const lists[] = {t->shape, t->strides};
  for (int64_t* list : lists) {
    const int64_t last = list[t->rank - 1];
    list[t->rank - 1] = list[t->rank - 2];
    list[t->rank - 2] = last;
  }
}

// t as float32 numbers that float16 has, in memory of its own, its last two axes in the order they have in t.
Status rounded(const Context& context, Tensor t, int slot, Tensor* out) {
  CHECK(t.dtype == DType::f32 || t.dtype == DType::f16, "needs float32 or float16");
  const auto n = static_cast<size_t>(numel(t));
  auto* wide =
      static_cast<float*>(context.workspace(context.host, slot, n * (sizeof(float) + sizeof(uint16_t)) + 64));
  CHECK(wide != nullptr, "out of memory");
  const bool turned = t.strides[t.rank - 1] != 1 && t.strides[t.rank - 2] == 1;
  if (turned) swap_last_two(&t);  // so that copies walk along rows
  Tensor half = t;
  half.data = wide + n;
  half.dtype = DType::f16;
  for (int64_t i = t.rank - 1, step = 1; i >= 0; step *= t.shape[i--]) half.strides[i] = step;
  *out = half;
  out->data = wide;
  out->dtype = DType::f32;
  const bool stored = t.dtype == DType::f16;
  if (!stored)
    if (const Status status = ROOTS_ISA::copy(context, t, half)) return status;
  const Status status = ROOTS_ISA::copy(context, stored ? t : half, *out);
  if (turned) swap_last_two(out);
  return status;
}

}  // namespace

Status matmul_f16(const Context& context, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  CHECK(out.dtype == DType::f32 && a.rank >= 2 && b.rank >= 2, "needs matrices, float32 out");
  Tensor wide_a, wide_b;
  if (const Status status = rounded(context, a, 4, &wide_a)) return status;
  if (const Status status = rounded(context, b, 5, &wide_b)) return status;
  return ROOTS_ISA::matmul(context, wide_a, wide_b, out, accumulate);
}

Status linear_f16(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                  OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  CHECK(out.dtype == DType::f32 && x.rank == 2 && weight.rank == 2, "needs matrices, float32 out");
  Tensor wide_x, wide_weight;
  if (const Status status = rounded(context, x, 4, &wide_x)) return status;
  if (const Status status = rounded(context, weight, 5, &wide_weight)) return status;
  return ROOTS_ISA::linear(context, wide_x, wide_weight, bias, gate, residual, out, slope, activation);
}

}  // namespace ROOTS_ISA
}  // namespace roots
