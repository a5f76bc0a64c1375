// What optimizer steps require of their operands; formulas are in cpu/optimizers.cc.
#pragma once

#include "core/check.h"
#include "core/shape.h"
#include "core/status.h"

namespace roots {
namespace {

inline double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

// { norm, factor } of clip_scale, or none.
inline Status check_scale(const OptionalTensor& scale) {
  CHECK(!scale.data || (scale.dtype == DType::f64 && numel(scale) == 2 && is_contiguous(scale)),
        "scale must be two float64");
  return nullptr;
}

inline Status check_like(const Tensor& param, const Tensor& other) {
  CHECK(is_contiguous(param), "param must be contiguous");
  CHECK(!other.data || (same_shape(param, other) && other.dtype == param.dtype && is_contiguous(other)),
        "gradient and state must be like param");
  return nullptr;
}

// Lists like params; those of the second kind may be empty instead.
template <int N, int M>
inline Status check_lists(const TensorList& params, const TensorList* const (&needed)[N],
                          const TensorList* const (&optional)[M], const OptionalTensor& scale) {
  for (const TensorList* list : needed)
    CHECK(list->count == params.count, "gradients and states must be as many as parameters");
  for (const TensorList* list : optional)
    CHECK(!list || list->count == params.count || list->count == 0,
          "gradients and states must be as many as parameters");
  for (int64_t t = 0; t < params.count; ++t) {
    CHECK(params.items[t].dtype == DType::f32 || params.items[t].dtype == DType::f64,
          "needs float32 or float64");
    for (const TensorList* list : needed)
      if (const Status status = check_like(params.items[t], list->items[t])) return status;
    for (const TensorList* list : optional)
      if (list && list->count)
        if (const Status status = check_like(params.items[t], list->items[t])) return status;
  }
  return check_scale(scale);
}

inline Status check_sum_squares(const TensorList& xs, const Tensor& out, int64_t first) {
  CHECK(out.dtype == DType::f64 && is_contiguous(out) && first >= 0 && xs.count <= numel(out) - first,
        "out has too few elements");
  for (int64_t t = 0; t < xs.count; ++t) {
    CHECK(is_contiguous(xs.items[t]), "tensors must be contiguous");
    CHECK(xs.items[t].dtype == DType::f32 || xs.items[t].dtype == DType::f64, "needs float32 or float64");
  }
  return nullptr;
}

inline Status check_clip_scale(const Tensor& sums, const OptionalTensor& loss, const Tensor& out) {
  CHECK(sums.dtype == DType::f64 && is_contiguous(sums), "sums must be float64");
  CHECK(out.dtype == DType::f64 && is_contiguous(out) && numel(out) == 2, "out must be two float64");
  CHECK(!loss.data || (numel(loss) == 1 && (loss.dtype == DType::f32 || loss.dtype == DType::f64)),
        "loss must be one float");
  return nullptr;
}

inline Status check_adafactor(const Tensor& param, const Tensor& grad, const Tensor& row,
                              const OptionalTensor& column, const OptionalTensor& scale) {
  if (const Status status = check_like(param, grad)) return status;
  if (const Status status = check_scale(scale)) return status;
  CHECK(param.dtype == DType::f32, "needs float32");
  CHECK(row.dtype == DType::f32 && is_contiguous(row), "row must be contiguous float32");
  if (!column.data) {
    CHECK(numel(row) == numel(param), "row has the wrong size");
    return nullptr;
  }
  CHECK(param.rank >= 2, "a vector has no columns");
  const int64_t rows = param.shape[param.rank - 2], columns = param.shape[param.rank - 1],
                matrices = rows * columns > 0 ? numel(param) / (rows * columns) : 0;
  CHECK(numel(row) == matrices * rows && numel(column) == matrices * columns && column.dtype == DType::f32 &&
            is_contiguous(column),
        "row and column have the wrong size");
  return nullptr;
}

// Elements of an 8-bit moment that share a scale.
constexpr int64_t kScaleBlock = 256;
inline Status check_adamw_8bit(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v,
                               const Tensor& scales, const OptionalTensor& scale, int64_t step) {
  if (const Status status = check_like(param, grad)) return status;
  if (const Status status = check_scale(scale)) return status;
  CHECK(param.dtype == DType::f32 && m.dtype == DType::i8 && v.dtype == DType::u8,
        "needs float32, int8 and uint8");
  CHECK(same_shape(param, m) && same_shape(param, v) && is_contiguous(m) && is_contiguous(v),
        "moments must be like param");
  const int64_t blocks = (numel(param) + kScaleBlock - 1) / kScaleBlock;
  CHECK(scales.dtype == DType::f32 && numel(scales) == 2 * blocks && is_contiguous(scales),
        "two scales per 256 elements");
  CHECK(step >= 1, "steps count from 1");
  return nullptr;
}

}  // namespace
}  // namespace roots
