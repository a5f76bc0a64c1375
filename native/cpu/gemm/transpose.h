// Transposes a square of W x W elements in registers: log2(W) rounds in which row i is interleaved with row i
// + W/2. After a round the rows are perfectly shuffled; after all rounds rows are columns.
#pragma once

#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

#define ROOTS_LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ROOTS_HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define ROOTS_LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define ROOTS_HIGH_8 4, 12, 5, 13, 6, 14, 7, 15

template <class T>
ROOTS_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
  if constexpr (Vec<T>::kWidth == 16)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, ROOTS_LOW_16));
  else if constexpr (Vec<T>::kWidth == 8)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, ROOTS_LOW_8));
  else if constexpr (Vec<T>::kWidth == 4)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 4, 1, 5));
  else
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 0, 2));
}

template <class T>
ROOTS_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
  if constexpr (Vec<T>::kWidth == 16)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, ROOTS_HIGH_16));
  else if constexpr (Vec<T>::kWidth == 8)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, ROOTS_HIGH_8));
  else if constexpr (Vec<T>::kWidth == 4)
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 2, 6, 3, 7));
  else
    return Vec<T>(__builtin_shufflevector(a.v, b.v, 1, 3));
}

#undef ROOTS_LOW_16
#undef ROOTS_HIGH_16
#undef ROOTS_LOW_8
#undef ROOTS_HIGH_8

template <class T>
ROOTS_INLINE void transpose_square(Vec<T> (&rows)[Vec<T>::kWidth]) {
  constexpr int W = Vec<T>::kWidth;
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    // within the halves of 128 bits first: half the instructions of the rounds below, whose interleaving
    // crosses the halves each time
    __m256 pairs[8], quads[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps((__m256)rows[i].v, (__m256)rows[i + 1].v);
      pairs[i + 1] = _mm256_unpackhi_ps((__m256)rows[i].v, (__m256)rows[i + 1].v);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      quads[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      quads[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
      quads[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      quads[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      rows[i].v = (typename Vec<T>::Raw)_mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      rows[i + 4].v = (typename Vec<T>::Raw)_mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
    return;
  }
#endif
#pragma GCC unroll 4
  for (int round = 1; round < W; round *= 2) {
    Vec<T> next[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + W / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + W / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

// out[k * ld + j] = in[j * stride + k] for j < columns (others 0) and k < depth; writes whole vectors of W
// columns.
template <class T>
ROOTS_INLINE void transpose_block(const T* in, int64_t stride, int64_t columns, int64_t depth, T* out,
                                  int64_t ld, int64_t write) {
  constexpr int64_t W = Vec<T>::kWidth;
  for (int64_t k = 0; k < depth; k += W) {
    const int64_t n = depth - k < W ? depth - k : W;
    Vec<T> rows[W];
#pragma GCC unroll 16
    for (int64_t j = 0; j < W; ++j)
      rows[j] = j < columns ? Vec<T>::load_partial(in + j * stride + k, n) : Vec<T>();
    transpose_square(rows);
#pragma GCC unroll 16
    for (int64_t q = 0; q < W; ++q)
      if (q < n) rows[q].store_partial(out + (k + q) * ld, write);
  }
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
