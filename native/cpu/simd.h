// One vector of the compiled instruction set: arithmetic by the compiler's vector extensions, intrinsics only
// where there is no operator (fma, square root, masked loads). Also exp and log, accurate to about one unit
// in the last place for float and double, so that kernels need no math library.
//
// Everything is in an anonymous namespace: an inline function shared between instruction sets would let the
// linker keep the AVX-512 copy for a processor that has none.
#pragma once

#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/half.h"
#include "core/tensor.h"
#include "cpu/isa.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// f(0), f(1), … f(N - 1), unrolled before the optimiser looks at arrays: accumulators then stay in registers,
// which an unroll pragma alone does not guarantee.
template <int I>
struct Index {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};
template <int N, class F>
ROOTS_INLINE void unrolled(const F& f) {
  if constexpr (N > 0) {
    unrolled<N - 1>(f);
    f(Index<N - 1>{});
  }
}

// The compiler's vector types, one specialisation per element type: the attribute does not work on a
// dependent type.
template <class T>
struct RawVector;
#define ROOTS_RAW_VECTOR(T, I)                                                             \
  template <>                                                                              \
  struct RawVector<T> {                                                                    \
    using Int = I;                                                                         \
    typedef T Type __attribute__((vector_size(kVectorBytes)));                             \
    typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(1), may_alias)); \
    typedef I Mask __attribute__((vector_size(kVectorBytes)));                             \
  };
ROOTS_RAW_VECTOR(float, int32_t)
ROOTS_RAW_VECTOR(double, int64_t)
ROOTS_RAW_VECTOR(int32_t, int32_t)
ROOTS_RAW_VECTOR(int64_t, int64_t)
#undef ROOTS_RAW_VECTOR

template <class T>
struct Vec {
  using Raw = typename RawVector<T>::Type;
  using RawUnaligned = typename RawVector<T>::Unaligned;
  using Mask = typename RawVector<T>::Mask;
  using Element = T;
  static constexpr bool kHasErf = false;
  static constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));

  Raw v;

  // Vec<T> x; and arrays of it are not set; Vec<T>() and {} are zero. So an array of sums = {} stays in
  // registers.
  Vec() = default;
  ROOTS_INLINE Vec(Raw raw) : v(raw) {}
  ROOTS_INLINE Vec(T value) { v = value - Raw{}; }

  static ROOTS_INLINE Vec load(const T* p) { return *reinterpret_cast<const RawUnaligned*>(p); }
  ROOTS_INLINE void store(T* p) const { *reinterpret_cast<RawUnaligned*>(p) = v; }
  // Past the caches, to an address that is a multiple of the vector: for results larger than the caches. Call
  // finish_streams() after the last.
  ROOTS_INLINE void stream(T* p) const {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__x86_64__)
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
    store(p);
#endif
  }
#if defined(__AVX2__) && !defined(__AVX512F__)
  // All bits of the first n lanes.
  static ROOTS_INLINE __m256i first_lanes(int64_t n) {
    if constexpr (sizeof(T) == 4)
      return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    else
      return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
#endif
  // The first n elements, 0 <= n <= kWidth; the rest are zero.
  static ROOTS_INLINE Vec load_partial(const T* p, int64_t n) {
    if (n == kWidth) return load(p);
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      return Vec((Raw)_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << n) - 1u), p));
    else
      return Vec((Raw)_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << n) - 1u), p));
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
      return Vec((Raw)_mm256_maskload_epi32(reinterpret_cast<const int*>(p), first_lanes(n)));
    else
      return Vec((Raw)_mm256_maskload_epi64(reinterpret_cast<const long long*>(p), first_lanes(n)));
#else
    Vec r{};
    for (int64_t i = 0; i < kWidth; ++i)
      if (i < n) r.v[i] = p[i];
    return r;
