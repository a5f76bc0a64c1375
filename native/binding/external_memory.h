// What V8 is told of the memory that tensors hold, so that its collector knows what an unreachable one is
// worth.
#pragma once

#include <node_api.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace roots {

// One per thread, as V8's number is: handles are finalized when their environment may be gone. V8 ends the
// process when it is told of more that went than of what came, so everything is counted here first, and what
// is told is a part of it.
class ExternalMemory {
 public:
  static ExternalMemory& of_thread() {
    static thread_local ExternalMemory memory;
    return memory;
  }

  // V8 starts to mark its heap with every 64 MB of growth, some 10 ms of a core that kernels want: a training
  // step that disposes all it makes would set that off again and again. So what dispose() gives back stays
  // with V8's number, for the allocations that follow; only growth beyond it is told, and what the collector
  // itself freed.
  void allocated(napi_env env, int64_t bytes) {
    const int64_t told = std::min(bytes, in_advance_);
    in_advance_ -= told;
    change(env, bytes - told);
  }
  void disposed(napi_env env, int64_t bytes) {
    const int64_t kept = std::min(bytes, kMostInAdvance - in_advance_);
    in_advance_ += kept;
    change(env, kept - bytes);
  }
  void collected(napi_env env, int64_t bytes) { change(env, -bytes); }
  // Corrects V8's number by what was disposed of.
  void settle(napi_env env) { change(env, -std::exchange(in_advance_, 0)); }

 private:
  // Told in portions, since each word to V8 costs as much as a small allocation here.
  static constexpr int64_t kPortion = int64_t{1} << 20;
  // No more than this, which is also how much garbage V8 may come not to know of.
  static constexpr int64_t kMostInAdvance = int64_t{1} << 30;

  void change(napi_env env, int64_t bytes) {
    untold_ += bytes;
    if (untold_ < kPortion && untold_ > -kPortion) return;
    int64_t total;
    if (napi_adjust_external_memory(env, untold_, &total) == napi_ok) untold_ = 0;
  }

  int64_t untold_ = 0;      // allocated or freed, and not reported yet
  int64_t in_advance_ = 0;  // reported, and disposed of since
};

}  // namespace roots
