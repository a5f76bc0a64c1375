// AVX-512 without the processor: what the kernels use of it, lane by lane as the manual of the instruction
// set defines it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), in AVX2. Included
// before every line of the AVX-512 kernels with -DROOTS_AVX512_EMULATED=ON, so that their tests run on any
// machine with AVX2. Says nothing about speed, nor about the code that the compiler makes of the real
// intrinsics. (SIMDe 0.7 lacks a third of these.)
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

// after the compiler's headers, which would take them for its own
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#if defined(ROOTS_EMULATED_VNNI)
#define __AVX512VNNI__ 1
#endif
#if defined(ROOTS_EMULATED_VBMI2)
#define __AVX512VBMI2__ 1
#endif
#if defined(ROOTS_EMULATED_BF16)
#define __AVX512BF16__ 1
#endif
#if defined(ROOTS_EMULATED_AMX)
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#endif

namespace emulated {
namespace {

// Calls: the kernels have thousands, and inlining them makes compiling a third slower and tests no faster.
#define EMULATED [[maybe_unused]] __attribute__((noinline))

// 64 bytes as numbers.
template <class T>
struct Lanes {
  static constexpr int kCount = 64 / static_cast<int>(sizeof(T));
  T at[kCount];
};
template <class T, class V>
EMULATED Lanes<T> lanes(V v) {
  return __builtin_bit_cast(Lanes<T>, v);
}
template <class V, class T>
EMULATED V whole(const Lanes<T>& l) {
  return __builtin_bit_cast(V, l);
}
template <class T, class V, class F>
EMULATED V each(V a, V b, const F& f) {
  const Lanes<T> x = lanes<T>(a), y = lanes<T>(b);
  Lanes<T> r;
  for (int i = 0; i < Lanes<T>::kCount; ++i) r.at[i] = static_cast<T>(f(x.at[i], y.at[i]));
  return whole<V>(r);
}
// By the same instruction on 32 bytes, which AVX2 has.
template <class V, class Half, class F, class... Args>
EMULATED V halves(const F& f, Args... args) {
  struct Pair {
    Half of[2];
  };
  Pair r;
  for (int i = 0; i < 2; ++i) r.of[i] = f(__builtin_bit_cast(Pair, args).of[i]...);
  return __builtin_bit_cast(V, r);
}

// --- memory
template <class V>
EMULATED V load(const void* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
EMULATED void store(void* p, V v) {
  memcpy(p, &v, sizeof v);
}
EMULATED void stream(void* p, __m512i v) {
  if (reinterpret_cast<uintptr_t>(p) % 64) __builtin_trap();  // a general protection exception
  store(p, v);
}
template <class T>
EMULATED __m512i load_masked(uint64_t mask, const void* p) {
  Lanes<T> r;
  for (int i = 0; i < Lanes<T>::kCount; ++i) r.at[i] = mask >> i & 1 ? static_cast<const T*>(p)[i] : T{};
  return whole<__m512i>(r);
}
template <class T, class V>
EMULATED void store_masked(void* p, uint64_t mask, V v) {
  T from[sizeof(V) / sizeof(T)];
  memcpy(from, &v, sizeof v);
  for (int i = 0; i < static_cast<int>(sizeof(V) / sizeof(T)); ++i)
    if (mask >> i & 1) static_cast<T*>(p)[i] = from[i];
}

// --- integers
template <class T>
EMULATED __m512i all(T x) {
  Lanes<T> r;
  for (T& lane : r.at) lane = x;
  return whole<__m512i>(r);
}
// From the highest lane to the lowest.
template <class... T>
EMULATED __m512i words(T... x) {
  static_assert(sizeof...(T) == 32);
  const int16_t from[32] = {static_cast<int16_t>(x)...};
  Lanes<int16_t> r;
  for (int i = 0; i < 32; ++i) r.at[i] = from[31 - i];
  return whole<__m512i>(r);
}
EMULATED __m512i add(__m512i a, __m512i b) {
  return each<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x + y; });
}
EMULATED __m512i subtract(__m512i a, __m512i b) {
  return each<uint32_t>(a, b, [](uint32_t x, uint32_t y) { return x - y; });
}
EMULATED __m512i shift_left(__m512i a, unsigned n) {
  return each<uint32_t>(a, a, [n](uint32_t x, uint32_t) { return n < 32 ? x << n : 0u; });
}
EMULATED __m512i shift_words_right(__m512i a, unsigned n) {
  return each<uint16_t>(a, a, [n](uint16_t x, uint16_t) { return n < 16 ? x >> n : 0; });
}
EMULATED __m512i permute_words(__m512i index, __m512i a) {
  const Lanes<uint16_t> from = lanes<uint16_t>(a);
  return each<uint16_t>(index, index, [&](uint16_t i, uint16_t) { return from.at[i & 31]; });
}
EMULATED __m512i insert_half(__m512i a, __m256i b, int half) {
  Lanes<__m256i> r = lanes<__m256i>(a);
  r.at[half & 1] = b;
  return whole<__m512i>(r);
}
EMULATED __m512i expand_bytes(uint64_t mask, __m512i a) {
  const Lanes<uint8_t> from = lanes<uint8_t>(a);
  Lanes<uint8_t> r;
  for (int i = 0, next = 0; i < 64; ++i) r.at[i] = mask >> i & 1 ? from.at[next++] : uint8_t{0};
  return whole<__m512i>(r);
}
// Four products of unsigned by signed bytes into a lane, modulo 2^32.
EMULATED __m512i dot_bytes(__m512i sum, __m512i a, __m512i b) {
  return halves<__m512i, __m256i>(
      [&](__m256i s, __m256i x, __m256i y) {
        // even and odd bytes apart, so that no sum of two products saturates
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(255)),
                                               _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
        return _mm256_add_epi32(s, _mm256_add_epi32(even, odd));
      },
      sum, a, b);
}

