// A CUDA block on one CPU thread. Every thread of the block is a fiber with a stack of its own;
// __syncthreads() and the warp shuffles park it until the others have arrived. Threads that never wait run
// one after the other on the same fiber, so kernels without barriers cost no switches. A barrier that can
// never be met (a divergent
// __syncthreads, a shuffle with lanes missing) ends the process with a message: on a GPU it would hang.
//
// Not emulated: races (threads take turns), memory ordering, occupancy, speed.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__ static
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulator {

struct Position {
  dim3 thread, block, block_size, grid_size;
};
extern Position now;

// Calls body(argument) once per thread of the grid.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* argument);
void block_barrier();
// Every lane of the warp gives `bytes` (at most 16) and receives those of lane `from`.
void exchange(void* value, size_t bytes, int from);
// Aligned to 1024 bytes.
unsigned char* dynamic_shared();
// Every lane gives `bytes` (at most 64); afterwards all[lane * 64] holds those of each, until the next
// exchange.
const unsigned char* gather(const void* value, size_t bytes);
int lane();
// Lets other threads of the block go on. Ends the process when all of them do nothing else for long.
void yield();
[[noreturn]] void fail(const char* words);

}  // namespace emulator

#define threadIdx (emulator::now.thread)
#define blockIdx (emulator::now.block)
#define blockDim (emulator::now.block_size)
#define gridDim (emulator::now.grid_size)
#define ROOTS_DYNAMIC_SHARED(name) unsigned char* const name = emulator::dynamic_shared()

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::gather(nullptr, 0); }

template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  emulator::exchange(&value, sizeof(T), emulator::lane() ^ mask);
  return value;
}
template <class T>
inline T __shfl_sync(unsigned, T value, int from) {
  emulator::exchange(&value, sizeof(T), from & 31);
  return value;
}

inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline void sincospi(double x, double* sine, double* cosine) {
  *sine = sin(x * 3.14159265358979323846);
  *cosine = cos(x * 3.14159265358979323846);
}
