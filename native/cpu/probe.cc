// Measures what this machine can do at most, for the "% of peak" columns of the benchmarks: multiply-adds on
// registers alone, and reading memory in order.
#include "cpu/declare.h"
#include "cpu/dot.h"
#include "cpu/layout.h"
#include "cpu/simd.h"
#if defined(__AMX_INT8__)
#include "cpu/gemm/amx.h"
#endif

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
T fma_chain(int64_t iterations) {
  using V = Vec<T>;
  constexpr int kChains = 12;  // latency 4 x two units = 8 in flight; 12 also fits 16 registers
  V acc[kChains] = {};
  const V a(T(0.999999)), b(T(1e-6));
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) acc[j] = V(T(j + 1));
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = fma(acc[j], a, b);
  }
  V sum{};
#pragma GCC unroll 12
  for (int j = 0; j < kChains; ++j) sum = sum + acc[j];
  return horizontal_sum(sum);
}

#if defined(__AVX512VNNI__)
template <class Step>
double dot_chain(__m512i a, int64_t iterations, const Step& step) {
  __m512i acc[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) acc[j] = _mm512_setzero_si512();
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) step(acc[j], a, a);
  }
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) sum = _mm512_xor_si512(sum, acc[j]);
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, sum);
  return lanes[0] & 1;
}
#endif

#if defined(__AMX_INT8__)
// As many multiply-adds as `iterations` x 12 vectors have, in tiles: four sums, whose operands stay.
template <bool Int8>
double tile_chain(int64_t iterations) {
  constexpr int64_t kVectorsPerTile = 256;
  // numbers as they come, not zeros
  alignas(64) uint32_t numbers[256];
  uint32_t state = 1;
  for (uint32_t& pair : numbers) {
    state = state * 1664525u + 1013904223u;
    pair = Int8 ? state : 0x3f003f00u | (state & 0x80ff80ffu);  // bf16: -1 to -0.5 and 0.5 to 1
  }
  TileRegisters registers;
  unrolled<4>([&](auto t) ROOTS_INLINED {
    tile_zero<t>();
    tile_load<t + 4>(numbers, 64);
  });
  for (int64_t i = 0; i < iterations * 12 / kVectorsPerTile; i += 4)
    unrolled<4>([&](auto t) ROOTS_INLINED {
      if constexpr (Int8)
        tile_dot_i8<t, 4 + t / 2, 6 + t % 2>();
      else
        tile_dot_bf16<t, 4 + t / 2, 6 + t % 2>();
    });
  return 0;
}
#endif

}  // namespace

// out (chunks) float64; kind 0: float32, 1: float64, 2: int8, 3: bf16, which are -1 where
// there is no such instruction. Each chunk runs `iterations` x 12 vector
// operations: flops = chunks * iterations * 12 * 2 * width, width = bytes of a vector / size of an element.
Status probe_fma(const Context& context, Tensor out, int64_t kind, int64_t iterations) {
  CHECK(out.rank == 1 && out.dtype == DType::f64 && is_contiguous(out), "out must be a float64 vector");
  CHECK(kind >= 0 && kind <= 3, "kind is 0 to 3");
  context.parallel_for(out.shape[0], [&](int64_t chunk) {
    double result = 0;
    if (kind == 0) {
      result = fma_chain<float>(iterations);
    } else if (kind == 1) {
      result = fma_chain<double>(iterations);
    } else if (kind == 2) {
#if defined(__AMX_INT8__)
      result = tile_chain<true>(iterations);
#elif defined(__AVX512VNNI__)
      result = dot_chain(_mm512_set1_epi32(0x01020304), iterations,
                         [](__m512i& sum, __m512i a, __m512i b) { dot_quads(sum, a, b); });
#else
      result = -1;  // no dot-product instruction at this level
#endif
    } else {
#if defined(__AMX_BF16__)
      result = tile_chain<false>(iterations);
#elif defined(__AVX512BF16__)
      result = dot_chain(_mm512_set1_epi32(0x3f803f80), iterations, [](__m512i& sum, __m512i a, __m512i b) {
        Vec<float> numbers((Vec<float>::Raw)sum);
        dot_pairs(numbers, a, b);
        sum = (__m512i)numbers.v;
      });
#else
      result = -1;
#endif
    }
    data<double>(out)[chunk] = result;
  });
  return nullptr;
}

// Reads all of x; out (chunks) receives partial sums so that nothing is optimised away.
Status probe_read(const Context& context, Tensor x, Tensor out) {
  CHECK(x.dtype == DType::f32 && is_contiguous(x), "x must be contiguous float32");
  CHECK(out.rank == 1 && out.dtype == DType::f64 && out.shape[0] > 0 && is_contiguous(out),
        "out must be a float64 vector");
  const int64_t n = numel(x), chunks = out.shape[0], step = (n + chunks - 1) / chunks;
  context.parallel_for(chunks, [&](int64_t chunk) {
    using V = Vec<float>;
    const int64_t end = (chunk + 1) * step < n ? (chunk + 1) * step : n;
    V acc[8] = {};
    int64_t i = chunk * step;
    for (; i + 8 * V::kWidth <= end; i += 8 * V::kWidth)
      for (int j = 0; j < 8; ++j) acc[j] = acc[j] + V::load(data<float>(x) + i + j * V::kWidth);
    V sum{};
    for (int j = 0; j < 8; ++j) sum = sum + acc[j];
    data<double>(out)[chunk] = horizontal_sum(sum);
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