#endif
  }
  ROOTS_INLINE void store_partial(T* p, int64_t n) const {
    if (n == kWidth) return store(p);
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_epi32(p, static_cast<__mmask16>((1u << n) - 1u), (__m512i)v);
    else
      _mm512_mask_storeu_epi64(p, static_cast<__mmask8>((1u << n) - 1u), (__m512i)v);
#elif defined(__AVX2__)
    // in halves: a masked store is a dozen times as slow on AMD's processors
    __m128i part = _mm256_castsi256_si128((__m256i)v);
    auto* to = reinterpret_cast<char*>(p);
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    if (bytes & 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), part);
      part = _mm256_extracti128_si256((__m256i)v, 1);
      to += 16;
    }
    if (bytes & 8) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), part);
      part = _mm_unpackhi_epi64(part, part);
      to += 8;
    }
    if (bytes & 4) _mm_storeu_si32(to, part);
#else
    for (int64_t i = 0; i < kWidth; ++i)
      if (i < n) p[i] = v[i];
#endif
  }

  friend ROOTS_INLINE Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend ROOTS_INLINE Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend ROOTS_INLINE Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend ROOTS_INLINE Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend ROOTS_INLINE Vec operator-(Vec a) { return -a.v; }
  friend ROOTS_INLINE Mask operator<(Vec a, Vec b) { return a.v < b.v; }
  friend ROOTS_INLINE Mask operator<=(Vec a, Vec b) { return a.v <= b.v; }
  friend ROOTS_INLINE Mask operator>(Vec a, Vec b) { return a.v > b.v; }
  friend ROOTS_INLINE Mask operator>=(Vec a, Vec b) { return a.v >= b.v; }
  friend ROOTS_INLINE Mask operator==(Vec a, Vec b) { return a.v == b.v; }
  friend ROOTS_INLINE Mask operator!=(Vec a, Vec b) { return a.v != b.v; }
};

// Orders streamed stores before whatever tells another thread that they are done.
ROOTS_INLINE void finish_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

template <class T>
ROOTS_INLINE Vec<T> select(typename Vec<T>::Mask mask, Vec<T> a, Vec<T> b) {
  return Vec<T>(mask ? a.v : b.v);
}

ROOTS_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v));
#elif defined(__FMA__)
  return Vec<float>((Vec<float>::Raw)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v));
#else
  return a * b + c;
#endif
}

ROOTS_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return Vec<double>((Vec<double>::Raw)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v));
#elif defined(__FMA__)
  return Vec<double>((Vec<double>::Raw)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v));
#else
  return a * b + c;
#endif
}

ROOTS_INLINE Vec<float> sqrt(Vec<float> a) {
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_sqrt_ps((__m512)a.v));
#elif defined(__AVX2__)
  return Vec<float>((Vec<float>::Raw)_mm256_sqrt_ps((__m256)a.v));
#elif defined(__x86_64__)
  return Vec<float>((Vec<float>::Raw)_mm_sqrt_ps((__m128)a.v));
#else
  Vec<float> r{};
  for (int i = 0; i < Vec<float>::kWidth; ++i) r.v[i] = __builtin_sqrtf(a.v[i]);
  return r;
#endif
}

ROOTS_INLINE Vec<double> sqrt(Vec<double> a) {
#if defined(__AVX512F__)
  return Vec<double>((Vec<double>::Raw)_mm512_sqrt_pd((__m512d)a.v));
#elif defined(__AVX2__)
  return Vec<double>((Vec<double>::Raw)_mm256_sqrt_pd((__m256d)a.v));
#elif defined(__x86_64__)
  return Vec<double>((Vec<double>::Raw)_mm_sqrt_pd((__m128d)a.v));
#else
  Vec<double> r{};
  for (int i = 0; i < Vec<double>::kWidth; ++i) r.v[i] = __builtin_sqrt(a.v[i]);
  return r;
#endif
}

// NaN in either argument gives NaN, as in the reference frameworks.
template <class T>
ROOTS_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  const Vec<T> greater = select<T>(a > b, a, b);
  return select<T>(a != a, a, greater);
}
template <class T>
ROOTS_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  const Vec<T> less = select<T>(a < b, a, b);
  return select<T>(a != a, a, less);
}

