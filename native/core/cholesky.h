// What the least squares of pruning require of their operands.
#pragma once

#include "core/check.h"
#include "core/shape.h"
#include "core/status.h"

namespace roots {
namespace {

inline Status check_square(const Tensor& a) {
  CHECK(a.rank == 2 && a.shape[0] == a.shape[1] && a.dtype == DType::f64 && is_contiguous(a),
        "needs a contiguous square float64 matrix");
  return nullptr;
}

inline Status check_cholesky(const Tensor& a, const Tensor& info) {
  if (const Status status = check_square(a)) return status;
  CHECK(info.dtype == DType::i64 && numel(info) == 1, "info must be one int64");
  return nullptr;
}

inline Status check_cholesky_solve(const Tensor& factor, const Tensor& b) {
  if (const Status status = check_square(factor)) return status;
  CHECK(b.rank == 2 && b.shape[0] == factor.shape[0] && b.dtype == DType::f64 && is_contiguous(b),
        "b must be contiguous float64 with as many rows");
  return nullptr;
}

}  // namespace
}  // namespace roots
