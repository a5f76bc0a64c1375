// Devices, memory statistics, thread counts.
#include "binding/environment.h"
#include "runtime/external_memory.h"
#include "runtime/thread_pool.h"

namespace roots {
namespace {

Napi::Value list_devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (int d = 0; d < device_count(); ++d) {
    const Backend* backend = device(d).backend;
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", backend->name);
    entry.Set("description", backend->describe());
    entry.Set("error", backend->last_error());
    list.Set(list.Length(), entry);
  }
  return list;
}

// An optional device index argument; the CPU when it is not given.
Allocator* allocator_argument(const Napi::CallbackInfo& info, size_t at) {
  int64_t index = 0;
  if (info.Length() > at && (!to_size(info.Env(), info[at], &index) || index >= device_count()))
    throw Napi::RangeError::New(info.Env(), "expected the index of a device");
  return device(static_cast<int>(index)).allocator;
}

// loadBackend(path): null, or why its device cannot be used
Napi::Value load_backend_library(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsString())
    throw Napi::TypeError::New(info.Env(), "loadBackend: expected a path");
  const std::string problem = load_backend(info[0].As<Napi::String>().Utf8Value());
  return problem.empty() ? info.Env().Null()
                         : static_cast<Napi::Value>(Napi::String::New(info.Env(), problem));
}

void set_default_device(const Napi::CallbackInfo& info) {
  static_cast<Environment*>(info.Data())->default_device = allocator_argument(info, 0)->device();
}

Napi::Value memory_stats(const Napi::CallbackInfo& info) {
  const MemoryStats stats = allocator_argument(info, 0)->stats();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("storages", static_cast<double>(stats.live_blocks));
  out.Set("bytes", static_cast<double>(stats.live_bytes));
  out.Set("peakBytes", static_cast<double>(stats.peak_bytes));
  out.Set("cachedBytes", static_cast<double>(stats.cached_bytes));
  out.Set("limitBytes", static_cast<double>(stats.limit_bytes));
  return out;
}

void set_memory_limit(const Napi::CallbackInfo& info) {
  int64_t bytes;
  if (info.Length() < 1 || !to_size(info.Env(), info[0], &bytes))
    throw Napi::TypeError::New(info.Env(), "setMemoryLimit: expected a size in bytes");
  allocator_argument(info, 1)->set_limit(bytes);
}

void release_cached(const Napi::CallbackInfo& info) {
  auto* environment = static_cast<Environment*>(info.Data());
  environment->flush_parked();
  environment->stream.synchronize();
  for (int d = 0; d < device_count(); ++d) device(d).allocator->drop_cache();
  tell(info.Env(), ExternalMemory::of_thread().settle());
}
// At exit: see lib/native/load.ts.
void forget_memory(const Napi::CallbackInfo& info) { tell(info.Env(), ExternalMemory::of_thread().forget()); }
void reset_peak(const Napi::CallbackInfo& info) { allocator_argument(info, 0)->reset_peak(); }

// A mark in the queue of a device that sends kernels together.
class GraphTask final : public Task {
 public:
  GraphTask(const Backend* backend, int64_t key, bool begin) : backend_(backend), key_(key), begin_(begin) {}
  Status run(const Context&) override { return backend_->graph_mark(key_, begin_ ? 1 : 0); }
  const char* name() const override { return "graph"; }

 private:
  const Backend* backend_;
  int64_t key_;
  bool begin_;
};

// graphMark(device, key, begin)
void graph_mark(const Napi::CallbackInfo& info) {
  int64_t key;
  const Backend* backend = allocator_argument(info, 0)->backend();
  if (info.Length() < 3 || !to_size(info.Env(), info[1], &key) || !info[2].IsBoolean())
    throw Napi::TypeError::New(info.Env(), "graphMark: expected a device, a number and a boolean");
  if (backend->graph_mark)
    static_cast<Environment*>(info.Data())
        ->stream.submit(std::make_unique<GraphTask>(backend, key, info[2].As<Napi::Boolean>().Value()));
}

// graphCounts(device): [sent, made], of what has run
Napi::Value graph_counts(const Napi::CallbackInfo& info) {
  static_cast<Environment*>(info.Data())->stream.synchronize();
  int64_t counts[2] = {};
  const Backend* backend = allocator_argument(info, 0)->backend();
  if (backend->graph_counts) backend->graph_counts(&counts[0], &counts[1]);
  Napi::Array out = Napi::Array::New(info.Env());
  for (uint32_t i = 0; i < 2; ++i) out.Set(i, static_cast<double>(counts[i]));
  return out;
}

void set_threads(const Napi::CallbackInfo& info) {
  int64_t count;
  if (info.Length() < 1 || !to_size(info.Env(), info[0], &count) || count < 1 || count > 256)
    throw Napi::RangeError::New(info.Env(), "setThreads: expected a number of threads from 1 to 256");
  static_cast<Environment*>(info.Data())->stream.synchronize();  // not in the middle of a kernel
  ThreadPool::instance().set_threads(static_cast<int>(count));
}

Napi::Value get_threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), ThreadPool::instance().threads());
}

}  // namespace

void register_device(Napi::Env env, Napi::Object exports, Environment* environment) {
  exports.Set("devices", Napi::Function::New(env, list_devices, "devices"));
  exports.Set("loadBackend", Napi::Function::New(env, load_backend_library, "loadBackend"));
  exports.Set("setDefaultDevice",
              Napi::Function::New(env, set_default_device, "setDefaultDevice", environment));
  exports.Set("memory", Napi::Function::New(env, memory_stats, "memory"));
  exports.Set("setMemoryLimit", Napi::Function::New(env, set_memory_limit, "setMemoryLimit"));
  exports.Set("forgetMemory", Napi::Function::New(env, forget_memory, "forgetMemory"));
  exports.Set("releaseCachedMemory",
              Napi::Function::New(env, release_cached, "releaseCachedMemory", environment));
  exports.Set("resetPeakMemory", Napi::Function::New(env, reset_peak, "resetPeakMemory"));
  exports.Set("graphMark", Napi::Function::New(env, graph_mark, "graphMark", environment));
  exports.Set("graphCounts", Napi::Function::New(env, graph_counts, "graphCounts", environment));
  exports.Set("setThreads", Napi::Function::New(env, set_threads, "setThreads", environment));
  exports.Set("getThreads", Napi::Function::New(env, get_threads, "getThreads"));
}

}  // namespace roots
