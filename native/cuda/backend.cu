// The CUDA backend behind its one exported symbol: driver probe, device memory, copies, the kernel table.
//
// One GPU (the first that CUDA_VISIBLE_DEVICES leaves) and one stream for the whole process: memory is handed
// on in the order of the queue, so the device keeps that order. Errors of kernels surface at the next launch
// or read.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(ROOTS_CUDA_EMULATED)
#include <vector>
#endif

#include "core/backend.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/staging.h"

namespace roots {
namespace cuda {
namespace {

constexpr int kSlots = 5;

char g_words[256] = "";  // last_error()

// --- the device, or its emulation
// --------------------------------------------------------------------------------
#if defined(ROOTS_CUDA_EMULATED)

int32_t device_count() { return 1; }
const char* describe() {
  return "emulated on the CPU: for tests of correctness, not a GPU\na second one, emulated too, that nobody uses";
}
int64_t memory_bytes() { return int64_t{2} << 30; }
bool raw_allocate(size_t bytes, void** out) {
  return (*out = aligned_alloc(256, (bytes + 255) / 256 * 256)) != nullptr;
}
void raw_release(void* data) {
  const GraphPause pause;  // launches that were captured may use it
  free(data);
}
// Copies run as late as staging allows: when they are waited for, or when the call ends.
struct EmulatedStaging {
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  std::vector<Copy> open[2];
  char memory[2][4096];
  std::vector<Copy> started;
  void* pinned(int slot) { return memory[slot]; }
  Status start(void* to, const void* from, size_t bytes) {
    started.push_back({to, from, bytes});
    return nullptr;
  }
  Status mark(int slot) {
    open[slot].insert(open[slot].end(), started.begin(), started.end());
    started.clear();
    return nullptr;
  }
  Status wait(int slot) {
    for (const Copy& c : open[slot]) memcpy(c.to, c.from, c.bytes);
    open[slot].clear();
    return nullptr;
  }
};
Status raw_copy(void* to, const void* from, size_t bytes, CopyKind kind) {
  if (kind == CopyKind::device_to_device) {
    auto run = [=] { memcpy(to, from, bytes); };
    if (!graph_record(run)) run();
    return nullptr;
  }
  const GraphPause pause;
  EmulatedStaging staging;
  auto* target = static_cast<char*>(to);
  const auto* source = static_cast<const char*>(from);
  if (kind == CopyKind::device_to_host) return stage_out(staging, target, source, bytes, sizeof staging.memory[0]);
  const Status status = stage_in(staging, target, source, bytes, sizeof staging.memory[0]);
  for (int slot = 0; slot < 2; ++slot) staging.wait(slot);
  return status;
}
void raw_zero(void* data, size_t bytes) {
  auto run = [=] { memset(data, 0, bytes); };
  if (!graph_record(run)) run();
}

#else

cudaStream_t g_stream = nullptr;
char g_description[4096] = "";
int64_t g_memory = 0;

// Adds a line about a GPU to g_description.
void add_description(int gpu) {
  cudaDeviceProp properties;
  const size_t used = strlen(g_description);
  if (cudaGetDeviceProperties(&properties, gpu) != cudaSuccess) {
    cudaGetLastError();  // it is not ours to use anyway
    return;
  }
  snprintf(g_description + used, sizeof g_description - used, "%s%s (compute capability %d.%d, %.1f GB)",
           used > 0 ? "\n" : "", properties.name, properties.major, properties.minor,
           static_cast<double>(properties.totalGlobalMem) / 1e9);
}

// Finds the GPU on first use. 0 with g_words set when there is none.
int32_t probe() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    snprintf(g_words, sizeof g_words, "no NVIDIA driver on this machine");
    return 0;
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver) {
    snprintf(g_words, sizeof g_words,
             "the NVIDIA driver supports CUDA %d.%d, this module needs %d.%d or later", driver / 1000,
             driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return 0;
  }
  if (error != cudaSuccess || count == 0) {
    snprintf(g_words, sizeof g_words, "no usable GPU: %s", cudaGetErrorString(error));
    return 0;
  }
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  if (major < 8) {
    snprintf(g_words, sizeof g_words, "the GPU has compute capability %d.%d, 8.0 or later is needed", major,
             minor);
    return 0;
  }
  size_t free_bytes = 0, total = 0;
  if (cudaSetDevice(0) != cudaSuccess || cudaMemGetInfo(&free_bytes, &total) != cudaSuccess ||
      cudaStreamCreateWithFlags(&g_stream, cudaStreamNonBlocking) != cudaSuccess) {
    snprintf(g_words, sizeof g_words, "the GPU could not be opened: %s",
             cudaGetErrorString(cudaGetLastError()));
    return 0;
  }
  g_memory = static_cast<int64_t>(total);
  for (int gpu = 0; gpu < count; ++gpu) add_description(gpu);
  return 1;  // the first GPU alone; others are only named
}

int32_t device_count() {
  static const int32_t count = probe();
  return count;
}
const char* describe() { return g_description; }
int64_t memory_bytes() { return g_memory; }

Status words_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

bool raw_allocate(size_t bytes, void** out) {
  if (cudaMalloc(out, bytes > 0 ? bytes : 1) == cudaSuccess) return true;
  cudaGetLastError();  // out of memory is not sticky: the caller drops its cache and tries again
  return false;
}
void raw_release(void* data) {
  const GraphPause pause;  // launches that were captured may use it
  cudaFree(data);
}

// Two pinned buffers with an event each, made when first needed, for one copy at a time.
struct Staging {
  static constexpr size_t kPiece = size_t{4} << 20;
  static constexpr size_t kLeast = size_t{256} << 10;  // less is not worth a second copy
  void* memory[2] = {};
  cudaEvent_t event[2] = {};
  bool tried = false, ready = false;
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

