// Attention of a few queries over a long cache: every key and value is read once, in place, for all query
// heads that share it. Bound by memory, so nothing is packed. Long caches are cut into pieces of one length,
// whatever the number of threads, whose results are joined in order (Flash-Decoding: a softmax over parts is
// a weighted mean of theirs).
#pragma once

#include "cpu/attention/tiles.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// Up to this many queries per head.
constexpr int64_t kFewQueries = 4;
// Keys per piece.
constexpr int64_t kPiece = 512;
// Keys that are asked for ahead.
constexpr int64_t kKeysAhead = 32;
// Keys whose values are summed before the next query's turn: 64 rows of 256 bytes stay in L1.
constexpr int64_t kValueBlock = 64;

// Scores of `count` <= kWidth keys: dot products side by side, summed by a transpose. q is padded with zeros
// to whole vectors; key(j, d, n) gives n elements from d of key j.
template <class T, class Key>
ROOTS_INLINE Vec<T> dots(const T* q, const Key& key, int64_t count, int64_t depth) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  V acc[W] = {};
  if (count == W) {
    int64_t d = 0;
    for (; d + W <= depth; d += W) {
      const V x = V::load(q + d);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j) acc[j] = fma(x, key(j, d, W), acc[j]);
    }
    if (d < depth) {
      const V x = V::load(q + d);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j) acc[j] = fma(x, key(j, d, depth - d), acc[j]);
    }
  } else {
    for (int64_t d = 0; d < depth; d += W) {
      const int64_t n = depth - d < W ? depth - d : W;
      const V x = V::load(q + d);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j)
        if (j < count) acc[j] = fma(x, key(j, d, n), acc[j]);
    }
  }
  transpose_square(acc);
  for (int step = W / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) acc[i] = acc[i] + acc[i + step];
  return acc[0];
}

// sums (whole vectors) += weights (count) * rows; value(j, d, n) gives n elements from d of row j.
template <class T, class Value>
ROOTS_INLINE void weighted_sum(const T* weights, const Value& value, int64_t count, int64_t depth, T* sums) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  int64_t d = 0;
  for (; d + 4 * W <= depth; d += 4 * W) {
    V even[4], odd[4] = {};
    for (int q = 0; q < 4; ++q) even[q] = V::load(sums + d + q * W);
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      const V a(weights[j]), b(weights[j + 1]);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        even[q] = fma(a, value(j, d + q * W, W), even[q]);
        odd[q] = fma(b, value(j + 1, d + q * W, W), odd[q]);
      }
    }
    if (j < count)
      for (int q = 0; q < 4; ++q) even[q] = fma(V(weights[j]), value(j, d + q * W, W), even[q]);
    for (int q = 0; q < 4; ++q) (even[q] + odd[q]).store(sums + d + q * W);
  }
  for (; d < depth; d += W) {
    const int64_t n = depth - d < W ? depth - d : W;
    V acc = V::load(sums + d);
    for (int64_t j = 0; j < count; ++j) acc = fma(V(weights[j]), value(j, d, n), acc);
    acc.store(sums + d);
  }
}

// What one query has of one piece, and behind it the sums of values: relative to the largest score.
template <class T>
struct Part {
  T top, total;
  static constexpr int64_t kHeader = Vec<T>::kWidth;  // elements before the sums
};

// row (n, stored in whole vectors) times the scales of keys or values from j0 on.
template <class T>
ROOTS_INLINE void scale_row(const Tensor& scales, int64_t b, int64_t g, int64_t j0, int64_t n, T* row) {
  using V = Vec<T>;
  const T* from = data<T>(scales) + b * scales.strides[0] + g * scales.strides[1] + j0;
  for (int64_t j = 0; j < n; j += V::kWidth)
    (V::load(row + j) * V::load_partial(from + j, n - j < V::kWidth ? n - j : V::kWidth)).store(row + j);
}