template <class T>
ROOTS_INLINE Vec<T> abs(Vec<T> a) {
  if constexpr (static_cast<T>(0.5) != T(0)) {
    // the sign bit cleared
    using Mask = typename Vec<T>::Mask;
    const Vec<T> sign(T(-0.0));
    return Vec<T>((typename Vec<T>::Raw)((Mask)a.v & ~(Mask)sign.v));
  }
  return select<T>(a < Vec<T>(T(0)), -a, a);
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kLow = -104.0f, kHigh = 89.0f;  // beyond: exactly 0 and infinity
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
};
template <>
struct ExpConstants<double> {
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kLow = -746.0, kHigh = 710.0;
  static constexpr double kLn2High = 6.93145751953125e-1, kLn2Low = 1.42860682030941723212e-6;
};

// e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln(2)/2, e^r by its Taylor polynomial. 2^n is applied in
// two halves so that denormal results and the step to infinity come out right. NaN stays NaN.
template <class T>
ROOTS_INLINE Vec<T> exp(Vec<T> x) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  using Mask [[maybe_unused]] = typename V::Mask;
  x = select<T>(x > V(C::kHigh), V(C::kHigh), x);
  x = select<T>(x < V(C::kLow), V(C::kLow), x);
  const V shifted = fma(x, V(T(1.44269504088896340736)), V(C::kMagic));
  const V n = shifted - V(C::kMagic);
  V r = fma(n, V(-C::kLn2High), x);
  r = fma(n, V(-C::kLn2Low), r);
  V p;
  if constexpr (sizeof(T) == 4) {
    p = V(T(1.0 / 5040));
  } else {
    p = V(T(1.0 / 6227020800.0));
    p = fma(p, r, V(T(1.0 / 479001600.0)));
    p = fma(p, r, V(T(1.0 / 39916800.0)));
    p = fma(p, r, V(T(1.0 / 3628800.0)));
    p = fma(p, r, V(T(1.0 / 362880.0)));
    p = fma(p, r, V(T(1.0 / 40320.0)));
    p = fma(p, r, V(T(1.0 / 5040.0)));
  }
  p = fma(p, r, V(T(1.0 / 720)));
  p = fma(p, r, V(T(1.0 / 120)));
  p = fma(p, r, V(T(1.0 / 24)));
  p = fma(p, r, V(T(1.0 / 6)));
  p = fma(p, r, V(T(0.5)));
  p = fma(p, r, V(T(1)));
  p = fma(p, r, V(T(1)));
#if defined(__AVX512F__)
  // one instruction for p 2^n, denormal results included
  if constexpr (sizeof(T) == 4)
    return V((typename V::Raw)_mm512_scalef_ps((__m512)p.v, (__m512)n.v));
  else
    return V((typename V::Raw)_mm512_scalef_pd((__m512d)p.v, (__m512d)n.v));
#else
  const V magic(C::kMagic);
  const Mask exponent = (Mask)shifted.v - (Mask)magic.v;
  const Mask half = exponent >> 1;
  const Mask first = (half + C::kBias) << C::kMantissa;
  const Mask second = (exponent - half + C::kBias) << C::kMantissa;
  return V(p.v * (typename V::Raw)first * (typename V::Raw)second);
#endif
}

// 0, 1, 2, ... as numbers.
template <class T>
ROOTS_INLINE Vec<T> iota() {
  Vec<T> r;
  unrolled<Vec<T>::kWidth>([&](auto i) ROOTS_INLINED { r.v[decltype(i)::value] = T(decltype(i)::value); });
  return r;
}

