// Rotary position embedding (Su et al., arXiv 2104.09864); conventions in native/cpu/rope.cc.
#include "core/rope.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

// One thread per pair. x, out (B, H, T, D); cosines, sines (B or 1, T, D / 2).
template <class T>
__global__ void rope_kernel(Tensor x, Tensor cosines, Tensor sines, T* out, bool interleaved, T sign,
                            int64_t pairs) {
  const int64_t H = x.shape[1], length = x.shape[2], half = x.shape[3] / 2;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; at < pairs; at += step) {
    const int64_t i = at % half, r = at / half, t = r % length, h = r / length % H, b = r / length / H;
    const T* p = static_cast<const T*>(x.data) + b * x.strides[0] + h * x.strides[1] + t * x.strides[2];
    const T c = static_cast<const T*>(cosines.data)[b * cosines.strides[0] + t * cosines.strides[1] + i];
    const T s = static_cast<const T*>(sines.data)[b * sines.strides[0] + t * sines.strides[1] + i] * sign;
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + half;
    const T a = p[first], d = p[second];
    out[r * half * 2 + first] = a * c - d * s;
    out[r * half * 2 + second] = d * c + a * s;
  }
}

}  // namespace

Status rope(const Context&, Tensor x, Tensor cos, Tensor sin, Tensor out, int64_t interleaved, double sign) {
  if (const Status status = check_rope(x, cos, sin, out)) return status;
  const int64_t pairs = numel(x) / 2;
  if (pairs == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(rope_kernel<T>, grid_for(ceil_div(pairs, 256)), 256, 0, x, cos, sin, data<T>(out),
                  interleaved != 0, static_cast<T>(sign), pairs);
  });
}

}  // namespace cuda
}  // namespace roots
