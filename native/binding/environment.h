// What one Node environment (the main thread or a worker) owns: its stream, its pending promises. Nothing
// here is shared between environments.
#pragma once

#include <napi.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/backends.h"
#include "runtime/storage.h"
#include "runtime/stream.h"

namespace roots {

struct Environment;

// Per kernel and environment; the data pointer of its JavaScript function.
struct KernelCall {
  Environment* environment;
  const char* name;
};

struct Environment {
  explicit Environment(napi_env env);
  ~Environment();

  napi_env env;
  Stream stream;
  std::vector<std::unique_ptr<KernelCall>> kernel_calls;
  napi_threadsafe_function completions = nullptr;
  // The numbers of the call being made, written by lib/native; see bind.h. Backed by a JavaScript array.
  static constexpr size_t kNumbers = 16384;
  double* numbers = nullptr;
  int default_device = 0;  // of tensors that no other tensor places
  int pending = 0;         // promises not yet settled: while there are any, the process stays alive

  // Blocks that disposed tensors left while queued kernels still use them, by size class. The queue runs in
  // order, so kernels queued from now on may have them at once; the host may not touch them before it has
  // waited. Without this, code that queues a whole training step ahead of its execution would hold every
  // temporary of the step at the same time.
  std::unordered_map<size_t, std::vector<Block*>> parked[kMaxDevices];
  // Lets go of the parked blocks: each returns to the allocator once the kernels that use it are done.
  void flush_parked();

  void add_pending();
  void remove_pending();
};

// The object behind a JavaScript External. The magic number tells our Externals from others.
struct StorageHandle {
  static constexpr uint64_t kMagic = 0x526f6f7473537467ull;
  uint64_t magic = kMagic;
  Storage* storage = nullptr;  // nullptr after dispose, and before a kernel has chosen the device
  size_t bytes = 0;
  bool undecided = false;
};

// Tells V8 of a change of the memory that it cannot see.
inline void tell(napi_env env, int64_t change) {
  int64_t total;
  if (change != 0) napi_adjust_external_memory(env, change, &total);
}

// Throws a JavaScript Error with .code and returns nullptr.
napi_value throw_error(napi_env env, const char* code, const std::string& message);

// nullptr (with a pending exception) when the value is not one of our storages, or a disposed one. The
// storage itself may be undecided.
StorageHandle* handle_of(napi_env env, napi_value value);
// The same; an undecided storage gets its memory, on the default device.
StorageHandle* storage_of(napi_env env, Environment* environment, napi_value value);

// Gives an undecided storage memory on a device, for kernels that are queued from now on. False with a
// pending exception.
bool decide(napi_env env, Environment* environment, StorageHandle* handle, int device);

// A number that is an integer in [0, 2^53): sizes and offsets.
bool to_size(napi_env env, napi_value value, int64_t* out);

void register_storage(Napi::Env env, Napi::Object exports, Environment* environment);
void register_files(Napi::Env env, Napi::Object exports);
void register_device(Napi::Env env, Napi::Object exports, Environment* environment);

}  // namespace roots
