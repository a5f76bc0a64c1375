// Counter-based random numbers, the same stream as native/cpu/random.cc: element i depends on (seed, offset +
// i) alone, by Philox 4x32 with ten rounds (Salmon et al., SC 2011). Uniform numbers and dropout masks have
// the same bits as on the CPU; normals agree to the last places of sine, cosine and logarithm.
#include "core/philox.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T>
struct Uniform {
  double low, range;
  ROOTS_DEVICE void operator()(const Philox& p, const T*, T (&v)[4]) const {
    // one multiplication and one addition, each rounded: the bits of the CPU
    for (int j = 0; j < 4; ++j) v[j] = static_cast<T>(add_rounded(low, mul_rounded(range, unit(p.lane[j]))));
  }
};
template <class T>
struct Normal {
  double mean, std;
  ROOTS_DEVICE void operator()(const Philox& p, const T*, T (&v)[4]) const {
    for (int j = 0; j < 4; j += 2) {
      const double radius = std * ::sqrt(-2.0 * ::log(1.0 - unit(p.lane[j])));
      double sine, cosine;
      sincospi(2.0 * unit(p.lane[j + 1]), &sine, &cosine);
      v[j] = static_cast<T>(mean + radius * cosine);
      v[j + 1] = static_cast<T>(mean + radius * sine);
    }
  }
};
template <class T>
struct Dropout {
  double p, scale;
  ROOTS_DEVICE void operator()(const Philox& r, const T* x, T (&v)[4]) const {
    for (int j = 0; j < 4; ++j) v[j] = unit(r.lane[j]) >= p ? static_cast<T>(x[j] * scale) : T(0);
  }
};

template <class T, class F>
__global__ void generate_kernel(F f, const T* x, T* out, int64_t n, uint64_t seed, int64_t offset) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i * 4 < n; i += step) {
    const Philox p = philox(seed, static_cast<uint64_t>(offset / 4 + i));
    T values[4], in[4] = {};
    const int64_t count = n - i * 4 < 4 ? n - i * 4 : 4;
    if (x)
      for (int64_t j = 0; j < count; ++j) in[j] = x[i * 4 + j];
    f(p, in, values);
    for (int64_t j = 0; j < count; ++j) out[i * 4 + j] = values[j];
  }
}

template <class T, class F>
Status generate(const F& f, const T* x, const Tensor& out, int64_t seed, int64_t offset) {
  CHECK(is_contiguous(out), "needs a contiguous tensor");
  CHECK(offset % 4 == 0, "offset must be a multiple of 4");
  const int64_t n = numel(out);
  if (n == 0) return nullptr;
  return launch(generate_kernel<T, F>, grid_for(ceil_div(n, 4 * 256)), 256, 0, f, x, data<T>(out), n,
                static_cast<uint64_t>(seed), offset);
}

}  // namespace

Status random_uniform(const Context&, Tensor out, int64_t seed, int64_t offset, double low, double high) {
  return dispatch_float(out.dtype, [&](auto t) {
    using T = decltype(t);
    return generate<T>(Uniform<T>{low, high - low}, static_cast<const T*>(nullptr), out, seed, offset);
  });
}

Status random_normal(const Context&, Tensor out, int64_t seed, int64_t offset, double mean, double std) {
  return dispatch_float(out.dtype, [&](auto t) {
    using T = decltype(t);
    return generate<T>(Normal<T>{mean, std}, static_cast<const T*>(nullptr), out, seed, offset);
  });
}

Status dropout(const Context&, Tensor x, Tensor out, int64_t seed, int64_t offset, double p) {
  CHECK(same_shape(x, out) && x.dtype == out.dtype, "shapes differ");
  CHECK(is_contiguous(x), "needs contiguous tensors");
  return dispatch_float(out.dtype, [&](auto t) {
    using T = decltype(t);
    return generate<T>(Dropout<T>{p, p < 1 ? 1.0 / (1.0 - p) : 0.0}, data<T>(x), out, seed, offset);
  });
}

}  // namespace cuda
}  // namespace roots
