// matmul and linear with products of 16-bit floats and float32 sums: operands float32, rounded on the way, or
// stored in 16 bits; out float32.
#pragma once

#include "cuda/gemm/few_rows.cuh"
#include "cuda/gemm/sm90.cuh"

namespace roots {
namespace cuda {
namespace {

inline Status check_half(DType half, const Tensor& a, const Tensor& b, const Tensor& out) {
  const auto fits = [=](const Tensor& t) { return t.dtype == DType::f32 || t.dtype == half; };
  CHECK(fits(a) && fits(b) && out.dtype == DType::f32, "needs float32 or the 16-bit float, float32 out");
  return nullptr;
}

inline sm80::Operand operand(const Tensor& t, int64_t row_stride, int64_t column_stride) {
  return {t.data, t.dtype == DType::f32 ? sm80::Source::f32 : sm80::Source::half, row_stride, column_stride};
}

// (rows, K) of any strides to 16 bits with `pitch` elements between rows, zeros beyond K.
constexpr int kTransposeTile = 32;
template <class P>
__global__ void __launch_bounds__(256)
    round_kernel(sm80::Operand x, int64_t rows, int64_t K, int64_t pitch, uint16_t* to) {
  __shared__ uint16_t tile[kTransposeTile][kTransposeTile + 2];
  const int t = static_cast<int>(threadIdx.x), fast = t % kTransposeTile, slow = t / kTransposeTile;
  const bool along_k = x.column_stride == 1;
  const int64_t tiles_k = (pitch + kTransposeTile - 1) / kTransposeTile;
  const int64_t tiles = (rows + kTransposeTile - 1) / kTransposeTile * tiles_k;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const int64_t r0 = index / tiles_k * kTransposeTile, k0 = index % tiles_k * kTransposeTile;
    for (int j = slow; j < kTransposeTile; j += 256 / kTransposeTile) {
      const int64_t r = r0 + (along_k ? j : fast), k = k0 + (along_k ? fast : j);
      uint16_t value = 0;
      if (r < rows && k < K)
        value = static_cast<uint16_t>(sm80::element(x, r * x.row_stride + k * x.column_stride, P{}));
      tile[along_k ? j : fast][along_k ? fast : j] = value;
    }
    __syncthreads();
    for (int j = slow; j < kTransposeTile; j += 256 / kTransposeTile)
      if (r0 + j < rows && k0 + fast < pitch) to[(r0 + j) * pitch + k0 + fast] = tile[j][fast];
    __syncthreads();
  }
}

inline bool as_it_is(const sm80::Operand& x, sm90::Ready* ready) {
  if (x.source != sm80::Source::half || reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
  const bool along_k = x.column_stride == 1;
  const int64_t line = along_k ? x.row_stride : x.column_stride;
  if ((!along_k && x.row_stride != 1) || line % 8 != 0 || line <= 0) return false;
  *ready = {x.data, !along_k, line * 2};
  return true;
}

template <class P>
Status prepare(const sm80::Operand& x, int64_t rows, int64_t K, int slot, sm90::Ready* ready) {
  if (as_it_is(x, ready)) return nullptr;
  const int64_t pitch = (K + 7) / 8 * 8;
  auto* to = static_cast<uint16_t*>(workspace(slot, static_cast<size_t>(rows * pitch) * 2));
  if (!to) return kOutOfMemory;
  *ready = {to, false, pitch * 2};
  return launch(round_kernel<P>, grid_for(ceil_div(rows, kTransposeTile) * ceil_div(pitch, kTransposeTile)),
                256, 0, x, rows, K, pitch, to);
}

template <class P>
Status hopper_product(int64_t M, int64_t N, int64_t K, const sm80::Operand& a, const sm80::Operand& b,
                      const sm80::StoreFloat& finish) {
  sm90::Ready ra, rb;
  if (const Status status = prepare<P>(a, M, K, 0, &ra)) return status;
  if (const Status status = prepare<P>(b, N, K, 1, &rb)) return status;
  return sm90::multiply<P>(M, N, K, ra, rb, finish);
}

template <class E>
few::Operand<E> few_operand(const sm80::Operand& x) {
  return {static_cast<const typename E::Stored*>(x.data), x.row_stride, x.column_stride};
}

template <class Half, class W>
Status few_rows(int64_t M, int64_t N, int64_t K, const sm80::Operand& a, const few::Operand<W>& w,
                const Epilogue<float>& epilogue) {
  return a.source == sm80::Source::f32
             ? few::product(M, N, K, few_operand<few::Rounded<Half>>(a), w, epilogue)
             : few::product(M, N, K, few_operand<few::Halved<Half>>(a), w, epilogue);
}

template <class P>
Status product(int64_t M, int64_t N, int64_t K, const sm80::Operand& a, const sm80::Operand& b,
               const Batches& batches, const Epilogue<float>& epilogue) {
  using Half = typename P::Stored;
  const auto rounded = few_operand<few::Rounded<Half>>(b);
  if (batches.rank == 0 && !epilogue.slope && few::fits(M, rounded))
    return b.source == sm80::Source::f32
               ? few_rows<Half>(M, N, K, a, rounded, epilogue)
               : few_rows<Half>(M, N, K, a, few_operand<few::Halved<Half>>(b), epilogue);
  const sm80::StoreFloat finish{epilogue, M, N};
  if (batches.count == 1 && sm90::fits(M, N, K) && hopper::wanted())
    return hopper_product<P>(M, N, K, a, b, finish);
  return sm80::gemm<P>(M, N, K, a, b, batches, finish);
}

template <class P>
Status matmul_half(DType half, const Tensor& a, const Tensor& b, const Tensor& out, int64_t accumulate) {
  if (const Status status = check_product(a, b, out)) return status;
  if (const Status status = check_half(half, a, b, out)) return status;
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1];
  const auto epilogue = product_epilogue<float>(out, accumulate);
  return product<P>(M, N, a.shape[r - 1], operand(a, a.strides[r - 2], a.strides[r - 1]),
                    operand(b, b.strides[r - 1], b.strides[r - 2]), Batches(a, b, out), epilogue);
}

template <class P>
Status linear_half(DType half, const Tensor& x, const Tensor& weight, const Tensor& out,
                   const LinearEnd& end) {
  if (const Status status = check_linear(x, weight, out, end)) return status;
  if (const Status status = check_half(half, x, weight, out)) return status;
  const auto epilogue = linear_epilogue<float>(end, out);
  const int64_t M = x.shape[0], N = weight.shape[0];
  return product<P>(M, N, x.shape[1], operand(x, x.strides[0], x.strides[1]),
                    operand(weight, weight.strides[0], weight.strides[1]), Batches(), epilogue);
}

}  // namespace
}  // namespace cuda
}  // namespace roots
