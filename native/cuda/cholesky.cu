// Cholesky factor of a symmetric positive definite float64 matrix and solutions with it, blocked: 32 columns
// are factored by one block of threads, the rows below solved a thread each, and what remains is updated by a
// product, which is nearly all of the work. Formulas and order as in native/cpu/cholesky.cc.
#include "core/cholesky.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kPivot = 32, kTile = 64, kThreads = 256;

// The block of columns [k, k + width), its diagonal part. info: 0, or 1 + the first column without a
// positive pivot, after which every kernel leaves the matrix as it is.
__global__ void factor_kernel(double* a, int64_t n, int64_t k, int width, int64_t* info) {
  __shared__ double block[kPivot][kPivot + 1];
  __shared__ bool failed;
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) failed = *info != 0;
  for (int i = t; i < width * width; i += kThreads)
    block[i / width][i % width] = a[(k + i / width) * n + k + i % width];
  __syncthreads();
  if (failed) return;
  for (int j = 0; j < width; ++j) {
    if (t == 0) {
      double pivot = block[j][j];
      for (int q = 0; q < j; ++q) pivot -= block[j][q] * block[j][q];
      if (!(pivot > 0)) {
        *info = k + j + 1;
        failed = true;
      }
      block[j][j] = ::sqrt(pivot);
    }
    __syncthreads();
    if (failed) return;
    const int i = j + 1 + t;
    if (i < width) {
      double value = block[i][j];
      for (int q = 0; q < j; ++q) value -= block[i][q] * block[j][q];
      block[i][j] = value / block[j][j];
    }
    __syncthreads();
  }
  for (int i = t; i < width * width; i += kThreads)
    if (i % width <= i / width) a[(k + i / width) * n + k + i % width] = block[i / width][i % width];
}

// The diagonal block of the factor, continued by the unit matrix where it is narrower.
ROOTS_DEVICE void load_block(const double* l, int64_t n, int64_t k, int width,
                             double (&block)[kPivot][kPivot + 1]) {
  for (int i = static_cast<int>(threadIdx.x); i < kPivot * kPivot; i += kThreads) {
    const int r = i / kPivot, c = i % kPivot;
    block[r][c] = r < width && c < width && c <= r ? l[(k + r) * n + k + c] : r == c ? 1.0 : 0.0;
  }
  __syncthreads();
}

// The rows below the block of columns, a thread each: X L^T = A.
__global__ void panel_kernel(double* a, int64_t n, int64_t k, int width, const int64_t* info) {
  __shared__ double block[kPivot][kPivot + 1];
  if (*info != 0) return;
  load_block(a, n, k, width, block);
  const int64_t i = k + width + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  double x[kPivot];
#pragma unroll
  for (int j = 0; j < kPivot; ++j) {
    double value = j < width ? a[i * n + k + j] : 0.0;
#pragma unroll
    for (int q = 0; q < j; ++q) value -= x[q] * block[j][q];
    x[j] = value / block[j][j];
    if (j < width) a[i * n + k + j] = x[j];
  }
}

struct Strided {
  const double* data;
  int64_t row_stride, column_stride;
};

// c (M, N) -= a (M, K) b (K, N), K <= 32: a block of threads per 64 x 64, a thread 4 x 4. lower: only tiles
// that touch the lower triangle.
__global__ void subtract_kernel(int64_t M, int64_t N, int K, Strided a, Strided b, double* c, int64_t ldc,
                                bool lower, const int64_t* info) {
  __shared__ double ta[kPivot][kTile + 1], tb[kPivot][kTile + 1];
  if (info && *info != 0) return;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kTile, j0 = static_cast<int64_t>(blockIdx.y) * kTile;
  if (lower && j0 > i0) return;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kPivot; i += kThreads) {
    const int at = i / kPivot, k = i % kPivot;
    ta[k][at] = i0 + at < M && k < K ? a.data[(i0 + at) * a.row_stride + k * a.column_stride] : 0.0;
    tb[k][at] = j0 + at < N && k < K ? b.data[k * b.row_stride + (j0 + at) * b.column_stride] : 0.0;
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
  double sum[4][4] = {};
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] = fma_of(ta[k][row + 16 * i], tb[k][column + 16 * j], sum[i][j]);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t r = i0 + row + 16 * i, s = j0 + column + 16 * j;
      if (r < M && s < N) c[r * ldc + s] -= sum[i][j];
    }
}