// --- floating point
EMULATED __m512 permute(__m512 a, int control) {
  const Lanes<float> x = lanes<float>(a);
  Lanes<float> r;
  for (int i = 0; i < 16; ++i) r.at[i] = x.at[i / 4 * 4 + (control >> i % 4 * 2 & 3)];
  return whole<__m512>(r);
}
EMULATED __m512 shuffle_quarters(__m512 a, __m512 b, int control) {
  const Lanes<__m128> x = lanes<__m128>(a), y = lanes<__m128>(b);
  Lanes<__m128> r;
  for (int i = 0; i < 4; ++i) r.at[i] = (i < 2 ? x : y).at[control >> i * 2 & 3];
  return whole<__m512>(r);
}
EMULATED __m512 repeat_quarter(__m128 a) {
  Lanes<__m128> r;
  for (__m128& quarter : r.at) quarter = a;
  return whole<__m512>(r);
}
EMULATED __m512 rounded(__m512 a, int control) {
  if (control) __builtin_trap();  // the kernels round to the nearest integer only
  return halves<__m512, __m256>([](__m256 x) { return _mm256_round_ps(x, 8); }, a);
}
// a 2^floor(b), rounded once: a double holds every float times 2^-600 to 2^600 exactly.
EMULATED float scaled(float a, float b) {
  if (a != a || b != b) return a + b;
  const double n = b < -600.0f ? -600.0 : b > 600.0f ? 600.0 : floor(static_cast<double>(b));
  return static_cast<float>(static_cast<double>(a) * __builtin_ldexp(1.0, static_cast<int>(n)));
}
EMULATED double scaled(double a, double b) {
  if (a != a || b != b) return a + b;
  const double n = b < -3000.0 ? -3000.0 : b > 3000.0 ? 3000.0 : floor(b);
  return __builtin_ldexp(a, static_cast<int>(n));
}

