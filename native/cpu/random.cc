// Counter-based random numbers: element i of a stream depends on (seed, offset + i) alone, by Philox 4x32
// with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Any thread count,
// any instruction set and any way of cutting the stream gives the same numbers.
#include "core/philox.h"
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// sin and cos of 2 pi u for u in [0, 1), by Taylor polynomials on an eighth of the circle.
ROOTS_INLINE void sincos_turn(double u, double* s, double* c) {
  const double scaled = u * 8.0;
  const int octant = static_cast<int>(scaled);
  const int quarter = ((octant + 1) / 2) & 3;
  const double r = (u - 0.25 * ((octant + 1) / 2)) * 6.28318530717958647692;
  const double z = r * r;
  double ps = 1.0, pc = 1.0, term_s = 1.0, term_c = 1.0;
  for (int n = 1; n < 9; ++n) {
    term_s *= -z / ((2 * n) * (2 * n + 1));
    term_c *= -z / ((2 * n - 1) * (2 * n));
    ps += term_s;
    pc += term_c;
  }
  const double sine = r * ps, cosine = pc;
  const double sines[4] = {sine, cosine, -sine, -cosine};
  const double cosines[4] = {cosine, -sine, -cosine, sine};
  *s = sines[quarter];
  *c = cosines[quarter];
}

template <class F>
ROOTS_INLINE Status generate(const Context& context, const Tensor& out, int64_t seed, int64_t offset,
                             const F& f) {
  CHECK(is_contiguous(out), "needs a contiguous tensor");
  CHECK(out.dtype == DType::f32 || out.dtype == DType::f64, "needs float32 or float64");
  CHECK(offset % 4 == 0, "offset must be a multiple of 4");
  const int64_t n = numel(out), chunk_size = 4096;
  context.parallel_for((n + chunk_size - 1) / chunk_size, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * chunk_size < n ? (chunk + 1) * chunk_size : n;
    for (int64_t i = chunk * chunk_size; i < end; i += 4) {
      const Philox p = philox(static_cast<uint64_t>(seed), static_cast<uint64_t>((offset + i) / 4));
      double values[4];
      f(p, values);
      for (int64_t j = 0; j < 4 && i + j < end; ++j) {
        if (out.dtype == DType::f32)
          data<float>(out)[i + j] = static_cast<float>(values[j]);
        else
          data<double>(out)[i + j] = values[j];
      }
    }
  });
  return nullptr;
}

// ln x in plain double arithmetic (no vector, so the same bits on every instruction set).
ROOTS_INLINE double log_scalar(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, 8);
  const int64_t exponent = static_cast<int64_t>((bits - 0x3FE6A09E667F3BCDull)) >> 52;
  bits -= static_cast<uint64_t>(exponent) << 52;
  double m;
  __builtin_memcpy(&m, &bits, 8);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;
  double p = 0.0;
  for (int n = 21; n >= 3; n -= 2) p = (p + 1.0 / n) * z;
  return static_cast<double>(exponent) * 0.69314718055994530942 + 2.0 * s * (1.0 + p);
}

}  // namespace

Status random_uniform(const Context& context, Tensor out, int64_t seed, int64_t offset, double low,
                      double high) {
  return generate(context, out, seed, offset, [&](const Philox& p, double(&v)[4]) {
    for (int j = 0; j < 4; ++j) v[j] = low + (high - low) * unit(p.lane[j]);
  });
}

// Box and Muller: two normals from two uniforms.
Status random_normal(const Context& context, Tensor out, int64_t seed, int64_t offset, double mean,
                     double std) {
  return generate(context, out, seed, offset, [&](const Philox& p, double(&v)[4]) {
    for (int j = 0; j < 4; j += 2) {
      double radius_squared = -2.0 * log_scalar(1.0 - unit(p.lane[j]));
      if (!(radius_squared > 0)) radius_squared = 0;
      const Vec<double> root = sqrt(Vec<double>(radius_squared));
      double s, c;
      sincos_turn(unit(p.lane[j + 1]), &s, &c);
      v[j] = mean + std * root.v[0] * c;
      v[j + 1] = mean + std * root.v[0] * s;
    }
  });
}

// Zeroes each element with probability p and scales the others by 1 / (1 - p). The same seed and offset give
// the same mask, so the backward is this kernel on the gradient.
Status dropout(const Context& context, Tensor x, Tensor out, int64_t seed, int64_t offset, double p) {
  CHECK(same_shape(x, out) && x.dtype == out.dtype, "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(out), "needs contiguous tensors");
  CHECK(x.dtype == DType::f32 || x.dtype == DType::f64, "needs float32 or float64");
  CHECK(offset % 4 == 0, "offset must be a multiple of 4");
  const int64_t n = numel(x), chunk_size = 4096;
  const double scale = p < 1 ? 1.0 / (1.0 - p) : 0.0;
  context.parallel_for((n + chunk_size - 1) / chunk_size, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * chunk_size < n ? (chunk + 1) * chunk_size : n;
    for (int64_t i = chunk * chunk_size; i < end; i += 4) {
      const Philox r = philox(static_cast<uint64_t>(seed), static_cast<uint64_t>((offset + i) / 4));
      for (int64_t j = 0; j < 4 && i + j < end; ++j) {
        const bool keep = unit(r.lane[j]) >= p;
        if (x.dtype == DType::f32)
          data<float>(out)[i + j] = keep ? static_cast<float>(data<float>(x)[i + j] * scale) : 0.0f;
        else
          data<double>(out)[i + j] = keep ? data<double>(x)[i + j] * scale : 0.0;
      }
    }
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