// Asks for rows [i, i + count) of one head, below `end`.
ROOTS_INLINE void prefetch_rows(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t count,
                                int64_t end) {
  const int64_t size = dtype_size(t.dtype), bytes = t.shape[3] * size;
  const char* row = data<const char>(t) + (b * t.strides[0] + h * t.strides[1] + i * t.strides[2]) * size;
  for (const int64_t last = i + count < end ? i + count : end; i < last; ++i, row += t.strides[2] * size)
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

template <class F>
Status forward_few(const Context& context, const Operands<typename F::Value>& x, const Tensor& out,
                   const Tensor& lse) {
  using T = typename F::Value;
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const Problem& p = x.p;
  const int64_t group = p.H / p.Hkv, queries = group * p.Tq, pieces = p.Tk > 0 ? ceil_div(p.Tk, kPiece) : 1;
  const int64_t depth = ceil_div(p.D, W) * W, dv = ceil_div(p.Dv, W) * W, part_size = Part<T>::kHeader + dv;
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  auto* parts = static_cast<T*>(context.workspace(
      context.host, 3, static_cast<size_t>(p.B * p.H * p.Tq * pieces * part_size) * sizeof(T)));
  CHECK(failure != nullptr && parts != nullptr, "out of memory");
  *failure = nullptr;
  const auto part_of = [&](int64_t query, int64_t piece) {
    return parts + (query * pieces + piece) * part_size;
  };
  // query: (b H + h) Tq + i
  const auto finish = [&](int64_t query) {
    const int64_t i = query % p.Tq, h = query / p.Tq % p.H, b = query / p.Tq / p.H;
    T top = T(-__builtin_inf());
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const T own = reinterpret_cast<const Part<T>*>(part_of(query, piece))->top;
      top = own > top || own != own ? own : top;
    }
    T* sums = part_of(query, 0) + Part<T>::kHeader;
    T total = T(0);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      T* values = part_of(query, piece);
      const auto* part = reinterpret_cast<const Part<T>*>(values);
      values += Part<T>::kHeader;
      const V factor = part->top == T(-__builtin_inf()) ? V() : exp2(V((part->top - top) * x.exponent()));
      total += part->total * factor.v[0];
      for (int64_t d = 0; d < dv; d += W) {
        const V own = V::load(values + d) * factor;
        (piece == 0 ? own : own + V::load(sums + d)).store(sums + d);
      }
    }
    const bool none = total == T(0);
    const V inverse(none ? T(0) : T(1) / total), logarithm = log(V(total));
    for (int64_t d = 0; d < p.Dv; d += W)
      F::store(V::load(sums + d) * inverse, out, b, h, i, d, p.Dv - d < W ? p.Dv - d : W);
    data<T>(lse)[query] = none ? T(-__builtin_inf())
                               : top * x.exponent() * static_cast<T>(0.69314718055994530942) + logarithm.v[0];
  };
  each_item(
      context, p.B * p.Hkv * pieces, queries * (p.Tk < kPiece ? p.Tk : kPiece) * (p.D + p.Dv) * 4,
      [&](int64_t item) {
        const int64_t piece = item % pieces, b = item / pieces / p.Hkv, g = item / pieces % p.Hkv;
        T* scores = static_cast<T*>(
            context.scratch(context.host, 2, static_cast<size_t>(queries * (kPiece + depth)) * sizeof(T)));
        if (!scores) {
          __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
          return;
        }
        T* rows = scores + queries * kPiece;
        const auto query_of = [&](int64_t r) { return (b * p.H + g * group + r / p.Tq) * p.Tq + r % p.Tq; };
        const int64_t last = p.last_key(b, p.Tq - 1), first = p.first_key(b, 0), limit = (piece + 1) * kPiece;
        const int64_t end = last < limit ? last : limit,
                      start = first > piece * kPiece ? first : piece * kPiece;
        const int64_t j0 = start < end ? start : end, n = end - j0, padded = ceil_div(n, W) * W;
        for (int64_t r = 0; r < queries; ++r)
          for (int64_t d = 0; d < depth; d += W)
            F::load(x.q, b, g * group + r / p.Tq, r % p.Tq, d, p.D - d < W ? p.D - d : W)
                .store(rows + r * depth + d);
        for (int64_t j = 0; j < n; j += W) {
          // while scores are computed: keys to come, and the values of these
          prefetch_rows(x.k, b, g, j0 + j + kKeysAhead, W, end);
          prefetch_rows(x.v, b, g, j0 + j, W, end);
          for (int64_t r = 0; r < queries; ++r)
            F::with_rows(x.k, b, g, j0 + j, [&](const auto& key) {
              dots(rows + r * depth, key, n - j < W ? n - j : W, p.D).store(scores + r * kPiece + j);
            });
        }
        for (int64_t r = 0; r < queries; ++r) {
          T* row = scores + r * kPiece;
          if constexpr (F::kScaledRows) scale_row(x.k_scale, b, g, j0, n, row);
          finish_scores(x, b, g * group + r / p.Tq, r % p.Tq, j0, n, padded, row);
          T* values = part_of(query_of(r), piece);
          auto* part = reinterpret_cast<Part<T>*>(values);
          part->top = largest_score(row, padded, T(-__builtin_inf()));
          part->total = weights_of(row, padded, x.exponent(), part->top);
          if constexpr (F::kScaledRows) scale_row(x.v_scale, b, g, j0, n, row);
          for (int64_t d = 0; d < dv; d += W) V().store(values + Part<T>::kHeader + d);
        }
        for (int64_t j = 0; j < n; j += kValueBlock)
          for (int64_t r = 0; r < queries; ++r)
            F::with_rows(x.v, b, g, j0 + j, [&](const auto& value) {
              weighted_sum(scores + r * kPiece + j, value, n - j < kValueBlock ? n - j : kValueBlock, p.Dv,
                           part_of(query_of(r), piece) + Part<T>::kHeader);
            });
        if (pieces == 1)
          for (int64_t r = 0; r < queries; ++r) finish(query_of(r));
      });
  if (pieces > 1) each_item(context, p.B * p.H * p.Tq, pieces * p.Dv * 16, finish);
  return *failure;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