Status subtract(int64_t M, int64_t N, int K, const Strided& a, const Strided& b, double* c, int64_t ldc,
                bool lower, const int64_t* info) {
  if (M <= 0 || N <= 0) return nullptr;
  CHECK(ceil_div(N, kTile) <= 65535, "more than 4 million columns");
  const dim3 grid(static_cast<unsigned>(ceil_div(M, kTile)), static_cast<unsigned>(ceil_div(N, kTile)), 1);
  return launch(subtract_kernel, grid, kThreads, 0, M, N, K, a, b, c, ldc, lower, info);
}

__global__ void clear_upper_kernel(double* a, int64_t n) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n * n; i += step)
    if (i % n > i / n) a[i] = 0.0;
}

// Rows [k, k + width) of x, a thread per column: L X = B, or L^T X = B.
template <bool kForward>
__global__ void solve_kernel(const double* l, int64_t n, int64_t k, int width, double* x, int64_t m) {
  __shared__ double block[kPivot][kPivot + 1];
  load_block(l, n, k, width, block);
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= m) return;
  double v[kPivot];
#pragma unroll
  for (int s = 0; s < kPivot; ++s) {
    const int i = kForward ? s : kPivot - 1 - s;
    double value = i < width ? x[(k + i) * m + c] : 0.0;
#pragma unroll
    for (int p = 0; p < s; ++p) {
      const int q = kForward ? p : kPivot - 1 - p;
      value -= (kForward ? block[i][q] : block[q][i]) * v[q];
    }
    v[i] = value / block[i][i];
    if (i < width) x[(k + i) * m + c] = v[i];
  }
}

int width_at(int64_t n, int64_t k) { return static_cast<int>(n - k < kPivot ? n - k : kPivot); }

__global__ void set_kernel(int64_t* to, int64_t value) { *to = value; }

}  // namespace

Status cholesky(const Context&, Tensor a, Tensor info) {
  if (const Status status = check_cholesky(a, info)) return status;
  const int64_t n = a.shape[0];
  auto* p = data<double>(a);
  auto* failed = data<int64_t>(info);
  if (const Status status = launch(set_kernel, 1, 1, 0, failed, int64_t{0})) return status;
  for (int64_t k = 0; k < n; k += kPivot) {
    const int width = width_at(n, k);
    const int64_t below = k + width, rest = n - below;
    Status status = launch(factor_kernel, 1, kThreads, 0, p, n, k, width, failed);
    if (!status && rest > 0) {
      status = launch(panel_kernel, static_cast<unsigned>(ceil_div(rest, kThreads)), kThreads, 0, p, n, k,
                      width, static_cast<const int64_t*>(failed));
      const double* panel = p + below * n + k;
      if (!status)
        status =
            subtract(rest, rest, width, {panel, n, 1}, {panel, 1, n}, p + below * n + below, n, true, failed);
    }
    if (status) return status;
  }
  if (n == 0) return nullptr;
  return launch(clear_upper_kernel, grid_for(ceil_div(n * n, kThreads)), kThreads, 0, p, n);
}

Status cholesky_solve(const Context&, Tensor factor, Tensor b) {
  if (const Status status = check_cholesky_solve(factor, b)) return status;
  const int64_t n = factor.shape[0], m = b.shape[1];
  if (n == 0 || m == 0) return nullptr;
  const auto* l = data<const double>(factor);
  auto* x = data<double>(b);
  const auto columns = static_cast<unsigned>(ceil_div(m, kThreads));
  for (int64_t k = 0; k < n; k += kPivot) {
    const int width = width_at(n, k);
    const int64_t below = k + width;
    Status status = launch(solve_kernel<true>, columns, kThreads, 0, l, n, k, width, x, m);
    if (!status)
      status = subtract(n - below, m, width, {l + below * n + k, n, 1}, {x + k * m, m, 1}, x + below * m, m,
                        false, nullptr);
    if (status) return status;
  }
  for (int64_t k = (n - 1) / kPivot * kPivot; k >= 0; k -= kPivot) {
    const int width = width_at(n, k);
    Status status = launch(solve_kernel<false>, columns, kThreads, 0, l, n, k, width, x, m);
    if (!status) status = subtract(k, m, width, {l + k * n, 1, n}, {x + k * m, m, 1}, x, m, false, nullptr);
    if (status) return status;
  }
  return nullptr;
}

}  // namespace cuda
}  // namespace roots