// The larger and the smaller of each pair, of a NaN and a number the second: one instruction, where max() and
// min() take three. The compiler does not always find it by itself.
template <class T>
ROOTS_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
  using Raw [[maybe_unused]] = typename Vec<T>::Raw;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>((Raw)_mm512_max_ps((__m512)a.v, (__m512)b.v));
  else
    return Vec<T>((Raw)_mm512_max_pd((__m512d)a.v, (__m512d)b.v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>((Raw)_mm256_max_ps((__m256)a.v, (__m256)b.v));
  else
    return Vec<T>((Raw)_mm256_max_pd((__m256d)a.v, (__m256d)b.v));
#else
  return select<T>(a > b, a, b);
#endif
}
ROOTS_INLINE Vec<float> smaller(Vec<float> a, Vec<float> b) {
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_min_ps((__m512)a.v, (__m512)b.v));
#elif defined(__AVX2__)
  return Vec<float>((Vec<float>::Raw)_mm256_min_ps((__m256)a.v, (__m256)b.v));
#else
  return select<float>(a < b, a, b);
#endif
}

// Lanes to one by a tree of halves: the order is the same at every call.
template <class T, class Join>
ROOTS_INLINE T reduce_lanes(Vec<T> a, const Join& join) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __m512 x = (__m512)a.v;
    Vec<T> y = join(a, Vec<T>((typename Vec<T>::Raw)_mm512_shuffle_f32x4(x, x, 0x4e)));
    y = join(y, Vec<T>((typename Vec<T>::Raw)_mm512_shuffle_f32x4((__m512)y.v, (__m512)y.v, 0xb1)));
    y = join(y, Vec<T>((typename Vec<T>::Raw)_mm512_permute_ps((__m512)y.v, 0x4e)));
    y = join(y, Vec<T>((typename Vec<T>::Raw)_mm512_permute_ps((__m512)y.v, 0xb1)));
    return y.v[0];
  }
#endif
  T lanes[Vec<T>::kWidth];
  a.store(lanes);
  for (int step = Vec<T>::kWidth / 2; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) lanes[i] = join(Vec<T>(lanes[i]), Vec<T>(lanes[i + step])).v[0];
  return lanes[0];
}
template <class T>
ROOTS_INLINE T horizontal_sum(Vec<T> a) {
  return reduce_lanes(a, [](Vec<T> x, Vec<T> y) { return x + y; });
}
// A NaN wins.
template <class T>
ROOTS_INLINE T horizontal_max(Vec<T> a) {
  return reduce_lanes(a, [](Vec<T> x, Vec<T> y) { return max(x, y); });
}
template <class T>
ROOTS_INLINE T reduce_larger(Vec<T> a) {
  return reduce_lanes(a, [](Vec<T> x, Vec<T> y) { return larger(x, y); });
}

// 2^x for -200 <= x <= 200 (AVX-512) or -127 <= x <= 128: relative error 1e-7, 0 where x rounds to -127,
// infinity to 128. Degree-5 minimax polynomial on [-1/2, 1/2].
ROOTS_INLINE Vec<float> exp2_limited(Vec<float> x) {
  using V = Vec<float>;
#if defined(__AVX512F__)
  const V n((V::Raw)_mm512_roundscale_ps((__m512)x.v, 0));
#else
  const V magic(ExpConstants<float>::kMagic);
  const V shifted = x + magic;
  const V n = shifted - magic;
#endif
  const V r = x - n;
  V p = fma(V(1.327647177e-3f), r, V(9.675541333e-3f));
  p = fma(p, r, V(5.550713274e-2f));
  p = fma(p, r, V(2.402211972e-1f));
  p = fma(p, r, V(6.931469671e-1f));
  p = fma(p, r, V(1.000000072f));
#if defined(__AVX512F__)
  return V((V::Raw)_mm512_scalef_ps((__m512)p.v, (__m512)n.v));
#else
  // the low bits of the shifted number are n: 127 more are the exponent of 2^n, of 0 or of infinity; a
  // product, so that a NaN stays one
  const V one(1.0f);
  const V power((V::Raw)(((V::Mask)shifted.v << ExpConstants<float>::kMantissa) + (V::Mask)one.v));
  return p * power;
#endif
}
#if defined(__AVX512F__)
constexpr float kLowestExponent = -200.0f, kHighestExponent = 200.0f;
#else
constexpr float kLowestExponent = -127.0f, kHighestExponent = 128.0f;
#endif

