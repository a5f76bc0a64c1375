// Weight-only int8: y = activation(x W^T + b), W int8 per output row, x float32. A few rows (decoding) read
// the weights once for all of them. More rows: the float32 product, weights widened on the way.
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

Status linear_w8a16(const Context&, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias, Tensor out,
                    int64_t activation) {
  CHECK(x.rank == 2 && out.rank == 2 && x.shape[0] == out.shape[0], "needs matrices");
  CHECK(x.dtype == DType::f32 && out.dtype == DType::f32 && scale.dtype == DType::f32, "needs float32");
  CHECK(is_contiguous(x) && is_contiguous(out) && is_contiguous(scale), "needs contiguous tensors");
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  const PackedI8 shape(N, K);
  CHECK(packed.dtype == DType::i8 && packed.rank == 1 && packed.shape[0] == shape.total_bytes,
        "packed has the wrong size");
  CHECK(numel(scale) == N, "one scale per output");
  CHECK(!bias.data || (bias.dtype == DType::f32 && numel(bias) == N && is_contiguous(bias)),
        "one bias per output");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  if (M == 0 || N == 0) return nullptr;
  Epilogue<float> epilogue;
  epilogue.out = data<float>(out);
  epilogue.bias = data<float>(bias);
  epilogue.column_scale = data<float>(scale);
  epilogue.activation = static_cast<Activation>(activation);
  const few::Operand<Byte> weights{data<const int8_t>(packed), shape.row_bytes, 1};
  if (few::fits(M, weights))
    return few::product<float, few::Exact<float>>(M, N, K, {data<const float>(x), K, 1}, weights, epilogue);
  return simt::gemm<float, int8_t>(M, N, K, {data<float>(x), K, 1},
                                   {data<int8_t>(packed), shape.row_bytes, 1}, Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
