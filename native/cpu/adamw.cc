// One AdamW step in place (Loshchilov & Hutter, arXiv 1711.05101; order of operations as torch.optim.AdamW):
//   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2
//   p = p - lr wd p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base)
    if (exponent & 1) result *= base;
  return result;
}

template <class T>
Status step_typed(const Context& context, const Tensor& param, const Tensor& grad, const Tensor& m,
                  const Tensor& v, double lr, double beta1, double beta2, double eps, double weight_decay,
                  int64_t step) {
  using V = Vec<T>;
  const int64_t n = numel(param);
  const Vec<double> root = sqrt(Vec<double>(1 - power(beta2, step)));
  const V decay(static_cast<T>(1 - lr * weight_decay)), b1(static_cast<T>(beta1)), b2(static_cast<T>(beta2));
  const V c1(static_cast<T>(1 - beta1)), c2(static_cast<T>(1 - beta2)), e(static_cast<T>(eps));
  const V rate(static_cast<T>(lr / (1 - power(beta1, step)))), correction(static_cast<T>(root.v[0]));
  context.parallel_for((n + kChunkElements - 1) / kChunkElements, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * kChunkElements < n ? (chunk + 1) * kChunkElements : n;
    for (int64_t i = chunk * kChunkElements; i < end; i += V::kWidth) {
      const int64_t k = end - i < V::kWidth ? end - i : V::kWidth;
      const V g = V::load_partial(data<T>(grad) + i, k);
      const V mi = fma(c1, g, b1 * V::load_partial(data<T>(m) + i, k));
      const V vi = fma(c2 * g, g, b2 * V::load_partial(data<T>(v) + i, k));
      mi.store_partial(data<T>(m) + i, k);
      vi.store_partial(data<T>(v) + i, k);
      const V p = V::load_partial(data<T>(param) + i, k) * decay;
      (p - rate * mi / (sqrt(vi) / correction + e)).store_partial(data<T>(param) + i, k);
    }
  });
  return nullptr;
}

}  // namespace

Status adamw(const Context& context, Tensor param, Tensor grad, Tensor m, Tensor v, double lr, double beta1,
             double beta2, double eps, double weight_decay, int64_t step) {
  const Tensor* const others[] = {&grad, &m, &v};
  for (const Tensor* t : others)
    CHECK(same_shape(param, *t) && t->dtype == param.dtype && is_contiguous(*t),
          "grad, m and v must be like param");
  CHECK(is_contiguous(param), "param must be contiguous");
  CHECK(step >= 1, "steps count from 1");
  if (param.dtype == DType::f32)
    return step_typed<float>(context, param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step);
  if (param.dtype == DType::f64)
    return step_typed<double>(context, param, grad, m, v, lr, beta1, beta2, eps, weight_decay, step);
  return "needs float32 or float64";
}

}  // namespace ROOTS_ISA
}  // namespace roots
