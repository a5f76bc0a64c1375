#include "runtime/allocator.h"

#include <unistd.h>

namespace roots {
namespace {

// Free blocks above this share of the peak go back to the system instead of into the cache.
constexpr int64_t kMinimumCache = int64_t{256} << 20;
// What rounding adds to a few large blocks: a program that needs two blocks in turn would otherwise return
// and fetch one of them each time.
constexpr int64_t kSlack = 8 * static_cast<int64_t>(kLargeBlock);

int64_t default_limit(const Backend* backend) {
  if (const int64_t bytes = backend->memory_bytes(); bytes > 0) return bytes / 20 * 19;
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? pages * page / 10 * 9 : int64_t{1} << 40;
}

}  // namespace

size_t size_class(size_t bytes) {
  if (bytes <= 64) return 64;
  size_t power = 64;
  while (power * 2 < bytes) power *= 2;
  // large blocks to whole huge pages: what rounding adds would count against the cache
  const size_t step = power / 8 < 64 ? 64 : power / 8 < kLargeBlock ? power / 8 : kLargeBlock;
  return (bytes + step - 1) / step * step;
}

Allocator::Allocator(const Backend* backend, int device) : backend_(backend), device_(device) {
  stats_.limit_bytes = default_limit(backend);
}

void* Allocator::allocate(size_t bytes, size_t* rounded_out) {
  const std::lock_guard lock(mutex_);
  if (bytes > static_cast<size_t>(stats_.limit_bytes - stats_.live_bytes)) return nullptr;
  size_t rounded = size_class(bytes);
  void* data = nullptr;
  const auto found = fitting_class(free_, rounded);
  if (found != free_.end()) {
    rounded = found->first;
    data = found->second.back();
    found->second.pop_back();
    stats_.cached_bytes -= static_cast<int64_t>(rounded);
  } else {
    if (stats_.live_bytes + stats_.cached_bytes + static_cast<int64_t>(rounded) > stats_.limit_bytes)
      drop_cache_locked();
    make_room_locked(rounded);
    if (backend_->allocate(rounded, &data) != nullptr) {
      drop_cache_locked();
      if (backend_->allocate(rounded, &data) != nullptr) return nullptr;
    }
  }
  ++stats_.live_blocks;
  stats_.live_bytes += static_cast<int64_t>(bytes);
  if (stats_.live_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.live_bytes;
  *rounded_out = rounded;
  return data;
}

void Allocator::count_out(size_t bytes) {
  const std::lock_guard lock(mutex_);
  --stats_.live_blocks;
  stats_.live_bytes -= static_cast<int64_t>(bytes);
}

void Allocator::recycle(void* data, size_t rounded) {
  const std::lock_guard lock(mutex_);
  if (!may_keep(rounded)) {
    backend_->release(data, rounded);
    return;
  }
  free_[rounded].push_back(data);
  stats_.cached_bytes += static_cast<int64_t>(rounded);
}

void Allocator::drop_cache_locked() {
  for (auto& [rounded, blocks] : free_)
    for (void* block : blocks) backend_->release(block, rounded);
  free_.clear();
  stats_.cached_bytes = parked_bytes_;
}

bool Allocator::may_keep(size_t rounded) const {
  const int64_t keep = stats_.peak_bytes > kMinimumCache ? stats_.peak_bytes : kMinimumCache;
  return stats_.live_bytes + stats_.cached_bytes + static_cast<int64_t>(rounded) <= keep + kSlack;
}

void Allocator::make_room_locked(size_t rounded) {
  if (rounded < kLargeBlock) return;
  for (auto entry = free_.begin(); entry != free_.end() && !may_keep(rounded); ++entry) {
    auto& [size, blocks] = *entry;
    if (size < kLargeBlock) continue;
    while (!blocks.empty() && !may_keep(rounded)) {
      backend_->release(blocks.back(), size);
      blocks.pop_back();
      stats_.cached_bytes -= static_cast<int64_t>(size);
    }
  }
}

void Allocator::park(size_t bytes, size_t rounded) {
  const std::lock_guard lock(mutex_);
  --stats_.live_blocks;
  stats_.live_bytes -= static_cast<int64_t>(bytes);
  stats_.cached_bytes += static_cast<int64_t>(rounded);
  parked_bytes_ += static_cast<int64_t>(rounded);
}

bool Allocator::unpark(size_t bytes, size_t rounded) {
  const std::lock_guard lock(mutex_);
  if (bytes > static_cast<size_t>(stats_.limit_bytes - stats_.live_bytes)) return false;
  ++stats_.live_blocks;
  stats_.live_bytes += static_cast<int64_t>(bytes);
  stats_.cached_bytes -= static_cast<int64_t>(rounded);
  parked_bytes_ -= static_cast<int64_t>(rounded);
  if (stats_.live_bytes > stats_.peak_bytes) stats_.peak_bytes = stats_.live_bytes;
  return true;
}

void Allocator::unpark_unused(size_t rounded) {
  const std::lock_guard lock(mutex_);
  stats_.cached_bytes -= static_cast<int64_t>(rounded);
  parked_bytes_ -= static_cast<int64_t>(rounded);
}

void Allocator::drop_cache() {
  const std::lock_guard lock(mutex_);
  drop_cache_locked();
}

MemoryStats Allocator::stats() {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Allocator::set_limit(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  stats_.limit_bytes = bytes;
}

void Allocator::reset_peak() {
  const std::lock_guard lock(mutex_);
  stats_.peak_bytes = stats_.live_bytes;
}

}  // namespace roots
