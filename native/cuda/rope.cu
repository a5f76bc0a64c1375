// Rotary position embedding (Su et al., arXiv 2104.09864); conventions in native/cpu/rope.cc.
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
  CHECK(x.rank == 4 && same_shape(x, out) && is_contiguous(out) && x.strides[3] == 1,
        "x has rank 4 and dense rows, out is contiguous");
  CHECK(x.shape[3] % 2 == 0, "the head size must be even");
  CHECK(cos.rank == 3 && same_shape(cos, sin) && cos.strides[2] == 1 && sin.strides[2] == 1,
        "cos and sin have rank 3 and dense rows");
  CHECK(cos.shape[0] == x.shape[0] && cos.shape[1] == x.shape[2] && cos.shape[2] * 2 == x.shape[3],
        "cos and sin do not match x");
  CHECK(x.dtype == cos.dtype && x.dtype == sin.dtype && x.dtype == out.dtype, "dtypes differ");
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
