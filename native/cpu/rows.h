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

// Rows whose sums are taken side by side, so that one does not wait for the last steps of another, and that
// read what columns have in common once.
constexpr int kRowsAtOnce = 4;

// body(row, Index<rows>): kRowsAtOnce rows at a time where they stay in L1, else one.
template <class T, class Body>
ROOTS_INLINE void for_row_groups(int64_t begin, int64_t end, int64_t width, const Body& body) {
  int64_t r = begin;
  if (width * static_cast<int64_t>(sizeof(T)) <= 4096)
    for (; r + kRowsAtOnce <= end; r += kRowsAtOnce) body(r, Index<kRowsAtOnce>{});
  for (; r < end; ++r) body(r, Index<1>{});
}

// f(vector, index, count) over n elements; count is the vector width but for the last piece.
template <class T, class F>
ROOTS_INLINE void each_vector(int64_t n, const F& f) {
  constexpr int64_t W = Vec<T>::kWidth;
  int64_t i = 0;
  for (; i + W <= n; i += W) f(i, W);
  if (i < n) f(i, n - i);
}

// Sums f(i) over the whole vectors of n elements, four sums at a time: one chain of additions would wait for
// itself. Returns where the rest begins.
template <class T, class F>
ROOTS_INLINE int64_t sum_vectors(int64_t n, Vec<T>* total, const F& f) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  V s[4] = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    unrolled<4>([&](auto j) ROOTS_INLINED { s[j] = s[j] + f(i + decltype(j)::value * W); });
  for (; i + W <= n; i += W) s[0] = s[0] + f(i);
  *total = (s[0] + s[1]) + (s[2] + s[3]);
  return i;
}

template <class T>
ROOTS_INLINE T row_max(const T* x, int64_t n) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  // the quick maximum may drop a NaN, which the sum of all keeps; opposite infinities only cost the second
  // look
  const V lowest(T(-__builtin_inf()));
  V fast[4] = {lowest, lowest, lowest, lowest}, sum[4] = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    unrolled<4>([&](auto j) ROOTS_INLINED {
      const V v = V::load(x + i + decltype(j)::value * W);
      fast[j] = larger(fast[j], v);
      sum[j] = sum[j] + v;
    });
  V best = larger(larger(fast[0], fast[1]), larger(fast[2], fast[3]));
  const T all = horizontal_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  if (all != all) {
    best = lowest;
    i = 0;
  }
  for (; i + W <= n; i += W) best = max(best, V::load(x + i));
  T top = horizontal_max(best);
  for (; i < n; ++i) top = (x[i] > top || x[i] != x[i]) ? x[i] : top;
  return top;
}

// sum of exp(x - shift); what lies `ahead` elements on is asked for meanwhile, unless that is 0.
template <class T>
ROOTS_INLINE T row_sum_exp(const T* x, int64_t n, T shift, int64_t ahead = 0) {
  using V = Vec<T>;
  V sum{};
  const int64_t i = sum_vectors<T>(n, &sum, [&](int64_t at) {
    if (ahead) __builtin_prefetch(x + at + ahead);
    return exp_below(V::load(x + at) - V(shift));
  });
  T total = horizontal_sum(sum);
  if (i < n) {
    const V e = exp_below(V::load_partial(x + i, n - i) - V(shift));
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

// ln sum exp(x), in pieces that stay in L1 between their maximum and their sum, which is kept relative to the
// largest number so far (Milakov & Gimelshein, arXiv 1805.02867): memory is read once, and while exponentials
// are computed the next piece comes. A row of -infinity gives -infinity, one with a NaN or infinity NaN.
template <class T>
ROOTS_INLINE T row_log_sum_exp(const T* x, int64_t n) {
  constexpr int64_t kPiece = 8192 / sizeof(T);
  T top = T(-__builtin_inf()), total = T(0);
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t m = n - i < kPiece ? n - i : kPiece;
    const T here = row_max(x + i, m);
    if (here > top || here != here) {
      total = total * exp_below(Vec<T>(top - finite_shift(here))).v[0];
      top = here;
    }
    total += row_sum_exp(x + i, m, finite_shift(top), i + m < n ? kPiece : 0);
  }
  return finite_shift(top) + log_scalar(total);
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
