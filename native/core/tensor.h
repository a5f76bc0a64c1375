// What a kernel receives: a view of device bytes. Strides count elements, not bytes. No ownership.
#pragma once

#include <stdint.h>

#include "core/dtype.h"

namespace roots {

constexpr int32_t kMaxRank = 8;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};
};

// A tensor argument that may be absent (data == nullptr and rank == -1).
struct OptionalTensor : Tensor {};

// Several tensors as one argument, possibly none.
struct TensorList {
  const Tensor* items = nullptr;
  int64_t count = 0;
};

}  // namespace roots
