// int8 products with exact int32 sums; linear with int8 weights and activations quantized per row on the fly
// (W8A8); the packing of int8 weights.
#include "cuda/declare.cuh"
#include "cuda/gemm/packed_i8.h"
#include "cuda/gemm/sm90.cuh"

namespace roots {
namespace cuda {

#pragma GCC visibility push(hidden)
Status quantize_rows_padded(const float* x, int8_t* q, float* scale, int64_t rows, int64_t width,
                            int64_t stride);
#pragma GCC visibility pop

namespace {

constexpr int64_t kMostK = 131072;  // 127 * 127 * K stays below 2^31

// A matrix of any strides to rows of row_bytes with zeros behind, or such rows back to a dense matrix.
__global__ void pack_kernel(int8_t* matrix, int64_t row_stride, int64_t column_stride, int8_t* packed,
                            int64_t rows, int64_t columns, int64_t row_bytes, bool unpack) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * row_bytes;
       i += step) {
    const int64_t row = i / row_bytes, column = i % row_bytes;
    int8_t* element = matrix + row * row_stride + column * column_stride;
    if (!unpack)
      packed[i] = column < columns ? *element : static_cast<int8_t>(0);
    else if (column < columns)
      *element = packed[i];
  }
}

Status pack(int8_t* matrix, int64_t row_stride, int64_t column_stride, int8_t* packed, int64_t rows,
            int64_t columns, int64_t row_bytes, bool unpack) {
  if (rows * row_bytes == 0) return nullptr;
  return launch(pack_kernel, grid_for(ceil_div(rows * row_bytes, 256)), 256, 0, matrix, row_stride,
                column_stride, packed, rows, columns, row_bytes, unpack);
}

// The operand as dense rows of row_bytes, a multiple of 16: as it lies, or packed into a workspace.
Status whole_rows(const Tensor& t, int64_t rows, int64_t row_stride, int64_t column_stride, int64_t K,
                  int64_t row_bytes, int slot, const int8_t** out) {
  *out = data<int8_t>(t);
  if (K == row_bytes && column_stride == 1 && row_stride == K &&
      reinterpret_cast<uintptr_t>(t.data) % 16 == 0)
    return nullptr;
  auto* packed = static_cast<int8_t*>(workspace(slot, static_cast<size_t>(rows * row_bytes + 16)));
  CHECK(packed != nullptr, kOutOfMemory);
  *out = packed;
  return pack(data<int8_t>(t), row_stride, column_stride, packed, rows, K, row_bytes, false);
}

}  // namespace

Status matmul_i8(const Context&, Tensor a, Tensor b, Tensor out) {
  CHECK(a.rank == 2 && b.rank == 2 && out.rank == 2, "needs matrices");
  CHECK(a.dtype == DType::i8 && b.dtype == DType::i8 && out.dtype == DType::i32, "needs int8, int32 out");
  const int64_t M = a.shape[0], K = a.shape[1], N = b.shape[1];
  CHECK(b.shape[0] == K && out.shape[0] == M && out.shape[1] == N && is_contiguous(out), "shapes differ");
  CHECK(K <= kMostK, "inner dimension above 131072 could overflow int32");
  const int64_t row_bytes = ceil_div(K, 16) * 16;
  const int8_t *rows_of_a, *rows_of_b;
  if (const Status status = whole_rows(a, M, a.strides[0], a.strides[1], K, row_bytes, 0, &rows_of_a))
    return status;
  if (const Status status = whole_rows(b, N, b.strides[1], b.strides[0], K, row_bytes, 1, &rows_of_b))
    return status;
  return sm90::gemm_i8(M, N, row_bytes, rows_of_a, rows_of_b, sm80::StoreInt{data<int32_t>(out), N});
}

Status linear_i8_pack(const Context&, Tensor weight, Tensor packed, int64_t unpack) {
  const int64_t N = weight.shape[0], K = weight.shape[1];
  const PackedI8 shape(N, K);
  if (const Status status = check_i8_pack(weight, packed, shape.total_bytes)) return status;
  return pack(data<int8_t>(weight), K, 1, data<int8_t>(packed), N, K, shape.row_bytes, unpack != 0);
}

Status linear_w8a8(const Context&, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                   OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  const PackedI8 shape(out.shape[1], x.shape[1]);
  if (const Status status = check_linear_i8(x, packed, shape.total_bytes, scale, out, end, true))
    return status;
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  if (M == 0 || N == 0) return nullptr;
  auto* quantized = static_cast<int8_t*>(workspace(0, static_cast<size_t>(M * shape.row_bytes + 4)));
  auto* row_scale = static_cast<float*>(workspace(1, static_cast<size_t>(M) * sizeof(float)));
  CHECK(quantized && row_scale, kOutOfMemory);
  if (const Status status = quantize_rows_padded(data<float>(x), quantized, row_scale, M, K, shape.row_bytes))
    return status;
  auto epilogue = linear_epilogue<float>(end, out);
  epilogue.row_scale = row_scale;
  epilogue.column_scale = data<float>(scale);
  return sm90::gemm_i8(M, N, shape.row_bytes, quantized, data<int8_t>(packed),
                       sm80::StoreFloat{epilogue, M, N});
}

}  // namespace cuda
}  // namespace roots
