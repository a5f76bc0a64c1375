// matmul and linear of operands in bfloat16, or rounded to it.
#include "cuda/declare.cuh"
#include "cuda/gemm/half.cuh"

namespace roots {
namespace cuda {

Status matmul_bf16(const Context&, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  return matmul_half<Bf16Product>(DType::bf16, a, b, out, accumulate);
}

Status linear_bf16(const Context&, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                   OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  return linear_half<Bf16Product>(DType::bf16, x, weight, out, end);
}

}  // namespace cuda
}  // namespace roots
