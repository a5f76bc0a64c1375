// Device bytes with a reference count: one for the JavaScript handle, one for every queued kernel that uses
// them.
#pragma once

#include <atomic>
#include <cstddef>

#include "runtime/allocator.h"

namespace roots {

class Storage {
 public:
  // nullptr when the allocator refuses.
  static Storage* create(Allocator* allocator, size_t bytes);

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release();
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Storage(Allocator* allocator, void* data, size_t bytes)
      : allocator_(allocator), data_(data), bytes_(bytes) {}

  std::atomic<int> references_{1};
  Allocator* allocator_;
  void* data_;
  size_t bytes_;
};

}  // namespace roots
