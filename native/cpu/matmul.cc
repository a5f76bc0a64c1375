// matmul (batched, any strides) and linear (y = gate * activation(x W^T + b) + residual), over gemm/gemm.h.
#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status matmul_typed(const Context& context, const Tensor& a, const Tensor& b, const Tensor& out,
                    bool accumulate) {
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1], K = a.shape[r - 1];
  Epilogue<T> epilogue;
  epilogue.accumulate = accumulate;
  return each_product(context, a, b, out, [&](int64_t batch, int64_t ao, int64_t bo, auto serial) {
    return gemm<T, decltype(serial)::value>(
        context, M, N, K, {data<T>(a) + ao, a.strides[r - 2], a.strides[r - 1]},
        {data<T>(b) + bo, b.strides[r - 2], b.strides[r - 1]}, data<T>(out) + batch * M * N, N, epilogue);
  });
}

template <class T>
Status linear_typed(const Context& context, const Tensor& x, const Tensor& weight, const Tensor& out,
                    const LinearEnd& end) {
  const Matrix<T> a{data<T>(x), x.strides[0], x.strides[1]};
  const Matrix<T> b{data<T>(weight), weight.strides[1], weight.strides[0]};  // (K, N) view of (N, K)
  return gemm<T, false>(context, x.shape[0], weight.shape[0], x.shape[1], a, b, data<T>(out), weight.shape[0],
                        Epilogue<T>(end));
}

}  // namespace

// out = a b, or out += a b with accumulate.
Status matmul(const Context& context, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  if (Status status = check_product(a, b, out)) return status;
  CHECK(a.dtype == b.dtype && a.dtype == out.dtype, "dtypes differ");
  if (a.dtype == DType::f32) return matmul_typed<float>(context, a, b, out, accumulate != 0);
  if (a.dtype == DType::f64) return matmul_typed<double>(context, a, b, out, accumulate != 0);
  return "needs float32 or float64";
}

Status linear(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
              OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  if (Status status = check_linear(x, weight, out, end)) return status;
  CHECK(x.dtype == weight.dtype && x.dtype == out.dtype, "dtypes differ");
  if (x.dtype == DType::f32) return linear_typed<float>(context, x, weight, out, end);
  if (x.dtype == DType::f64) return linear_typed<double>(context, x, weight, out, end);
  return "needs float32 or float64";
}

// TF32 asks for at least 10 bits of mantissa: a processor has all 23 at the same price.
Status matmul_tf32(const Context& context, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  CHECK(out.dtype == DType::f32, "needs float32");
  return ROOTS_ISA::matmul(context, a, b, out, accumulate);
}

Status linear_tf32(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
                   OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  CHECK(out.dtype == DType::f32, "needs float32");
  return ROOTS_ISA::linear(context, x, weight, bias, gate, residual, out, slope, activation);
}

}  // namespace ROOTS_ISA
}  // namespace roots
