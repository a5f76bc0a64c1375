// Kernels that give a block to each contiguous row of a tensor: softmax, the norms, cross-entropy.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {

// Threads for a row: whole warps, no more than it has elements for.
inline int row_threads(int64_t width) {
  int threads = kWarp;
  while (threads < 512 && threads * 4 < width) threads *= 2;
  return threads;
}

// body(i) for the elements of a row that belong to this thread.
template <class Body>
ROOTS_DEVICE void each_in_row(int64_t width, const Body& body) {
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) body(i);
}

template <class T>
ROOTS_DEVICE T row_max(const T* x, int64_t width, T* space) {
  T top = -infinity(T(0));
  each_in_row(width, [&](int64_t i) { top = Max::combine(top, x[i]); });
  return block_reduce<Max>(top, -infinity(T(0)), space);
}

// sum of exp(x - shift)
template <class T>
ROOTS_DEVICE T row_sum_exp(const T* x, int64_t width, T shift, T* space) {
  T sum = T(0);
  each_in_row(width, [&](int64_t i) { sum += exp_of(x[i] - shift); });
  return block_reduce<Sum>(sum, T(0), space);
}

// Keeps rows of -infinity defined: shift by 0, so that every exp is 0.
template <class T>
ROOTS_DEVICE T finite_shift(T top) {
  return top == -infinity(T(0)) ? T(0) : top;
}

// width and rows of two like, contiguous float tensors.
inline Status check_rows(const Tensor& a, const Tensor& b, int64_t* width, int64_t* rows) {
  CHECK(a.rank >= 1 && same_shape(a, b) && a.dtype == b.dtype, "shapes differ");
  CHECK(is_contiguous(a) && is_contiguous(b), "needs contiguous tensors");
  CHECK(a.dtype == DType::f32 || a.dtype == DType::f64, "needs float32 or float64");
  *width = a.shape[a.rank - 1];
  *rows = *width > 0 ? numel(a) / *width : 0;
  return nullptr;
}

// Sums over rows of what f adds for a row and a column, a value of each of two kinds, in a fixed order: a
// block owns 32 columns and a piece of the rows. first and second, a row per piece, may be null.
template <class T, class F>
__global__ void column_sums_kernel(F f, int64_t rows, int64_t width, T* first, T* second) {
  __shared__ T space[2][32][33];
  const int column = static_cast<int>(threadIdx.x) % 32, lane = static_cast<int>(threadIdx.x) / 32;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + column;
  const int64_t per = (rows + gridDim.y - 1) / gridDim.y, begin = blockIdx.y * per,
                end = begin + per < rows ? begin + per : rows;
  T a = T(0), b = T(0);
  if (c < width)
    for (int64_t r = begin + lane; r < end; r += 32) f(r, c, a, b);
  space[0][lane][column] = a;
  space[1][lane][column] = b;
  __syncthreads();
  // now a warp per column: the 32 partial sums of column `lane`
  a = warp_reduce<Sum>(space[0][column][lane]);
  b = warp_reduce<Sum>(space[1][column][lane]);
  const int64_t to = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  if (column == 0 && to < width) {
    if (first) first[blockIdx.y * width + to] = a;
    if (second) second[blockIdx.y * width + to] = b;
  }
}

template <class T>
struct Pieces {
  const T *first, *second;
  int64_t width;
  ROOTS_DEVICE void operator()(int64_t r, int64_t c, T& a, T& b) const {
    a += first[r * width + c];
    b += second[r * width + c];
  }
};

// Few columns of many rows are cut into pieces, so that enough blocks are at work.
template <class T, class F>
Status column_sums(const F& f, int64_t rows, int64_t width, T* first, T* second) {
  if (width == 0 || (!first && !second)) return nullptr;
  const auto blocks = static_cast<unsigned>(ceil_div(width, 32));
  constexpr int64_t kLeastRows = 256, kBlocks = 512;
  int64_t pieces = ceil_div(kBlocks, blocks);
  if (pieces > rows / kLeastRows) pieces = rows / kLeastRows;
  if (pieces <= 1)
    return launch(column_sums_kernel<T, F>, dim3(blocks), 1024, 0, f, rows, width, first, second);
  auto* parts = static_cast<T*>(workspace(0, static_cast<size_t>(2 * pieces * width) * sizeof(T)));
  CHECK(parts != nullptr, kOutOfMemory);
  if (const Status status = launch(column_sums_kernel<T, F>, dim3(blocks, static_cast<unsigned>(pieces)),
                                   1024, 0, f, rows, width, parts, parts + pieces * width))
    return status;
  return launch(column_sums_kernel<T, Pieces<T>>, dim3(blocks), 1024, 0,
                Pieces<T>{parts, parts + pieces * width, width}, pieces, width, first, second);
}

}  // namespace cuda
}  // namespace roots
