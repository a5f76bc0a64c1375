// matmul (batched, any strides) and linear (y = gate * activation(x W^T + b) + residual) in float32 and
// float64, exact to the type.
#include "cuda/declare.cuh"
#include "cuda/gemm/few_rows.cuh"
#include "cuda/gemm/simt.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T>
Status product(int64_t M, int64_t N, int64_t K, const simt::Operand<T>& a, const simt::Operand<T>& b,
               const Batches& batches, const Epilogue<T>& epilogue) {
  const few::Operand<few::Exact<T>> x{a.data, a.row_stride, a.column_stride},
      w{b.data, b.row_stride, b.column_stride};
  if (batches.rank == 0 && !epilogue.slope && few::fits(M, w)) return few::product(M, N, K, x, w, epilogue);
  return simt::gemm<T, T>(M, N, K, a, b, batches, epilogue);
}

}  // namespace

Status matmul(const Context&, Tensor a, Tensor b, Tensor out, int64_t accumulate) {
  if (const Status status = check_product(a, b, out)) return status;
  CHECK(a.dtype == b.dtype && a.dtype == out.dtype, "dtypes differ");
  const int32_t r = out.rank;
  return dispatch_float(a.dtype, [&](auto t) {
    using T = decltype(t);
    const auto epilogue = product_epilogue<T>(out, accumulate);
    return product<T>(out.shape[r - 2], out.shape[r - 1], a.shape[r - 1],
                      {data<T>(a), a.strides[r - 2], a.strides[r - 1]},
                      {data<T>(b), b.strides[r - 1], b.strides[r - 2]}, Batches(a, b, out), epilogue);
  });
}

Status linear(const Context&, Tensor x, Tensor weight, OptionalTensor bias, OptionalTensor gate,
              OptionalTensor residual, Tensor out, OptionalTensor slope, int64_t activation) {
  const LinearEnd end{bias, gate, residual, slope, activation};
  if (const Status status = check_linear(x, weight, out, end)) return status;
  CHECK(x.dtype == weight.dtype && x.dtype == out.dtype, "dtypes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    const auto epilogue = linear_epilogue<T>(end, out);
    return product<T>(x.shape[0], weight.shape[0], x.shape[1], {data<T>(x), x.strides[0], x.strides[1]},
                      {data<T>(weight), weight.strides[0], weight.strides[1]}, Batches(), epilogue);
  });
}

}  // namespace cuda
}  // namespace roots