  bool usable() {
    if (tried) return ready;
    tried = true;
    for (int slot = 0; slot < 2; ++slot)
      if (cudaMallocHost(&memory[slot], kPiece) != cudaSuccess ||
          cudaEventCreateWithFlags(&event[slot], cudaEventDisableTiming) != cudaSuccess) {
        cudaGetLastError();  // copies go directly then
        return false;
      }
    return ready = true;
  }
  void* pinned(int slot) { return memory[slot]; }
  Status start(void* to, const void* from, size_t bytes) {
    return words_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, g_stream));
  }
  Status mark(int slot) { return words_of(cudaEventRecord(event[slot], g_stream)); }
  // an event that was never recorded is over
  Status wait(int slot) { return words_of(cudaEventSynchronize(event[slot])); }
};
Staging g_staging;

Status raw_copy(void* to, const void* from, size_t bytes, CopyKind kind) {
  const cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
  const auto start = [&] {
    return cudaMemcpyAsync(to, from, bytes, kinds[static_cast<int>(kind)], g_stream);
  };
  if (kind == CopyKind::device_to_device) {
    const GraphLock lock;
    return words_of(start());
  }
  const GraphPause pause;
  if (pause.status()) return pause.status();
  if (bytes >= Staging::kLeast) {
    pthread_mutex_lock(&g_staging.mutex);
    const bool usable = g_staging.usable();
    Status status = nullptr;
    auto* target = static_cast<char*>(to);
    const auto* source = static_cast<const char*>(from);
    if (usable)
      status = kind == CopyKind::host_to_device ? stage_in(g_staging, target, source, bytes, Staging::kPiece)
                                                : stage_out(g_staging, target, source, bytes, Staging::kPiece);
    pthread_mutex_unlock(&g_staging.mutex);
    if (usable) return status;
  }
  // from pageable memory the call returns when the source may be reused
  cudaError_t error = start();
  // nobody captures meanwhile: the pause holds the lock
  if (error == cudaSuccess && kind == CopyKind::device_to_host) error = cudaStreamSynchronize(g_stream);
  return words_of(error);
}
void raw_zero(void* data, size_t bytes) {
  const GraphLock lock;
  cudaMemsetAsync(data, 0, bytes, g_stream);
}

#endif

// Scratch of the thread that launches: each environment has its own, and the stream runs its kernels in
// order.
struct Workspaces {
  void* data[kSlots] = {};
  size_t bytes[kSlots] = {};
  ~Workspaces() {
    for (void* p : data)
      if (p) raw_release(p);
  }
};

Status allocate(size_t bytes, void** out) { return raw_allocate(bytes, out) ? nullptr : kOutOfMemory; }
void release(void* data, size_t) { raw_release(data); }

