// Reductions within a warp and within a block, in a fixed order: the same bits on every run.
#pragma once

#include "cuda/number.cuh"

namespace roots {
namespace cuda {

struct Sum {
  template <class T>
  static ROOTS_DEVICE T identity() {
    return T(0);
  }
  template <class T>
  static ROOTS_DEVICE T combine(T a, T b) {
    return a + b;
  }
};
// A NaN wins.
struct Max {
  template <class T>
  static ROOTS_DEVICE T combine(T a, T b) {
    return a > b || a != a ? a : b;
  }
};
struct Min {
  template <class T>
  static ROOTS_DEVICE T combine(T a, T b) {
    return a < b || a != a ? a : b;
  }
};

template <class Op, class T>
ROOTS_DEVICE T warp_reduce(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    x = Op::template combine<T>(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Every thread of the block gets the result. blockDim.x is a multiple of 32, at most 1024; `space` holds 32
// values and may be used again after the call.
template <class Op, class T>
ROOTS_DEVICE T block_reduce(T x, T identity, T* space) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_reduce<Op>(x);
  if (lane == 0) space[warp] = x;
  __syncthreads();
  x = warp_reduce<Op>(lane < warps ? space[lane] : identity);
  __syncthreads();
  return x;
}

}  // namespace cuda
}  // namespace roots