// bfloat16: denormal numbers count as zero, results too.
EMULATED float flushed(float x) { return x < 1.17549435e-38f && x > -1.17549435e-38f ? x * 0.0f : x; }
EMULATED uint16_t to_bf16(float x) {
  x = flushed(x);
  const auto bits = __builtin_bit_cast(uint32_t, x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
EMULATED float from_bf16(uint16_t x) {
  return flushed(__builtin_bit_cast(float, static_cast<uint32_t>(x) << 16));
}
// The lower half of b's numbers, the upper half of a's.
EMULATED __m512i two_to_bf16(__m512 a, __m512 b) {
  const Lanes<float> high = lanes<float>(a), low = lanes<float>(b);
  Lanes<uint16_t> r;
  for (int i = 0; i < 16; ++i) {
    r.at[i] = to_bf16(low.at[i]);
    r.at[i + 16] = to_bf16(high.at[i]);
  }
  return whole<__m512i>(r);
}
EMULATED __m256i one_to_bf16(__m512 a) { return lanes<__m256i>(two_to_bf16(a, a)).at[0]; }
EMULATED __m512 dot_bf16(__m512 sum, __m512i a, __m512i b) {
  Lanes<float> s = lanes<float>(sum);
  const Lanes<uint16_t> x = lanes<uint16_t>(a), y = lanes<uint16_t>(b);
  for (int i = 0; i < 16; ++i)
    for (int odd = 1; odd >= 0; --odd)
      s.at[i] = flushed(
          __builtin_fmaf(from_bf16(x.at[2 * i + odd]), from_bf16(y.at[2 * i + odd]), flushed(s.at[i])));
  return whole<__m512>(s);
}

template <class To, class From>
EMULATED __m512i widened(From from) {
  typedef To Small __attribute__((vector_size(sizeof(From))));
  typedef int32_t Wide __attribute__((vector_size(64)));
  return (__m512i) __builtin_convertvector((Small)from, Wide);
}
EMULATED __m512 to_floats(__m512i a) {
  typedef int32_t Words __attribute__((vector_size(64)));
  typedef float Floats __attribute__((vector_size(64)));
  return (__m512) __builtin_convertvector((Words)a, Floats);
}
EMULATED __m512 halves_to_floats(__m256i a) {
  const Lanes<__m256> r = {
      {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))}};
  return whole<__m512>(r);
}
#undef EMULATED

}  // namespace
}  // namespace emulated

#define ROOTS_HALVES(V, Half, name, ...) \
  emulated::halves<V, Half>([](auto... x) { return name(x...); }, __VA_ARGS__)
