// Weight-only int8: y = gate * activation(x W^T + b) + residual, W int8 per output row, x float32. A few rows
// (decoding) read the weights once for all of them. More rows: the float32 product, weights widened on the
// way.
#include "core/product.h"
#include "cuda/declare.cuh"
#include "cuda/gemm/few_rows.cuh"
#include "cuda/gemm/packed_i8.h"
#include "cuda/gemm/simt.cuh"

namespace roots {
namespace cuda {
namespace {

struct Byte {
  using Stored = int8_t;
  static ROOTS_DEVICE float number(int8_t x) { return static_cast<float>(x); }
};

}  // namespace

Status linear_w8a16(const Context&, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                    OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  const PackedI8 shape(out.shape[1], x.shape[1]);
  if (const Status status = check_linear_i8(x, packed, shape.total_bytes, scale, out, end, false))
    return status;
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  if (M == 0 || N == 0) return nullptr;
  auto epilogue = linear_epilogue<float>(end, out);
  epilogue.column_scale = data<float>(scale);
  const few::Operand<Byte> weights{data<const int8_t>(packed), shape.row_bytes, 1};
  if (few::fits(M, weights))
    return few::product<float, few::Exact<float>>(M, N, K, {data<const float>(x), K, 1}, weights, epilogue);
  return simt::gemm<float, int8_t>(M, N, K, {data<float>(x), K, 1},
                                   {data<int8_t>(packed), shape.row_bytes, 1}, Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
