// Scaled dot-product attention over int8 keys and values with a scale per row, as a cache holds them; see
// attention.cc for the formula and the shapes. Queries, scores, sums and results are float32. A few queries
// read the integers in place; for more, keys and values are widened once into a workspace.
#include "cpu/attention/decode.h"
#include "cpu/declare.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// n <= kWidth elements.
ROOTS_INLINE Vec<float> load_widened(const int8_t* from, int64_t n) {
  constexpr int64_t W = Vec<float>::kWidth;
  typedef int8_t Bytes __attribute__((vector_size(W)));
  Bytes bytes = {};
  if (n == W)
    __builtin_memcpy(&bytes, from, W);
  else
    for (int64_t i = 0; i < n; ++i) bytes[i] = from[i];
#if defined(__AVX512F__)
  return Vec<float>((Vec<float>::Raw)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)bytes)));
#elif defined(__AVX2__)
  return Vec<float>(
      (Vec<float>::Raw)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((int64_t)bytes))));
#else
  Vec<float>::Raw wide;
  for (int64_t i = 0; i < W; ++i) wide[i] = static_cast<float>(bytes[i]);
  return Vec<float>(wide);
#endif
}

struct Int8Form : PlainForm<float> {
  static constexpr bool kScaledRows = true;
  template <class Use>
  static ROOTS_INLINE void with_rows(const Tensor& t, int64_t b, int64_t h, int64_t i, const Use& use) {
    const int8_t* rows = head<int8_t>(t, b, h, i);
    const int64_t stride = t.strides[2];
    use([=](int64_t j, int64_t d, int64_t n) { return load_widened(rows + j * stride + d, n); });
  }
};

// The rows of t times their scales, dense at `to`.
Tensor widen(const Context& context, const Tensor& t, const Tensor& scale, float* to) {
  constexpr int64_t W = Vec<float>::kWidth;
  Tensor out = t;
  out.data = to;
  out.dtype = DType::f32;
  for (int64_t i = 3, step = 1; i >= 0; step *= t.shape[i--]) out.strides[i] = step;
  const int64_t H = t.shape[1], T = t.shape[2], D = t.shape[3];
  for_rows(context, t.shape[0] * H * T, D, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t j = r % T, h = r / T % H, b = r / T / H;
      const int8_t* from = head<int8_t>(t, b, h, j);
      const Vec<float> s(data<float>(scale)[b * scale.strides[0] + h * scale.strides[1] + j]);
      for (int64_t d = 0; d < D; d += W) {
        const int64_t n = D - d < W ? D - d : W;
        (load_widened(from + d, n) * s).store_partial(to + r * D + d, n);
      }
    }
  });
  return out;
}

}  // namespace

Status attention_i8_forward(const Context& context, Tensor q, Tensor k, Tensor k_scale, Tensor v,
                            Tensor v_scale, OptionalTensor mask, OptionalTensor lengths,
                            OptionalTensor starts, Tensor out, Tensor lse, double scale, int64_t causal,
                            int64_t window) {
  Problem p;
  if (const Status status = check_attention_i8(q, k, k_scale, v, v_scale, mask, lengths, starts, out, lse,
                                               scale, causal, window, &p))
    return status;
  if (p.B == 0 || p.H == 0 || p.Tq == 0) return nullptr;
  if (p.Tq <= kFewQueries) {
    Operands<float> x{p, q, k, v, mask};
    x.k_scale = k_scale;
    x.v_scale = v_scale;
    return forward_few<Int8Form>(context, x, out, lse);
  }
  const int64_t rows = p.B * p.Hkv * p.Tk;
  auto* wide = static_cast<float*>(
      context.workspace(context.host, 4, static_cast<size_t>(rows * (p.D + p.Dv) + 1) * sizeof(float)));
  CHECK(wide != nullptr, kOutOfMemory);
  const Tensor keys = widen(context, k, k_scale, wide);
  const Tensor values = widen(context, v, v_scale, wide + rows * p.D);
  return forward_tiles<PlainForm<float>>(context, {p, q, keys, values, mask}, out, lse);
}

}  // namespace ROOTS_ISA
}  // namespace roots
