// Devices, memory statistics, thread counts.
#include "binding/environment.h"
#include "runtime/thread_pool.h"

namespace roots {
namespace {

Napi::Value list_devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const Device& device : devices()) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", device.backend->name);
    entry.Set("description", device.backend->describe());
    entry.Set("error", device.backend->last_error());
    list.Set(list.Length(), entry);
  }
  return list;
}

Napi::Value memory_stats(const Napi::CallbackInfo& info) {
  const MemoryStats stats = devices()[0].allocator->stats();
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
  devices()[0].allocator->set_limit(bytes);
}

void release_cached(const Napi::CallbackInfo& info) {
  auto* environment = static_cast<Environment*>(info.Data());
  environment->flush_parked();
  environment->stream.synchronize();
  devices()[0].allocator->drop_cache();
}
void reset_peak(const Napi::CallbackInfo&) { devices()[0].allocator->reset_peak(); }

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
  exports.Set("memory", Napi::Function::New(env, memory_stats, "memory"));
  exports.Set("setMemoryLimit", Napi::Function::New(env, set_memory_limit, "setMemoryLimit"));
  exports.Set("releaseCachedMemory",
              Napi::Function::New(env, release_cached, "releaseCachedMemory", environment));
  exports.Set("resetPeakMemory", Napi::Function::New(env, reset_peak, "resetPeakMemory"));
  exports.Set("setThreads", Napi::Function::New(env, set_threads, "setThreads", environment));
  exports.Set("getThreads", Napi::Function::New(env, get_threads, "getThreads"));
}

}  // namespace roots
