// matmul and linear with products in bf16 and float32 sums: operands float32 or bf16, out float32.
#include "cpu/declare.h"
#include "cpu/gemm/bf16.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

bool float_or_bf16(const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; }

// offset in elements
ROOTS_INLINE HalfMatrix half(const Tensor& t, int64_t offset, int64_t row_stride, int64_t column_stride) {
  const bool is_bf16 = t.dtype == DType::bf16;
  return {static_cast<const char*>(t.data) + offset * (is_bf16 ? 2 : 4), is_bf16, row_stride, column_stride};
}

}  // namespace

Status matmul_bf16(const Context& context, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  if (Status status = check_product(a, b, out)) return status;
  CHECK(float_or_bf16(a) && float_or_bf16(b) && out.dtype == DType::f32,
        "needs float32 or bfloat16, float32 out");
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1], K = a.shape[r - 1];
  Epilogue<float> epilogue;
  epilogue.accumulate = accumulate != 0;
  return each_product(context, a, b, out, [&](int64_t batch, int64_t ao, int64_t bo, auto serial) {
    return gemm_bf16<decltype(serial)::value>(
        context, M, N, K, half(a, ao, a.strides[r - 2], a.strides[r - 1]),
        half(b, bo, b.strides[r - 2], b.strides[r - 1]), data<float>(out) + batch * M * N, N, epilogue);
  });
}

Status linear_bf16(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                   OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  if (Status status = check_linear(x, weight, out, end)) return status;
  CHECK(float_or_bf16(x) && float_or_bf16(weight) && out.dtype == DType::f32,
        "needs float32 or bfloat16, float32 out");
  return gemm_bf16<false>(context, x.shape[0], weight.shape[0], x.shape[1],
                          half(x, 0, x.strides[0], x.strides[1]),
                          half(weight, 0, weight.strides[1], weight.strides[0]), data<float>(out),
                          weight.shape[0], Epilogue<float>(end));
}

}  // namespace ROOTS_ISA
}  // namespace roots
