// Caching allocator of one device: blocks are kept by size class and reused, because fresh memory is slow
// (page faults on first write). Counts every byte, enforces a limit, and drops its cache before it gives up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/backend.h"

namespace roots {

struct MemoryStats {
  int64_t live_blocks = 0;   // blocks handed out
  int64_t live_bytes = 0;    // bytes asked for in them
  int64_t peak_bytes = 0;    // highest live_bytes so far
  int64_t cached_bytes = 0;  // free blocks kept for reuse
  int64_t limit_bytes = 0;
};

class Allocator {
 public:
  Allocator(const Backend* backend, int device);

  const Backend* backend() const { return backend_; }
  int device() const { return device_; }

  // nullptr: the limit is reached or the system has no memory. `rounded`: the size of the block that was
  // found.
  void* allocate(size_t bytes, size_t* rounded);
  // The two halves of giving back: the bytes no longer count, and the block may be used again.
  void count_out(size_t bytes);
  void recycle(void* data, size_t rounded);
  void drop_cache();

  // Blocks that queued work still uses, kept by whoever queues it for work that comes later: their bytes
  // count as cached. unpark() refuses beyond the limit;
  // unpark_unused() is for blocks that nobody took.
  void park(size_t bytes, size_t rounded);
  bool unpark(size_t bytes, size_t rounded);
  void unpark_unused(size_t rounded);

  MemoryStats stats();
  void set_limit(int64_t bytes);
  void reset_peak();

 private:
  void drop_cache_locked();
  bool may_keep(size_t rounded) const;
  // Releases cached blocks of other sizes until a new one fits under the highest need so far: a training step
  // wants its activations and its gradients, of different sizes, at different times.
  void make_room_locked(size_t rounded);

  const Backend* const backend_;
  const int device_;  // index in devices
  std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  MemoryStats stats_;
  int64_t parked_bytes_ = 0;  // part of cached_bytes
};

// The rounded size of a block: steps of one eighth of a power of two, so at most 12.5 % is lost.
size_t size_class(size_t bytes);

// From here on blocks of other sizes count: fresh memory is dear, and holding both sizes is dearer.
constexpr size_t kLargeBlock = size_t{2} << 20;

// The smallest class with a free block for `rounded` bytes: its own, or for large ones up to 3/8 more, which
// lets the gradients of a layer take over the memory of its activations. end() when there is none.
template <class Map>
auto fitting_class(Map& free, size_t rounded) {
  auto best = free.find(rounded);
  if (best != free.end() && !best->second.empty()) return best;
  best = free.end();
  if (rounded < kLargeBlock) return best;
  for (auto it = free.begin(); it != free.end(); ++it)
    if (it->first > rounded && it->first <= rounded + rounded / 8 * 3 && !it->second.empty() &&
        (best == free.end() || it->first < best->first))
      best = it;
  return best;
}

}  // namespace roots
