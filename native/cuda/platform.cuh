// The two ways this folder is compiled: by nvcc for GPUs, and by a plain C++ compiler against
// test/cuda_emulator.h, which runs every block of every kernel on the CPU, so that indices, barriers and
// arithmetic are tested where there is no GPU.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(ROOTS_CUDA_EMULATED)
#include "test/cuda_emulator.h"
#else
#include <cuda_runtime.h>
// The dynamic shared memory of a block, as bytes.
#define ROOTS_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

#define ROOTS_DEVICE __device__ __forceinline__
#define ROOTS_BOTH __host__ __device__ __forceinline__
// For rare or large work inside an unrolled loop.
#define ROOTS_DEVICE_CALL __device__ __noinline__

namespace roots {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace cuda
}  // namespace roots
