// Rotary position embedding (Su et al., arXiv 2104.09864). x, out (B, H, T, D); cos, sin (B or 1, T, D / 2):
//   halves (Hugging Face Llama):  pairs are (i, i + D/2);  interleaved (original Llama): pairs are (2i, 2i +
//   1) (a, b) -> (a cos - b sin, b cos + a sin)
// sign = -1 rotates back, which is the gradient.
#include "core/rope.h"

#include "cpu/declare.h"
#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status rotate(const Context& context, const Tensor& x, const Tensor& cosines, const Tensor& sines,
              const Tensor& out, bool interleaved, T sign) {
  using V = Vec<T>;
  const int64_t H = x.shape[1], length = x.shape[2], D = x.shape[3], half = D / 2;
  for_rows(context, x.shape[0] * H * length, D, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t t = r % length, h = r / length % H, b = r / length / H;
      const T* p = data<T>(x) + b * x.strides[0] + h * x.strides[1] + t * x.strides[2];
      const T* c = data<T>(cosines) + b * cosines.strides[0] + t * cosines.strides[1];
      const T* s = data<T>(sines) + b * sines.strides[0] + t * sines.strides[1];
      T* o = data<T>(out) + r * D;
      if (interleaved) {
        for (int64_t i = 0; i < half; ++i) {
          const T a = p[2 * i], d = p[2 * i + 1], sine = s[i] * sign;
          o[2 * i] = a * c[i] - d * sine;
          o[2 * i + 1] = d * c[i] + a * sine;
        }
        continue;
      }
      each_vector<T>(half, [&](int64_t i, int64_t n) {
        const V a = V::load_partial(p + i, n), d = V::load_partial(p + half + i, n);
        const V cosine = V::load_partial(c + i, n), sine = V::load_partial(s + i, n) * V(sign);
        (a * cosine - d * sine).store_partial(o + i, n);
        (d * cosine + a * sine).store_partial(o + half + i, n);
      });
    }
  });
  return nullptr;
}

}  // namespace

Status rope(const Context& context, Tensor x, Tensor cos, Tensor sin, Tensor out, int64_t interleaved,
            double sign) {
  if (const Status status = check_rope(x, cos, sin, out)) return status;
  if (x.dtype == DType::f32)
    return rotate<float>(context, x, cos, sin, out, interleaved != 0, static_cast<float>(sign));
  return rotate<double>(context, x, cos, sin, out, interleaved != 0, sign);
}

}  // namespace ROOTS_ISA
}  // namespace roots
