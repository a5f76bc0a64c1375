#include "runtime/stream.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "runtime/thread_pool.h"

namespace roots {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(100);
constexpr int kSlots = 8;
constexpr size_t kAlignment = 64, kHugePage = size_t{2} << 20;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Grows and never shrinks: kernels ask for the same sizes again and again.
struct Buffer {
  void* data = nullptr;
  size_t bytes = 0;
  ~Buffer() { free(data); }
  void* at_least(size_t wanted) {
    if (wanted <= bytes) return data;
    free(data);
    bytes = 0;
    data = nullptr;
    // Large buffers are whole huge pages: packed panels stream through them again and again.
    size_t size = wanted + wanted / 4;
    const bool large = size >= kHugePage / 8;
    if (large) size = (size + kHugePage - 1) / kHugePage * kHugePage;
    if (posix_memalign(&data, large ? kHugePage : kAlignment, size) != 0) return data = nullptr;
#if defined(__linux__)
    if (large) madvise(data, size, MADV_HUGEPAGE);
#endif
    bytes = size;
    return data;
  }
};

void run_chunks(void*, int64_t chunks, void (*body)(void*, int64_t), void* argument) {
  ThreadPool::instance().run(chunks, body, argument);
}

void* scratch(void*, int32_t slot, size_t bytes) {
  thread_local Buffer buffers[kSlots];
  return slot >= 0 && slot < kSlots ? buffers[slot].at_least(bytes) : nullptr;
}

bool wants_inline() {
  const char* mode = getenv("ROOTS_STREAM");
  return mode && strcmp(mode, "inline") == 0;
}

}  // namespace

struct Stream::Buffers {
  Buffer workspace[kSlots];
};

Stream::Stream() : inline_(wants_inline()), buffers_(std::make_unique<Buffers>()) {
  context_.host = buffers_.get();
  context_.run_chunks = run_chunks;
  context_.scratch = scratch;
  context_.workspace = [](void* host, int32_t slot, size_t bytes) -> void* {
    return slot >= 0 && slot < kSlots ? static_cast<Buffers*>(host)->workspace[slot].at_least(bytes)
                                      : nullptr;
  };
  if (!inline_) ring_.resize(kCapacity);
}

Stream::~Stream() { stop(); }

void Stream::keep_error(const char* name, Status status) {
  if (!status) return;
  const std::lock_guard lock(error_mutex_);
  if (error_.empty()) error_ = std::string(name) + ": " + status;
}

void Stream::submit(std::unique_ptr<Task> task) {
  if (stopping_.load(std::memory_order_relaxed)) return;
  if (inline_) {
    keep_error(task->name(), task->run(context_));
    return;
  }
  if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
  const uint64_t index = submitted_.load(std::memory_order_relaxed);
  while (index - completed_.load(std::memory_order_acquire) >= kCapacity) std::this_thread::yield();
  ring_[index % kCapacity] = task.release();
  submitted_.store(index + 1, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst)) {
    const std::lock_guard lock(mutex_);
    wake_.notify_one();
  }
}

void Stream::work() {
  uint64_t index = 0;
  for (;;) {
    const auto start = std::chrono::steady_clock::now();
    for (int spins = 0; submitted_.load(std::memory_order_acquire) == index; ++spins) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      pause();
      if ((spins & 63) != 63 || std::chrono::steady_clock::now() - start < kSpinTime) continue;
      std::unique_lock lock(mutex_);
      sleeping_.store(true, std::memory_order_seq_cst);
      wake_.wait(lock,
                 [&] { return submitted_.load(std::memory_order_seq_cst) != index || stopping_.load(); });
      sleeping_.store(false, std::memory_order_relaxed);
    }
    Task* task = ring_[index % kCapacity];
    if (!stopping_.load(std::memory_order_relaxed)) keep_error(task->name(), task->run(context_));
    delete task;
    ++index;
    completed_.store(index, std::memory_order_seq_cst);
    if (waiting_.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(mutex_);
      done_.notify_all();
    }
  }
}

void Stream::synchronize() {
  const uint64_t target = submitted_.load(std::memory_order_relaxed);
  const auto start = std::chrono::steady_clock::now();
  for (int spins = 0; completed_.load(std::memory_order_acquire) < target; ++spins) {
    pause();
    if ((spins & 63) != 63 || std::chrono::steady_clock::now() - start < kSpinTime) continue;
    std::unique_lock lock(mutex_);
    waiting_.store(true, std::memory_order_seq_cst);
    done_.wait(lock, [&] { return completed_.load(std::memory_order_seq_cst) >= target; });
    waiting_.store(false, std::memory_order_relaxed);
  }
}

std::string Stream::take_error() {
  const std::lock_guard lock(error_mutex_);
  std::string error;
  error.swap(error_);
  return error;
}

void Stream::stop() {
  if (stopping_.exchange(true)) return;
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    wake_.notify_one();
  }
  thread_.join();
  for (uint64_t i = completed_.load(); i < submitted_.load(); ++i) delete ring_[i % kCapacity];
  completed_.store(submitted_.load());
}

}  // namespace roots
