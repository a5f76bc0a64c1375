// Weight-only int8: y = activation(x W^T + b), W int8 per output row (packed as in gemm/i8.h), x float32.
// Few rows: the weights stream once, widened in registers (decoding is bound by their bytes). Many rows: a
// thread widens some panels into the packed form of the float GEMM, in its own cache, and multiplies all rows
// with them; the whole matrix, widened, would go through memory.
#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/i8.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kWidenedColumns = 64;  // widened at a time by one thread

// One row of x against one panel: out[0..32).
ROOTS_INLINE void widen_dot(const float* x, int64_t k, const int8_t* panel, float* out) {
  float acc[kPanel * kQuad] = {};
  const int64_t quads = k / kQuad;
#if defined(__AVX512F__)
  __m512 sums[8];
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) sums[j] = _mm512_setzero_ps();
  for (int64_t q = 0; q < quads; ++q) {
    const __m512 a = _mm512_broadcast_f32x4(_mm_loadu_ps(x + q * 4));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(panel + q * 128 + j * 16));
      sums[j] = _mm512_fmadd_ps(a, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)), sums[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) _mm512_storeu_ps(acc + j * 16, sums[j]);
#elif defined(__AVX2__)
  // sixteen outputs at a time: eight sums of two outputs
  for (int half = 0; half < 2; ++half) {
    __m256 sums[8];
    unrolled<8>([&](auto j) ROOTS_INLINED { sums[j] = _mm256_setzero_ps(); });
    for (int64_t q = 0; q < quads; ++q) {
      const __m256 a = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(x + q * 4));
      const int8_t* line = panel + q * 128 + half * 64;
      __builtin_prefetch(line + kAhead);
      unrolled<8>([&](auto j) ROOTS_INLINED {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(line + j * 8));
        sums[j] = _mm256_fmadd_ps(a, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), sums[j]);
      });
    }
    unrolled<8>([&](auto j) ROOTS_INLINED { _mm256_storeu_ps(acc + half * 64 + j * 8, sums[j]); });
  }
#else
  for (int64_t q = 0; q < quads; ++q)
    for (int64_t c = 0; c < kPanel; ++c)
      for (int64_t e = 0; e < kQuad; ++e)
        acc[c * kQuad + e] += x[q * kQuad + e] * static_cast<float>(panel[q * 128 + c * kQuad + e]);
#endif
  for (int64_t c = 0; c < kPanel; ++c) {
    float total = (acc[c * kQuad] + acc[c * kQuad + 1]) + (acc[c * kQuad + 2] + acc[c * kQuad + 3]);
    for (int64_t i = quads * kQuad; i < k; ++i)
      total += x[i] * static_cast<float>(panel[quads * 128 + c * kQuad + i % kQuad]);
    out[c] = total;
  }
}

// Widens packed int8 weights, times their scale, into panels of the float GEMM.
struct PackWidened {
  static constexpr bool kInPlace = false;
  const int8_t* packed;
  const float* scale;
  PackedShape shape;
  ROOTS_INLINE void operator()(int64_t j0, int64_t columns, int64_t k0, int64_t depth, float* out) const {
    using V = Vec<float>;
    constexpr int64_t kColumns = kTileColumns<float>;
    static_assert(kPanel % kColumns == 0, "a tile lies inside one packed panel");
    // packed columns beyond N are zero
    const int8_t* panel = packed + (j0 / kPanel) * shape.panel_bytes() + (j0 % kPanel) * kQuad;
    V s[kTileVectors];
    for (int64_t v = 0; v < kTileVectors; ++v) {
      const int64_t left = columns - v * V::kWidth;
      s[v] = V::load_partial(scale + j0 + v * V::kWidth, left < 0 ? 0 : left < V::kWidth ? left : V::kWidth);
    }
    for (int64_t k = 0; k < depth;) {
      const int64_t i = k0 + k, e0 = i % kQuad;
      const int64_t count = kQuad - e0 < depth - k ? kQuad - e0 : depth - k;
      const int8_t* quads = panel + i / kQuad * kPanel * kQuad;
      for (int64_t v = 0; v < kTileVectors; ++v) {
        // the four bytes of a lane are four k of one column
        const auto lanes =
            Vec<int32_t>::load(reinterpret_cast<const int32_t*>(quads + v * V::kWidth * kQuad)).v;
        for (int64_t e = 0; e < count; ++e) {
          const auto byte = lanes << static_cast<int32_t>(24 - 8 * (e0 + e)) >> 24;
          (V(__builtin_convertvector(byte, V::Raw)) * s[v]).store(out + (k + e) * kColumns + v * V::kWidth);
        }
      }
      k += count;
    }
  }
};

}  // namespace

Status linear_w8a16(const Context& context, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                    OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  const PackedShape shape(out.shape[1], x.shape[1]);
  if (const Status status = check_linear_i8(x, packed, shape.total_bytes(), scale, out, end, false))
    return status;
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  if (M == 0 || N == 0) return nullptr;
  const Epilogue<float> epilogue(end);
  const int8_t* weights = data<int8_t>(packed);
  if (M > kSkinnyRows && K > 0) {
    const PackRows<float> rows{{data<float>(x), K, 1}};
    return for_columns(context, N, kWidenedColumns, [&](int64_t j0, int64_t n) {
      const PackWidened widened{weights + j0 / kPanel * shape.panel_bytes(), data<float>(scale) + j0, shape};
      return gemm_packed<PlainPanels<float>, true>(context, M, n, K, rows, widened, data<float>(out) + j0, N,
                                                   epilogue.from(j0));
    });
  }
  const int64_t per_chunk = ceil_div(262144, shape.panel_bytes() + 1);
  context.parallel_for(ceil_div(shape.panels, per_chunk), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < shape.panels ? (chunk + 1) * per_chunk : shape.panels;
    for (int64_t p = chunk * per_chunk; p < end; ++p) {
      const int64_t j0 = p * kPanel, columns = N - j0 < kPanel ? N - j0 : kPanel;
      for (int64_t i = 0; i < M; ++i) {
        float dots[kPanel];
        widen_dot(data<float>(x) + i * K, K, weights + p * shape.panel_bytes(), dots);
        float* y = data<float>(out) + i * N + j0;
        for (int64_t c = 0; c < columns; ++c) y[c] = dots[c] * data<float>(scale)[j0 + c];
        if (!epilogue.empty()) epilogue.apply(y, N, i * N + j0, j0, 1, columns);
      }
    }
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
