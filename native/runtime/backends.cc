#include "runtime/backends.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>
#include <unordered_map>

namespace roots {

const Backend* cpu_backend();

namespace {

struct Devices {
  Device list[kMaxDevices];
  std::atomic<int> count{0};
  std::mutex mutex;
  std::unordered_map<std::string, std::string> loaded;  // path to result
};

Devices& all() {
  static auto* const devices = [] {
    auto* d = new Devices;
    d->list[0] = {cpu_backend(), new Allocator(cpu_backend(), 0)};
    d->count = 1;
    return d;
  }();
  return *devices;
}

// Never unloaded: its threads and its driver context live as long as the process.
std::string open(Devices& d, const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) return dlerror();
  const auto entry = reinterpret_cast<decltype(&backend_entry)>(dlsym(library, "backend_entry"));
  if (!entry) return path + " is not a backend of roots-llm";
  const Backend* backend = entry(backend_abi_hash());
  if (!backend || backend->abi != backend_abi_hash())
    return path + " was built with another version of roots-llm; build or install both together";
  if (backend->device_count() == 0) return backend->last_error();
  const int index = d.count;
  if (index == kMaxDevices) return "too many devices";
  d.list[index] = {backend, new Allocator(backend, index)};
  d.count = index + 1;
  return "";
}

}  // namespace

int device_count() { return all().count; }
const Device& device(int index) { return all().list[index]; }

std::string load_backend(const std::string& path) {
  Devices& d = all();
  const std::lock_guard lock(d.mutex);
  const auto known = d.loaded.find(path);
  if (known != d.loaded.end()) return known->second;
  return d.loaded[path] = open(d, path);
}

}  // namespace roots
