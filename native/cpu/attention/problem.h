// One attention call with its operands.
#pragma once

#include "core/attention.h"
#include "core/kernels.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr Status kOutOfMemory = "out of memory";

using Problem = AttentionProblem;

template <class T>
ROOTS_INLINE T* head(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return data<T>(t) + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}

// One attention call with its operands, float or double.
template <class T>
struct Operands {
  Problem p;
  Tensor q, k, v;
  OptionalTensor mask;
  Tensor k_scale = {}, v_scale = {};  // (B, Hkv, Tk): of int8 keys and values

  // scores are rewritten as scale S + mask before the softmax; otherwise the scale is part of its exponent
  ROOTS_INLINE bool rewrites() const { return mask.data || !(p.scale > 0); }
  // factor of a stored score in the exponent of 2
  ROOTS_INLINE T exponent() const {
    return static_cast<T>((rewrites() ? 1 : p.scale) * 1.44269504088896340736);
  }
};

// Finishes scores [j0, j0 + n) of one query, of which `padded` are stored: scale and mask where needed, and
// -infinity for keys that it may not see.
template <class T>
ROOTS_INLINE void finish_scores(const Operands<T>& x, int64_t b, int64_t h, int64_t i, int64_t j0, int64_t n,
                                int64_t padded, T* row) {
  using V = Vec<T>;
  if (x.rewrites()) {
    const V scale(static_cast<T>(x.p.scale));
    for (int64_t j = 0; j < padded; j += V::kWidth) (V::load(row + j) * scale).store(row + j);
    if (x.mask.data) {
      const T* add = head<T>(x.mask, b, h, i) + j0 * x.mask.strides[3];
      for (int64_t j = 0; j < n; ++j) row[j] += add[j * x.mask.strides[3]];
    }
  }
  const int64_t first = x.p.first_key(b, i) - j0;
  int64_t last = x.p.last_key(b, i) - j0;
  last = last < 0 ? 0 : last < n ? last : n;
  const V forbidden(T(-__builtin_inf())), index = iota<T>();
  for (int64_t j = 0; j < first && j < padded; j += V::kWidth)
    select<T>(index < V(static_cast<T>(first - j)), forbidden, V::load(row + j)).store(row + j);
  for (int64_t j = last / V::kWidth * V::kWidth; j < padded; j += V::kWidth)
    select<T>(index < V(static_cast<T>(last - j)), V::load(row + j), forbidden).store(row + j);
}

// A block of memory cut into arrays that start on cache lines.
class Carver {
 public:
  explicit Carver(void* memory = nullptr) : memory_(reinterpret_cast<uintptr_t>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* out = reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return out;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t memory_;
  size_t used_ = 0;
};

// The whole vectors of n elements: where the rest begins. A count that is looked at for each vector would
// cost more than the copy.
template <class T>
ROOTS_INLINE int64_t copy_vectors(const T* from, int64_t n, T* to) {
  constexpr int64_t W = Vec<T>::kWidth;
  int64_t i = 0;
  for (; i + W <= n; i += W) Vec<T>::load(from + i).store(to + i);
  return i;
}

// Rows of `n` elements, `stride` apart, to rows of `ld`, a multiple of the vector, with zeros behind.
template <class T>
ROOTS_INLINE void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t n, T* to, int64_t ld) {
  constexpr int64_t W = Vec<T>::kWidth;
  for (int64_t r = 0; r < rows; ++r, from += stride, to += ld)
    for (int64_t i = copy_vectors(from, n, to); i < ld; i += W)
      (i < n ? Vec<T>::load_partial(from + i, n - i) : Vec<T>()).store(to + i);
}

// The same without zeros: nothing but the `n` elements is read or written.
template <class T>
ROOTS_INLINE void move_rows(const T* from, int64_t stride, int64_t rows, int64_t n, T* to, int64_t ld) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += ld) {
    const int64_t i = copy_vectors(from, n, to);
    if (i < n) Vec<T>::load_partial(from + i, n - i).store_partial(to + i, n - i);
  }
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