Status fault_words(Fault fault) {
  switch (fault) {
    case Fault::none: return nullptr;
    case Fault::embedding_forward: return "embedding_forward: index out of range";
    case Fault::embedding_backward: return "embedding_backward: index out of range";
    case Fault::embedding_i8: return "embedding_i8: index out of range";
    case Fault::embedding_i4: return "embedding_i4: index out of range";
    case Fault::gather: return "gather: index out of range";
    case Fault::scatter_add: return "scatter_add: index out of range";
    case Fault::cross_entropy_forward: return "cross_entropy_forward: target out of range";
    case Fault::cross_entropy_backward: return "cross_entropy_backward: target out of range";
  }
  return "unknown fault";
}

// Reads also report what kernels found in their data.
Status transfer(void* destination, const void* source, size_t bytes, CopyKind kind) {
  if (bytes > 0)
    if (const Status status = raw_copy(destination, source, bytes, kind)) return status;
  if (kind != CopyKind::device_to_host) return nullptr;
  int32_t* word = fault_word();
  if (!word) return nullptr;
  int32_t fault = 0;
  if (const Status status = raw_copy(&fault, word, sizeof fault, kind)) return status;
  if (fault != 0) raw_zero(word, sizeof fault);
  return fault_words(static_cast<Fault>(fault));
}

// --- the kernel table
// --------------------------------------------------------------------------------------------
constexpr bool same_name(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}
constexpr bool supported(const char* name) {
#define UNSUPPORTED(missing) \
  if (same_name(name, #missing)) return false;
#include "cuda/unsupported.def"
#undef UNSUPPORTED
  return true;
}

// The kernel, or, without naming it, an answer that it does not exist.
#define ROOTS_ENTRY(name, ...)                                   \
  template <bool Supported>                                      \
  struct entry_##name {                                          \
    static Status missing(const Context&, __VA_ARGS__) {         \
      return "no CUDA kernel; move the tensors with .to('cpu')"; \
    }                                                            \
    static auto get() {                                          \
      if constexpr (Supported)                                   \
        return &::roots::cuda::name;                             \
      else                                                       \
        return &missing;                                         \
    }                                                            \
  };
#define KERNEL(name, ...) ROOTS_ENTRY(name, __VA_ARGS__)
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-parameter"
#endif
#include "kernels.def"
#undef KERNEL

const KernelTable* kernels() {
  static const KernelTable table = [] {
    KernelTable t;
#define KERNEL(name, ...) t.name = entry_##name<supported(#name)>::get();
#include "kernels.def"
#undef KERNEL
    return t;
  }();
  return &table;
}

}  // namespace

void* workspace(int slot, size_t bytes) {
  static thread_local Workspaces w;
  if (w.bytes[slot] < bytes || !w.data[slot]) {
    if (w.data[slot]) raw_release(w.data[slot]);
    w.data[slot] = nullptr;
    w.bytes[slot] = 0;
    const size_t rounded = (bytes + (bytes >> 2) + 4095) / 4096 * 4096;
    if (!raw_allocate(rounded, &w.data[slot])) return nullptr;
    w.bytes[slot] = rounded;
  }
  return w.data[slot];
}

int32_t* fault_word() {
  static int32_t* const word = [] {
    void* p = nullptr;
    if (!raw_allocate(sizeof(int32_t), &p)) return static_cast<int32_t*>(nullptr);
    raw_zero(p, sizeof(int32_t));
    return static_cast<int32_t*>(p);
  }();
  return word;
}

#if defined(ROOTS_CUDA_EMULATED)
Status launched() { return nullptr; }
#else
Status launched() { return words_of(cudaGetLastError()); }
cudaStream_t stream() { return g_stream; }
#endif

}  // namespace cuda
}  // namespace roots

extern "C" __attribute__((visibility("default"))) const roots::Backend* backend_entry(uint64_t) {
  using namespace roots;
  static const Backend backend = {backend_abi_hash(), "cuda",
                                  cuda::device_count, cuda::memory_bytes,
                                  cuda::allocate,     cuda::release,
                                  cuda::transfer,     cuda::kernels,
                                  cuda::graph_mark,   cuda::graph_counts,
                                  cuda::describe,     [] { return static_cast<const char*>(cuda::g_words); }};
  return &backend;
}
