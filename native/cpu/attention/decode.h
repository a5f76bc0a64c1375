// Attention of a few queries over a long cache: every key and value is read once, in place, for all query
// heads that share it. Bound by memory, so nothing is packed.
#pragma once

#include "cpu/attention/tiles.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// Up to this many queries per head.
constexpr int64_t kFewQueries = 4;
// Keys whose values are summed before the next query's turn: 64 rows of 256 bytes stay in L1.
constexpr int64_t kValueBlock = 64;

// Scores of `count` <= kWidth keys: dot products side by side, summed by a transpose.
template <class T>
ROOTS_INLINE Vec<T> dots(const T* q, const T* keys, int64_t stride, int64_t count, int64_t depth) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  V acc[W];
  if (count == W) {
    for (int64_t d = 0; d + W <= depth; d += W) {
      const V x = V::load(q + d);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j) acc[j] = fma(x, V::load(keys + j * stride + d), acc[j]);
    }
    if (const int64_t rest = depth % W) {
      const int64_t d = depth - rest;
      const V x = V::load_partial(q + d, rest);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j) acc[j] = fma(x, V::load_partial(keys + j * stride + d, rest), acc[j]);
    }
  } else {
    for (int64_t d = 0; d < depth; d += W) {
      const int64_t n = depth - d < W ? depth - d : W;
      const V x = V::load_partial(q + d, n);
#pragma GCC unroll 16
      for (int64_t j = 0; j < W; ++j)
        if (j < count) acc[j] = fma(x, V::load_partial(keys + j * stride + d, n), acc[j]);
    }
  }
  transpose_square(acc);
  for (int step = W / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) acc[i] = acc[i] + acc[i + step];
  return acc[0];
}

// sums (depth) += weights (count) * rows of values
template <class T>
ROOTS_INLINE void weighted_sum(const T* weights, const T* values, int64_t stride, int64_t count,
                               int64_t depth, T* sums) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  int64_t d = 0;
  for (; d + 4 * W <= depth; d += 4 * W) {
    V even[4], odd[4];
    for (int q = 0; q < 4; ++q) even[q] = V::load(sums + d + q * W);
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      const V a(weights[j]), b(weights[j + 1]);
      const T* row = values + j * stride + d;
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        even[q] = fma(a, V::load(row + q * W), even[q]);
        odd[q] = fma(b, V::load(row + stride + q * W), odd[q]);
      }
    }
    if (j < count)
      for (int q = 0; q < 4; ++q)
        even[q] = fma(V(weights[j]), V::load(values + j * stride + d + q * W), even[q]);
    for (int q = 0; q < 4; ++q) (even[q] + odd[q]).store(sums + d + q * W);
  }
  for (; d < depth; d += W) {
    const int64_t n = depth - d < W ? depth - d : W;
    V acc = V::load_partial(sums + d, n);
    for (int64_t j = 0; j < count; ++j)
      acc = fma(V(weights[j]), V::load_partial(values + j * stride + d, n), acc);
    acc.store_partial(sums + d, n);
  }
}

template <class T>
Status forward_few(const Context& context, const Operands<T>& x, const Tensor& out, const Tensor& lse) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const Problem& p = x.p;
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  CHECK(failure != nullptr, "out of memory");
  *failure = nullptr;
  const int64_t group = p.H / p.Hkv, queries = group * p.Tq, ld = (p.Tk + W - 1) / W * W;
  each_item(context, p.B * p.Hkv, queries * p.Tk * (p.D + p.Dv) * 4, [&](int64_t item) {
    const int64_t b = item / p.Hkv, g = item % p.Hkv;
    T* scores = static_cast<T*>(
        context.scratch(context.host, 2, static_cast<size_t>(queries * (ld + p.Dv)) * sizeof(T)));
    if (!scores) {
      __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    T* sums = scores + queries * ld;
    const int64_t end = p.last_key(b, p.Tq - 1);
    int64_t j0 = p.first_key(b, 0);
    j0 = j0 < end ? j0 : end;
    const int64_t n = end - j0, padded = (n + W - 1) / W * W;
    const T* keys = head<T>(x.k, b, g, j0);
    const T* values = head<T>(x.v, b, g, j0);
    for (int64_t j = 0; j < n; j += W)
      for (int64_t r = 0; r < queries; ++r)
        dots(head<T>(x.q, b, g * group + r / p.Tq, r % p.Tq), keys + j * x.k.strides[2], x.k.strides[2],
             n - j < W ? n - j : W, p.D)
            .store(scores + r * ld + j);
    for (int64_t r = 0; r < queries; ++r) {
      const int64_t h = g * group + r / p.Tq, i = r % p.Tq;
      T* row = scores + r * ld;
      finish_scores(x, b, h, i, j0, n, padded, row);
      const T top = largest_score(row, padded, T(-__builtin_inf()));
      const T total = weights_of(row, padded, x.exponent(), top);
      const bool none = total == T(0);
      const V inverse(none ? T(0) : T(1) / total);
      for (int64_t j = 0; j < padded; j += W) (V::load(row + j) * inverse).store(row + j);
      for (int64_t d = 0; d < p.Dv; ++d) sums[r * p.Dv + d] = T(0);
      const V logarithm = log(V(total));
      data<T>(lse)[(b * p.H + h) * p.Tq + i] =
          none ? T(-__builtin_inf())
               : top * x.exponent() * static_cast<T>(0.69314718055994530942) + logarithm.v[0];
    }
    for (int64_t j = 0; j < n; j += kValueBlock)
      for (int64_t r = 0; r < queries; ++r)
        weighted_sum(scores + r * ld + j, values + j * x.v.strides[2], x.v.strides[2],
                     n - j < kValueBlock ? n - j : kValueBlock, p.Dv, sums + r * p.Dv);
    for (int64_t r = 0; r < queries; ++r) {
      T* to = head<T>(out, b, g * group + r / p.Tq, r % p.Tq);
      for (int64_t d = 0; d < p.Dv; d += W) {
        const int64_t k = p.Dv - d < W ? p.Dv - d : W;
        V::load_partial(sums + r * p.Dv + d, k).store_partial(to + d, k);
      }
    }
  });
  return *failure;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
