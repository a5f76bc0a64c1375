// Shape arithmetic of the views that kernels receive.
#pragma once

#include "core/tensor.h"

namespace roots {
namespace {

inline int64_t numel(const Tensor& t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t.rank; ++i) n *= t.shape[i];
  return n;
}

inline bool is_contiguous(const Tensor& t) {
  int64_t expected = 1;
  for (int32_t i = t.rank - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank) return false;
  for (int32_t i = 0; i < a.rank; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

// Of an optional tensor: dense, with the shape and type of another.
inline bool absent_or_like(const Tensor& t, const Tensor& other) {
  return !t.data || (t.dtype == other.dtype && same_shape(t, other) && is_contiguous(t));
}

template <class T>
inline T* data(const Tensor& t) {
  return static_cast<T*>(t.data);
}

}  // namespace
}  // namespace roots
