// Device bytes with a reference count: one for the JavaScript handle, one for every queued kernel that uses
// them.
#pragma once

#include <atomic>
#include <cstddef>

#include "runtime/allocator.h"

namespace roots {

// Memory that more than one storage may use, one after the other: it goes back when the last of them is gone.
class Block {
 public:
  Block(void* data, size_t rounded) : data_(data), rounded_(rounded) {}
  void* data() const { return data_; }
  size_t rounded() const { return rounded_; }
  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release(Allocator* allocator);

 private:
  std::atomic<int> references_{1};
  void* data_;
  size_t rounded_;
};

class Storage {
 public:
  // nullptr when the allocator refuses.
  static Storage* create(Allocator* allocator, size_t bytes);
  // A storage over a parked block, taking over the caller's reference to it; its bytes count as allocated
  // again.
  static Storage* adopt(Allocator* allocator, Block* block, size_t bytes);

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();

  // References of queued kernels are counted a second time.
  void retain_for_task() {
    tasks_.fetch_add(1);
    references_.fetch_add(1);
  }
  void release_for_task() {
    tasks_.fetch_sub(1);
    release();
  }

  // Whether nobody but the caller and queued kernels holds this. For the thread that queues them, which is
  // about to let go: kernels only ever finish meanwhile. The total is read first, and a finishing kernel
  // leaves `tasks_` first, so an answer of true is certain.
  bool waits_for_tasks_only() const {
    const int total = references_.load();
    const int tasks = tasks_.load();
    return tasks > 0 && total - 1 == tasks;
  }
  // A reference to the block for the caller; the bytes of this storage no longer count.
  Block* surrender() {
    counted_.store(false);
    block_->retain();
    return block_;
  }

  void* data() const { return block_->data(); }
  size_t bytes() const { return bytes_; }
  Allocator* allocator() const { return allocator_; }

 private:
  Storage(Allocator* allocator, Block* block, size_t bytes)
      : allocator_(allocator), block_(block), bytes_(bytes) {}

  std::atomic<int> references_{1};
  std::atomic<int> tasks_{0};
  std::atomic<bool> counted_{true};
  Allocator* allocator_;
  Block* block_;
  size_t bytes_;
};

}  // namespace roots
