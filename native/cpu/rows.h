// Loops over the contiguous rows of a tensor, shared by softmax, the norms and cross-entropy.
#pragma once

#include "core/check.h"
#include "core/context.h"
#include "core/status.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// body(first row, one past the last) for chunks of whole rows.
template <class Body>
ROOTS_INLINE void for_rows(const Context& context, int64_t rows, int64_t width, const Body& body) {
  const int64_t per_chunk = width > 0 && width < kChunkElements ? kChunkElements / width : 1;
  context.parallel_for((rows + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < rows ? (chunk + 1) * per_chunk : rows;
    body(chunk * per_chunk, end);
  });
}

// f(vector, index, count) over n elements; count is the vector width but for the last piece.
template <class T, class F>
ROOTS_INLINE void each_vector(int64_t n, const F& f) {
  constexpr int64_t W = Vec<T>::kWidth;
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, W);
  if (i < n) f(i, n - i);
}

template <class T>
ROOTS_INLINE T row_max(const T* x, int64_t n) {
  using V = Vec<T>;
  V best(T(-__builtin_inf()));
  int64_t i = 0;
  for (; i + V::kWidth <= n; i += V::kWidth) best = max(best, V::load(x + i));
  T top = horizontal_max(best);
  for (; i < n; ++i) top = (x[i] > top || x[i] != x[i]) ? x[i] : top;
  return top;
}

// sum of exp(x - shift)
template <class T>
ROOTS_INLINE T row_sum_exp(const T* x, int64_t n, T shift) {
  using V = Vec<T>;
  V sum;
  int64_t i = 0;
  for (; i + V::kWidth <= n; i += V::kWidth) sum = sum + exp(V::load(x + i) - V(shift));
  T total = horizontal_sum(sum);
  if (i < n) {
    const V e = exp(V::load_partial(x + i, n - i) - V(shift));
    for (int64_t j = 0; j < n - i; ++j) total += e.v[j];
  }
  return total;
}

// Keeps -infinity rows defined: shift by 0, so that every exp is 0.
template <class T>
ROOTS_INLINE T finite_shift(T top) {
  return top == T(-__builtin_inf()) ? T(0) : top;
}

template <class T>
ROOTS_INLINE T log_scalar(T x) {
  return log(Vec<T>(x)).v[0];
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
