// Weights to int8, one symmetric scale per row, with the clipping that loses least: the range max|w| is
// shrunk in steps and the scale with the smallest sum |w - q s|^2.4 wins (the norm and grid of
// llm-compressor's MSE observer).
#include "cpu/declare.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr float kMagic = 12582912.0f;  // adding it rounds to the nearest integer, ties to even

ROOTS_INLINE Vec<float> rounded(Vec<float> x) {
  const Vec<float> limit(127.0f);
  x = select<float>(x > limit, limit, x);
  x = select<float>(x < -limit, -limit, x);
  return (x + Vec<float>(kMagic)) - Vec<float>(kMagic);
}

// sum |w - q s|^2.4 by exp(1.2 ln e^2); an exact hit contributes exp(-infinity) = 0.
ROOTS_INLINE float row_error(const float* w, int64_t n, float scale) {
  using V = Vec<float>;
  const V inverse(1.0f / scale), s(scale);
  V sum{};
  each_vector<float>(n, [&](int64_t i, int64_t m) {
    const V x = V::load_partial(w + i, m);
    const V e = x - rounded(x * inverse) * s;
    sum = sum + exp(V(1.2f) * log(e * e));  // lanes beyond the row are 0 - 0
  });
  return horizontal_sum(sum);
}

}  // namespace

// w (N, K) float32 -> q (N, K) int8 in [-127, 127], scale (N). steps = 0: no search. Shrinks down to 1 -
// max_shrink; stops after five steps without improvement.
Status quantize_weight_i8(const Context& context, Tensor w, Tensor q, Tensor scale, int64_t steps,
                          double max_shrink) {
  CHECK(w.rank == 2 && w.dtype == DType::f32 && is_contiguous(w), "w must be a contiguous float32 matrix");
  CHECK(q.dtype == DType::i8 && same_shape(w, q) && is_contiguous(q), "q must be int8, like w");
  CHECK(scale.dtype == DType::f32 && numel(scale) == w.shape[0] && is_contiguous(scale), "one scale per row");
  const int64_t rows = w.shape[0], n = w.shape[1];
  for_rows(context, rows, n * (steps > 0 ? steps : 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* row = data<float>(w) + r * n;
      float top = 0.0f;
      for (int64_t i = 0; i < n; ++i) {
        const float a = row[i] < 0 ? -row[i] : row[i];
        top = a > top ? a : top;
      }
      float best = top > 0 ? top / 127.0f : 1.0f;
      // below this a float32 scale would lose precision as a denormal
      if (best < 1.2e-38f) best = 1.2e-38f;
      if (top > 0 && steps > 0) {
        float least = row_error(row, n, best);
        int64_t without = 0;
        for (int64_t k = 1; k <= steps && without < 5; ++k) {
          const float candidate =
              top / 127.0f *
              static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps));
          const float error = row_error(row, n, candidate);
          if (error < least) {
            least = error;
            best = candidate;
            without = 0;
          } else {
            ++without;
          }
        }
      }
      data<float>(scale)[r] = best;
      for (int64_t i = 0; i < n; ++i) {
        float x = row[i] / best;
        x = x > 127.0f ? 127.0f : x < -127.0f ? -127.0f : x;
        data<int8_t>(q)[r * n + i] = static_cast<int8_t>((x + kMagic) - kMagic);
      }
    }
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
