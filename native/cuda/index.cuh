// Integer tensors as indices: int32 or int64, contiguous.
#pragma once

#include "cuda/view.cuh"

namespace roots {
namespace cuda {

struct Indices {
  const void* data;
  bool wide;
  explicit Indices(const Tensor& t) : data(t.data), wide(t.dtype == DType::i64) {}
  ROOTS_DEVICE int64_t at(int64_t i) const {
    return wide ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

inline Status check_indices(const Tensor& ids) {
  CHECK(ids.dtype == DType::i32 || ids.dtype == DType::i64, "ids must be int32 or int64");
  CHECK(is_contiguous(ids), "ids must be contiguous");
  return nullptr;
}

}  // namespace cuda
}  // namespace roots