// 2^x for softmax, x at most a few: exactly 0 from 2^-200 down, and from 2^-126.5 down without AVX-512; NaN
// stays NaN.
ROOTS_INLINE Vec<float> exp2(Vec<float> x) { return exp2_limited(larger(Vec<float>(kLowestExponent), x)); }
ROOTS_INLINE Vec<double> exp2(Vec<double> x) { return exp(x * Vec<double>(0.69314718055994530942)); }
// e^x for x <= 0 or NaN, as softmax needs it: relative error 1e-7 (1 + |x|) in float.
ROOTS_INLINE Vec<float> exp_below(Vec<float> x) { return exp2(x * Vec<float>(1.44269504088896340736f)); }
ROOTS_INLINE Vec<double> exp_below(Vec<double> x) { return exp(x); }
// e^x of any x, as sigmoid needs it: the same error, 0 or infinity where that is out of range.
ROOTS_INLINE Vec<float> exp_wide(Vec<float> x) {
  const Vec<float> y = x * Vec<float>(1.44269504088896340736f);
  return exp2_limited(smaller(Vec<float>(kHighestExponent), larger(Vec<float>(kLowestExponent), y)));
}
ROOTS_INLINE Vec<double> exp_wide(Vec<double> x) { return exp(x); }

// ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)).
template <class T>
ROOTS_INLINE Vec<T> log(Vec<T> x) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  using Mask = typename V::Mask;
  constexpr T kTwoPower = sizeof(T) == 4 ? T(8388608.0) : T(4503599627370496.0);
  constexpr T kMinNormal = sizeof(T) == 4 ? T(1.17549435e-38f) : T(2.2250738585072014e-308);
  const Mask denormal = x < V(kMinNormal);
  const V scaled = select<T>(denormal, x * V(kTwoPower), x);
  const Mask bits = (Mask)scaled.v;
  const V sqrt_half(T(0.70710678118654752440));
  const Mask offset = bits - (Mask)sqrt_half.v;
  const Mask exponent = offset >> C::kMantissa;  // arithmetic shift: floor
  const V m((typename V::Raw)(bits - (exponent << C::kMantissa)));
  // exponent as T by the rounding constant, exact for small integers
  const V magic(C::kMagic);
  V e = V((typename V::Raw)(exponent + (Mask)magic.v)) - magic;
  e = select<T>(denormal, e - V(T(C::kMantissa)), e);
  const V s = (m - V(T(1))) / (m + V(T(1)));
  const V z = s * s;
  V p;
  if constexpr (sizeof(T) == 4) {
    p = V(T(1.0 / 9));
  } else {
    p = V(T(1.0 / 21));
    p = fma(p, z, V(T(1.0 / 19)));
    p = fma(p, z, V(T(1.0 / 17)));
    p = fma(p, z, V(T(1.0 / 15)));
    p = fma(p, z, V(T(1.0 / 13)));
    p = fma(p, z, V(T(1.0 / 11)));
    p = fma(p, z, V(T(1.0 / 9)));
  }
  p = fma(p, z, V(T(1.0 / 7)));
  p = fma(p, z, V(T(1.0 / 5)));
  p = fma(p, z, V(T(1.0 / 3)));
  p = p * z;
  const V two_s = s + s;
  V result = fma(e, V(C::kLn2Low), two_s * p);
  result = result + two_s;
  result = fma(e, V(C::kLn2High), result);
  const V infinity = V(static_cast<T>(__builtin_inf()));
  result = select<T>(x == infinity, infinity, result);
  result = select<T>(x == V(T(0)), -infinity, result);
  result = select<T>(x < V(T(0)), V(T(__builtin_nan(""))), result);
  return select<T>(x != x, x, result);
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
