// matmul and linear of operands in float16, or rounded to it.
#include "cuda/declare.cuh"
#include "cuda/gemm/half.cuh"

namespace roots {
namespace cuda {

Status matmul_f16(const Context&, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  return matmul_half<F16Product>(DType::f16, a, b, out, accumulate);
}

Status linear_f16(const Context&, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                  OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  return linear_half<F16Product>(DType::f16, x, weight, out, end);
}

}  // namespace cuda
}  // namespace roots
