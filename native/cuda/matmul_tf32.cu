// matmul and linear of float32 tensors with products in TF32: operands rounded to 10 bits of mantissa, half
// away from zero as cvt.rna.tf32.f32 does, float32 sums.
#include "cuda/declare.cuh"
#include "cuda/gemm/sm80.cuh"

namespace roots {
namespace cuda {

Status matmul_tf32(const Context&, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  if (const Status status = check_product(a, b, out)) return status;
  CHECK(a.dtype == DType::f32 && b.dtype == DType::f32 && out.dtype == DType::f32, "needs float32");
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1];
  const auto epilogue = product_epilogue<float>(out, accumulate);
  return sm80::gemm<Tf32Product>(M, N, a.shape[r - 1],
                                 {a.data, sm80::Source::f32, a.strides[r - 2], a.strides[r - 1]},
                                 {b.data, sm80::Source::f32, b.strides[r - 1], b.strides[r - 2]},
                                 Batches(a, b, out), sm80::StoreFloat{epilogue, M, N});
}

Status linear_tf32(const Context&, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                   OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  if (const Status status = check_linear(x, weight, out, end)) return status;
  CHECK(x.dtype == DType::f32 && weight.dtype == DType::f32 && out.dtype == DType::f32, "needs float32");
  const auto epilogue = linear_epilogue<float>(end, out);
  const int64_t M = x.shape[0], N = weight.shape[0];
  return sm80::gemm<Tf32Product>(M, N, x.shape[1], {x.data, sm80::Source::f32, x.strides[0], x.strides[1]},
                                 {weight.data, sm80::Source::f32, weight.strides[0], weight.strides[1]},
                                 Batches(), sm80::StoreFloat{epilogue, M, N});
}

}  // namespace cuda
}  // namespace roots
