// The walk of a kernel over several views of one shape.
#pragma once

#include "core/check.h"
#include "core/shape.h"
#include "cuda/platform.cuh"

namespace roots {
namespace cuda {

// N views of one shape, size-1 axes dropped and neighbouring axes merged where every view allows it. Passed
// to kernels by value.
template <int N>
struct Walk {
  int32_t rank = 0;
  int64_t count = 1;
  int64_t shape[kMaxRank] = {};
  int64_t strides[N][kMaxRank] = {};

  explicit Walk(const Tensor* const (&views)[N]) {
    const Tensor& first = *views[0];
    for (int32_t i = 0; i < first.rank; ++i) {
      const int64_t n = first.shape[i];
      count *= n;
      if (n == 1) continue;
      bool merge = rank > 0;
      for (int k = 0; k < N && merge; ++k) merge = strides[k][rank - 1] == views[k]->strides[i] * n;
      if (!merge) ++rank;
      shape[rank - 1] = merge ? shape[rank - 1] * n : n;
      for (int k = 0; k < N; ++k) strides[k][rank - 1] = views[k]->strides[i];
    }
  }

  // Whether every view is one dense run.
  bool dense() const {
    if (rank > 1) return false;
    for (int k = 0; k < N && rank == 1; ++k)
      if (strides[k][0] != 1) return false;
    return true;
  }

  ROOTS_BOTH void offsets(int64_t index, int64_t (&out)[N]) const {
    for (int k = 0; k < N; ++k) out[k] = 0;
    for (int32_t i = rank - 1; i >= 0; --i) {
      const int64_t at = index % shape[i];
      index /= shape[i];
      for (int k = 0; k < N; ++k) out[k] += at * strides[k][i];
    }
  }
};

// Offset of the index-th element of axes [begin, end) of a view.
ROOTS_BOTH int64_t offset_of(const Tensor& x, int32_t begin, int32_t end, int64_t index) {
  int64_t offset = 0;
  for (int32_t i = end - 1; i >= begin; --i) {
    offset += (index % x.shape[i]) * x.strides[i];
    index /= x.shape[i];
  }
  return offset;
}

}  // namespace cuda
}  // namespace roots
