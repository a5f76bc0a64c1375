// What rotary embeddings require of their operands.
#pragma once

#include "core/check.h"
#include "core/shape.h"
#include "core/status.h"

namespace roots {
namespace {

inline Status check_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& out) {
  CHECK(x.rank == 4 && same_shape(x, out) && is_contiguous(out) && x.strides[3] == 1,
        "x has rank 4 and dense rows, out is contiguous");
  CHECK(x.shape[3] % 2 == 0, "the head size must be even");
  CHECK(cos.rank == 3 && same_shape(cos, sin) &&
            (cos.shape[2] == 1 || (cos.strides[2] == 1 && sin.strides[2] == 1)),
        "cos and sin have rank 3 and dense rows");
  CHECK(cos.shape[0] == x.shape[0] && cos.shape[1] == x.shape[2] && cos.shape[2] * 2 == x.shape[3],
        "cos and sin do not match x");
  CHECK(x.dtype == cos.dtype && x.dtype == sin.dtype && x.dtype == out.dtype, "dtypes differ");
  CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, "needs float32 or float64");
  return nullptr;
}

}  // namespace
}  // namespace roots
