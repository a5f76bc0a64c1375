// The process's worker threads. A job is a number of chunks; the caller works too and never waits for a
// worker that has not joined the job, so a busy machine slows it in proportion and no more. Each thread
// begins with a range of its own, the same share of every job, so that what it wrote in one is in its cache
// in the next; then it takes what is left of the others' ranges.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace roots {

class ThreadPool {
 public:
  // The one pool of this process, made on first use and never destroyed (threads outlive static destructors).
  static ThreadPool& instance();

  // Threads that work on a job, the caller included.
  int threads() const { return threads_.load(std::memory_order_relaxed); }
  void set_threads(int count);

  // Runs body(argument, i) for all i in [0, chunks). Runs everything on the caller when the pool is already
  // busy with the job of another thread.
  void run(int64_t chunks, void (*body)(void*, int64_t), void* argument);

 private:
  ThreadPool();
  void work(int index);
  bool join_job(uint64_t* seen);
  void take_chunks(int slot);

  // state: epoch << 16 | active workers << 1 | open
  std::atomic<uint64_t> state_{0};
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::unique_ptr<Range[]> ranges_;
  int slots_ = 0;  // of the job: ranges in use
  int cpu_ = -1;   // of the job: where its caller ran when it began
  void (*body_)(void*, int64_t) = nullptr;
  void* argument_ = nullptr;

  std::atomic<bool> busy_{false};
  std::atomic<int> threads_{1};
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace roots
