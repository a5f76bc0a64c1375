// Cholesky factor of a symmetric positive definite float64 matrix and solutions with it, for the
// least-squares repair of pruned layers. Blocked, so that nearly all of the work is the GEMM; row-major,
// lower factor.
#include "core/cholesky.h"

#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kPivot = 64;  // columns factored between two GEMM updates

// trailing -= panel panel_rows^T through a buffer of one block of rows at a time
Status subtract_product(const Context& context, int64_t M, int64_t N, int64_t K, const Matrix<double>& a,
                        const Matrix<double>& b, double* c, int64_t ldc) {
  auto* product =
      static_cast<double*>(context.workspace(context.host, 3, static_cast<size_t>(M * N) * sizeof(double)));
  CHECK(product != nullptr, "out of memory");
  const Status status = gemm<double, false>(context, M, N, K, a, b, product, N);
  if (status) return status;
  context.parallel_for(ceil_div(M, 16), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * 16 < M ? (chunk + 1) * 16 : M;
    for (int64_t i = chunk * 16; i < end; ++i)
      for (int64_t j = 0; j < N; ++j) c[i * ldc + j] -= product[i * N + j];
  });
  return nullptr;
}

}  // namespace

// a (n, n) -> its lower factor in place (the upper triangle becomes 0). info[0] = 0, or 1 + the column where
// a pivot was not positive; a is then unusable.
Status cholesky(const Context& context, Tensor a, Tensor info) {
  if (const Status status = check_cholesky(a, info)) return status;
  const int64_t n = a.shape[0];
  double* p = data<double>(a);
  int64_t* failed = data<int64_t>(info);
  *failed = 0;
  for (int64_t k = 0; k < n; k += kPivot) {
    const int64_t width = n - k < kPivot ? n - k : kPivot;
    for (int64_t j = k; j < k + width; ++j) {
      double pivot = p[j * n + j];
      for (int64_t q = k; q < j; ++q) pivot -= p[j * n + q] * p[j * n + q];
      if (!(pivot > 0)) {
        *failed = j + 1;
        return nullptr;
      }
      const Vec<double> root = sqrt(Vec<double>(pivot));
      p[j * n + j] = root.v[0];
      const double inverse = 1.0 / root.v[0];
      context.parallel_for(ceil_div(n - j - 1, 256), [&](int64_t chunk) {
        const int64_t begin = j + 1 + chunk * 256, end = begin + 256 < n ? begin + 256 : n;
        for (int64_t i = begin; i < end; ++i) {
          double value = p[i * n + j];
          for (int64_t q = k; q < j; ++q) value -= p[i * n + q] * p[j * n + q];
          p[i * n + j] = value * inverse;
        }
      });
    }
    const int64_t rest = n - k - width;
    if (rest > 0) {
      double* panel = p + (k + width) * n + k;
      const Status status = subtract_product(context, rest, rest, width, Matrix<double>{panel, n, 1},
                                             Matrix<double>{panel, 1, n}, p + (k + width) * n + k + width, n);
      if (status) return status;
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i + 1; j < n; ++j) p[i * n + j] = 0.0;
  return nullptr;
}

// Solves (L L^T) x = b in place for the columns of b (n, m).
Status cholesky_solve(const Context& context, Tensor factor, Tensor b) {
  if (const Status status = check_cholesky_solve(factor, b)) return status;
  const int64_t n = factor.shape[0], m = b.shape[1];
  const double* l = data<double>(factor);
  double* x = data<double>(b);
  auto solve_block = [&](int64_t k, int64_t width, bool forward) {
    context.parallel_for(ceil_div(m, 64), [&](int64_t chunk) {
      const int64_t c0 = chunk * 64, c1 = c0 + 64 < m ? c0 + 64 : m;
      for (int64_t s = 0; s < width; ++s) {
        const int64_t i = forward ? k + s : k + width - 1 - s;
        double* row = x + i * m;
        for (int64_t q = forward ? k : i + 1; q < (forward ? i : k + width); ++q) {
          const double f = forward ? l[i * n + q] : l[q * n + i];
          for (int64_t c = c0; c < c1; ++c) row[c] -= f * x[q * m + c];
        }
        const double inverse = 1.0 / l[i * n + i];
        for (int64_t c = c0; c < c1; ++c) row[c] *= inverse;
      }
    });
  };
  for (int64_t k = 0; k < n; k += kPivot) {
    const int64_t width = n - k < kPivot ? n - k : kPivot, rest = n - k - width;
    solve_block(k, width, true);
    if (rest > 0) {
      const Status status =
          subtract_product(context, rest, m, width, Matrix<double>{l + (k + width) * n + k, n, 1},
                           Matrix<double>{x + k * m, m, 1}, x + (k + width) * m, m);
      if (status) return status;
    }
  }
  for (int64_t k = (n - 1) / kPivot * kPivot; k >= 0 && n > 0; k -= kPivot) {
    const int64_t width = n - k < kPivot ? n - k : kPivot;
    solve_block(k, width, false);
    if (k > 0) {
      const Status status = subtract_product(context, k, m, width, Matrix<double>{l + k * n, 1, n},
                                             Matrix<double>{x + k * m, m, 1}, x, m);
      if (status) return status;
    }
  }
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