#define _mm512_loadu_si512(p) emulated::load<__m512i>(p)
#define _mm512_loadu_ps(p) emulated::load<__m512>(p)
#define _mm512_storeu_si512(p, v) emulated::store<__m512i>(p, v)
#define _mm512_storeu_ps(p, v) emulated::store<__m512>(p, v)
#define _mm512_stream_si512(p, v) emulated::stream(p, v)
#define _mm512_maskz_loadu_epi16(mask, p) emulated::load_masked<uint16_t>(mask, p)
#define _mm512_maskz_loadu_epi32(mask, p) emulated::load_masked<uint32_t>(mask, p)
#define _mm512_maskz_loadu_epi64(mask, p) emulated::load_masked<uint64_t>(mask, p)
#define _mm512_mask_storeu_epi32(p, mask, v) emulated::store_masked<uint32_t>(p, mask, v)
#define _mm512_mask_storeu_epi64(p, mask, v) emulated::store_masked<uint64_t>(p, mask, v)
#define _mm256_mask_storeu_epi16(p, mask, v) emulated::store_masked<uint16_t>(p, mask, v)
#define _mm512_setzero_si512() emulated::all<int32_t>(0)
#define _mm512_setzero_ps() ((__m512)emulated::all<int32_t>(0))
#define _mm512_set1_epi8(x) emulated::all<int8_t>(static_cast<int8_t>(x))
#define _mm512_set1_epi16(x) emulated::all<int16_t>(static_cast<int16_t>(x))
#define _mm512_set1_epi32(x) emulated::all<int32_t>(x)
#define _mm512_set_epi16(...) emulated::words(__VA_ARGS__)
#define _mm512_add_epi32(a, b) emulated::add(a, b)
#define _mm512_sub_epi32(a, b) emulated::subtract(a, b)
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_xor_si512(a, b) ((a) ^ (b))
#define _mm512_slli_epi32(a, n) emulated::shift_left(a, n)
#define _mm512_srli_epi16(a, n) emulated::shift_words_right(a, n)
#define _mm512_permutexvar_epi16(index, a) emulated::permute_words(index, a)
#define _mm512_inserti64x4(a, b, half) emulated::insert_half(a, b, half)
#define _mm512_castsi512_si256(a) (emulated::lanes<__m256i>(a).at[0])
#define _mm512_castsi256_si512(a) emulated::insert_half(_mm512_setzero_si512(), a, 0)
#define _mm512_maskz_expand_epi8(mask, a) emulated::expand_bytes(mask, a)
#define _mm512_maddubs_epi16(a, b) ROOTS_HALVES(__m512i, __m256i, _mm256_maddubs_epi16, a, b)
#define _mm512_madd_epi16(a, b) ROOTS_HALVES(__m512i, __m256i, _mm256_madd_epi16, a, b)
#define _mm512_dpbusd_epi32(sum, a, b) emulated::dot_bytes(sum, a, b)
#define _mm512_cvtepi8_epi32(a) emulated::widened<int8_t>(a)
#define _mm512_cvtepu16_epi32(a) emulated::widened<uint16_t>(a)
#define _mm512_cvtepi32_ps(a) emulated::to_floats(a)
#define _mm512_cvtph_ps(a) emulated::halves_to_floats(a)
#define _mm512_fmadd_ps(a, b, c) ROOTS_HALVES(__m512, __m256, _mm256_fmadd_ps, a, b, c)
#define _mm512_fmadd_pd(a, b, c) ROOTS_HALVES(__m512d, __m256d, _mm256_fmadd_pd, a, b, c)
#define _mm512_sqrt_ps(a) ROOTS_HALVES(__m512, __m256, _mm256_sqrt_ps, a)
#define _mm512_sqrt_pd(a) ROOTS_HALVES(__m512d, __m256d, _mm256_sqrt_pd, a)
#define _mm512_max_ps(a, b) ROOTS_HALVES(__m512, __m256, _mm256_max_ps, a, b)
#define _mm512_max_pd(a, b) ROOTS_HALVES(__m512d, __m256d, _mm256_max_pd, a, b)
#define _mm512_min_ps(a, b) ROOTS_HALVES(__m512, __m256, _mm256_min_ps, a, b)
#define _mm512_permute_ps(a, control) emulated::permute(a, control)
#define _mm512_shuffle_f32x4(a, b, control) emulated::shuffle_quarters(a, b, control)
#define _mm512_broadcast_f32x4(a) emulated::repeat_quarter(a)
#define _mm512_roundscale_ps(a, control) emulated::rounded(a, control)
#define _mm512_scalef_ps(a, b) \
  emulated::each<float>(a, b, [](float x, float y) { return emulated::scaled(x, y); })
#define _mm512_scalef_pd(a, b) \
  emulated::each<double>(a, b, [](double x, double y) { return emulated::scaled(x, y); })
#define _mm512_cvtne2ps_pbh(a, b) emulated::two_to_bf16(a, b)
#define _mm512_cvtneps_pbh(a) emulated::one_to_bf16(a)
#define _mm512_dpbf16_ps(sum, a, b) emulated::dot_bf16(sum, a, b)
