// The whole contract of a device, C ABI, so that compilers and C++ runtimes may differ.
// The CPU is built in; other backends are separate libraries that export `backend_entry` and nothing else.
// Copies run in the order of the kernels; one to the host returns when the bytes are there, with what went
// wrong on the device since the last.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "core/kernels.h"

namespace roots {

enum class CopyKind : int32_t { host_to_device = 0, device_to_host = 1, device_to_device = 2 };

struct Backend {
  uint64_t abi;               // backend_abi_hash() of the build that made this backend
  const char* name;           // "cpu", "cuda"
  int32_t (*device_count)();  // 0, with last_error() set, when the driver is missing
  int64_t (*memory_bytes)();  // of the device; 0: the system decides
  // Device memory. Blocks are at least 64-byte aligned; contents are undefined.
  Status (*allocate)(size_t bytes, void** out);
  void (*release)(void* data, size_t bytes);
  Status (*copy)(void* destination, const void* source, size_t bytes, CopyKind kind);
  const KernelTable* (*kernels)();
  // Kernels between two marks are sent together, where the device can do that (native/cuda/graph.cuh); both
  // may be null. Stretches of the same key hold the same kernels again.
  Status (*graph_mark)(int64_t key, int32_t begin);
  void (*graph_counts)(int64_t* sent, int64_t* made);
  // the instruction set, or the name of the device and in further lines those of others of its kind that are
  // not used, for devices()
  const char* (*describe)();
  const char* (*last_error)();
};

constexpr uint64_t backend_abi_hash() { return kernel_abi_hash() ^ (sizeof(Backend) << 32); }

}  // namespace roots

extern "C" const roots::Backend* backend_entry(uint64_t host_abi);
