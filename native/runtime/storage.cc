#include "runtime/storage.h"

#include <new>

namespace roots {

Storage* Storage::create(Allocator* allocator, size_t bytes) {
  void* data = allocator->allocate(bytes);
  if (!data) return nullptr;
  Storage* storage = new (std::nothrow) Storage(allocator, data, bytes);
  if (!storage) allocator->release(data, bytes);
  return storage;
}

void Storage::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  allocator_->release(data_, bytes_);
  delete this;
}

}  // namespace roots
