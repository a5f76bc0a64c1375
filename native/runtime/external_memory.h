// How much memory V8 believes tensors to hold, so that its collector knows what an unreachable one is worth.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace roots {

// Every change gives what V8 is to be told now. V8 ends the process when it hears of more memory going than
// it heard of coming, so the sum of what is told is never negative.
class ExternalMemory {
 public:
  // V8's number is one per thread, and handles are finalized when their environment may be gone.
  static ExternalMemory& of_thread() {
    static thread_local ExternalMemory memory;
    return memory;
  }

  // V8 starts to mark its heap with every 64 MB of growth, some 10 ms of a core that kernels want: a training
  // step that disposes all it makes would set that off again and again. So what dispose() gives back stays in
  // V8's number, for the allocations that follow; only growth beyond it is told, and what the collector
  // itself freed.
  int64_t allocated(int64_t bytes) {
    const int64_t known = std::min(bytes, in_advance_);
    in_advance_ -= known;
    return change(bytes - known);
  }
  int64_t disposed(int64_t bytes) {
    const int64_t kept = std::min(bytes, kMostInAdvance - in_advance_);
    in_advance_ += kept;
    return change(kept - bytes);
  }
  int64_t collected(int64_t bytes) { return change(-bytes); }
  // Corrects V8's number by what was disposed of.
  int64_t settle() { return change(-std::exchange(in_advance_, 0)); }
  // Takes back all that was told, for good.
  int64_t forget() {
    closed_ = true;
    return -std::exchange(told_, 0);
  }

  // Told in portions, since each word to V8 costs as much as a small allocation here.
  static constexpr int64_t kPortion = int64_t{1} << 20;
  // No more than this, which is also how much garbage V8 may come not to know of.
  static constexpr int64_t kMostInAdvance = int64_t{1} << 30;

 private:
  int64_t change(int64_t bytes) {
    untold_ += bytes;
    if (closed_ || (untold_ < kPortion && untold_ > -kPortion)) return 0;
    told_ += untold_;
    return std::exchange(untold_, 0);
  }

  bool closed_ = false;
  int64_t told_ = 0;
  int64_t untold_ = 0;      // allocated or freed, and not told yet
  int64_t in_advance_ = 0;  // told, or about to be, and disposed of since
};

}  // namespace roots
