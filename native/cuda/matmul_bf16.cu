// matmul and linear with products in bfloat16 and float32 sums: operands float32 or bfloat16, out float32.
#include "cuda/declare.cuh"
#include "cuda/gemm/sm90.cuh"

namespace roots {
namespace cuda {
namespace {

bool float_or_bf16(const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; }

sm80::Operand operand(const Tensor& t, int64_t row_stride, int64_t column_stride) {
  return {t.data, t.dtype == DType::bf16 ? sm80::Source::bf16 : sm80::Source::f32, row_stride, column_stride};
}

Status product(int64_t M, int64_t N, int64_t K, const sm80::Operand& a, const sm80::Operand& b,
               const Batches& batches, const Epilogue<float>& epilogue) {
  const sm80::StoreFloat finish{epilogue, M, N};
  if (batches.count == 1 && sm90::fits(M, N, K) && hopper::wanted()) return sm90::gemm(M, N, K, a, b, finish);
  return sm80::gemm<Bf16Product>(M, N, K, a, b, batches, finish);
}

}  // namespace

Status matmul_bf16(const Context&, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  if (const Status status = check_product(a, b, out)) return status;
  CHECK(float_or_bf16(a) && float_or_bf16(b) && out.dtype == DType::f32,
        "needs float32 or bfloat16, float32 out");
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1];
  Epilogue<float> epilogue;
  epilogue.out = data<float>(out);
  epilogue.accumulate = accumulate != 0;
  return product(M, N, a.shape[r - 1], operand(a, a.strides[r - 2], a.strides[r - 1]),
                 operand(b, b.strides[r - 1], b.strides[r - 2]), Batches(a, b, out), epilogue);
}

Status linear_bf16(const Context&, Tensor x, Tensor weight, OptionalTensor bias, Tensor out,
                   OptionalTensor pre, int64_t activation) {
  if (const Status status = check_linear(x, weight, bias, out, pre, activation)) return status;
  CHECK(float_or_bf16(x) && float_or_bf16(weight) && out.dtype == DType::f32,
        "needs float32 or bfloat16, float32 out");
  Epilogue<float> epilogue;
  epilogue.out = data<float>(out);
  epilogue.pre = data<float>(pre);
  epilogue.bias = data<float>(bias);
  epilogue.activation = static_cast<Activation>(activation);
  const int64_t M = x.shape[0], N = weight.shape[0];
  return product(M, N, x.shape[1], operand(x, x.strides[0], x.strides[1]),
                 operand(weight, weight.strides[0], weight.strides[1]), Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
