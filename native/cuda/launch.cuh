// Launching kernels, the one stream of the process, its workspace, and faults found by kernels.
//
// One stream: the queue above runs kernels in order and hands memory on in that order (docs/decisions/0011),
// so the device must keep it too, whichever thread launches.
#pragma once

#include "core/check.h"
#include "core/kernels.h"
#include "cuda/graph.cuh"
#include "cuda/platform.cuh"

namespace roots {
namespace cuda {

// What kernels may find in their data after they were launched: an index out of range. The code names the
// kernel; reported, once, at the next read.
enum class Fault : int32_t {
  none = 0,
  embedding_forward,
  embedding_backward,
  embedding_i8,
  embedding_i4,
  gather,
  scatter_add,
  cross_entropy_forward,
  cross_entropy_backward
};

struct FaultReport {
  int32_t* word;
  Fault code;
  ROOTS_DEVICE void set() const { *word = static_cast<int32_t>(code); }
};

#pragma GCC visibility push(hidden)
// Device memory of one call at a time, by slot; nullptr with `status` set when the device has none.
void* workspace(int slot, size_t bytes);
// A device word that kernels set with plain stores: of several faults any one will do.
int32_t* fault_word();
// nullptr, or what the driver says of the last launch.
Status launched();
#if !defined(ROOTS_CUDA_EMULATED)
cudaStream_t stream();
#endif
#pragma GCC visibility pop

inline FaultReport fault(Fault code) { return {fault_word(), code}; }

constexpr Status kOutOfMemory = "out of device memory";

constexpr Status kNoSharedMemory =
    "needs more shared memory than this GPU has; move the tensors with .to('cpu')";

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Enough blocks to fill any GPU several times; kernels stride over the rest.
inline unsigned grid_for(int64_t blocks) {
  constexpr int64_t kMost = 132 * 16;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < kMost ? blocks : kMost);
}

#if defined(ROOTS_CUDA_EMULATED)

template <class Kernel, class... Args>
Status launch(Kernel kernel, dim3 grid, dim3 block, size_t shared, Args... args) {
  if (shared > 232448) return kNoSharedMemory;
  auto run = [=] {
    auto call = [&] { kernel(args...); };
    emulator::run_grid(grid, block, shared, [](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call);
  };
  if (!graph_record(run)) run();
  return nullptr;
}

#else

template <class... Params, class... Args>
Status launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared, Args... args) {
  if (shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return kNoSharedMemory;
  }
  const GraphLock lock;
  // clang-format off
  kernel<<<grid, block, shared, stream()>>>(static_cast<Params>(args)...);
  // clang-format on
  return launched();
}

#endif

}  // namespace cuda
}  // namespace roots
