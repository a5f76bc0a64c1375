#include "runtime/storage.h"

#include <new>

namespace roots {

void Block::release(Allocator* allocator) {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  allocator->recycle(data_, rounded_);
  delete this;
}

Storage* Storage::create(Allocator* allocator, size_t bytes) {
  size_t rounded;
  void* data = allocator->allocate(bytes, &rounded);
  if (!data) return nullptr;
  Block* block = new (std::nothrow) Block(data, rounded);
  Storage* storage = block ? new (std::nothrow) Storage(allocator, block, bytes) : nullptr;
  if (!storage) {
    delete block;
    allocator->count_out(bytes);
    allocator->recycle(data, rounded);
  }
  return storage;
}

Storage* Storage::adopt(Allocator* allocator, Block* block, size_t bytes) {
  return new (std::nothrow) Storage(allocator, block, bytes);
}

void Storage::release() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (counted_.load()) allocator_->count_out(bytes_);
  block_->release(allocator_);
  delete this;
}

}  // namespace roots
