#include "runtime/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#if defined(__linux__)
#include <sched.h>
#endif

namespace roots {
namespace {

// A sleeping thread costs 26-38 us to wake, so workers look for the next job this long before they sleep.
constexpr auto kSpinTime = std::chrono::microseconds(200);
constexpr int kMaxThreads = 256;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Cores this process may run on, which containers restrict.
int default_threads() {
  if (const char* wanted = getenv("ROOTS_THREADS")) {
    const int n = atoi(wanted);
    if (n >= 1 && n <= kMaxThreads) return n;
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

// The core that runs this thread, or -1.
inline int own_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves this thread to another core than `cpu`, where `threads` may have one each, and leaves it free to move
// again.
void leave_cpu([[maybe_unused]] int cpu, [[maybe_unused]] int threads) {
#if defined(__linux__)
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < threads) return;
  cpu_set_t others = all;
  CPU_CLR(static_cast<size_t>(cpu), &others);
  if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
    sched_setaffinity(0, sizeof all, &all);
#endif
}

}  // namespace

ThreadPool& ThreadPool::instance() {
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

ThreadPool::ThreadPool() : ranges_(new Range[kMaxThreads]) { set_threads(default_threads()); }

void ThreadPool::set_threads(int count) {
  count = count < 1 ? 1 : count > kMaxThreads ? kMaxThreads : count;
  const std::lock_guard lock(mutex_);
  while (static_cast<int>(workers_.size()) < count - 1) {
    const int index = static_cast<int>(workers_.size());
    try {
      workers_.emplace_back([this, index] { work(index); });
    } catch (...) {
      count = index + 1;  // the system gives no more threads: work with those there are
      break;
    }
    workers_.back().detach();
  }
  threads_.store(count, std::memory_order_relaxed);
}

bool ThreadPool::join_job(uint64_t* seen) {
  uint64_t state = state_.load(std::memory_order_acquire);
  if (!(state & 1) || state >> 16 == *seen) return false;
  *seen = state >> 16;
  while (state & 1 && state >> 16 == *seen)
    if (state_.compare_exchange_weak(state, state + 2, std::memory_order_acq_rel)) return true;
  return false;
}

void ThreadPool::take_chunks(int slot) {
  for (int k = 0; k < slots_; ++k) {
    Range& range = ranges_[static_cast<size_t>((slot + k) % slots_)];
    if (range.next.load(std::memory_order_relaxed) >= range.end) continue;  // read before it is written to
    for (int64_t i; (i = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;)
      body_(argument_, i);
  }
}

void ThreadPool::work(int index) {
  uint64_t seen = 0;
  for (;;) {
    auto deadline = std::chrono::steady_clock::now() + kSpinTime;
    for (int spins = 0;; ++spins) {
      if (index < threads() - 1 && join_job(&seen)) {
        // A woken worker is often put behind its caller, and stays there for 10 ms and more beside an idle
        // core.
        if (cpu_ >= 0 && own_cpu() == cpu_) leave_cpu(cpu_, threads());
        take_chunks(index + 1);
        state_.fetch_sub(2, std::memory_order_acq_rel);
        deadline = std::chrono::steady_clock::now() + kSpinTime;
        spins = 0;
      }
      pause();
      if ((spins & 63) == 63 && std::chrono::steady_clock::now() > deadline) break;
    }
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] {
      const uint64_t state = state_.load(std::memory_order_seq_cst);
      return index < threads() - 1 && (state & 1) && state >> 16 != seen;
    });
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void ThreadPool::run(int64_t chunks, void (*body)(void*, int64_t), void* argument) {
  if (chunks == 1 || threads() == 1 || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < chunks; ++i) body(argument, i);
    return;
  }
  body_ = body;
  argument_ = argument;
  cpu_ = own_cpu();
  slots_ = static_cast<int>(std::min<int64_t>(threads(), chunks));
  for (int slot = 0; slot < slots_; ++slot) {
    Range& range = ranges_[static_cast<size_t>(slot)];
    range.next.store(slot * chunks / slots_, std::memory_order_relaxed);
    range.end = (slot + 1) * chunks / slots_;
  }
  const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> 16) + 1;
  state_.store(epoch << 16 | 1, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  take_chunks(0);
  state_.fetch_and(~uint64_t{1}, std::memory_order_acq_rel);  // closed: nobody joins any more
  for (int spins = 0; state_.load(std::memory_order_acquire) & 0xfffe; ++spins) {
    if (spins < 2000)
      pause();
    else
      std::this_thread::yield();
  }
  busy_.store(false, std::memory_order_release);
}

}  // namespace roots
