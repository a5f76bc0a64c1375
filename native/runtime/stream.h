// Work in order. Kernels are queued and run on the stream's own thread, so the JavaScript thread only
// describes them; ROOTS_STREAM=inline runs each at once on the caller instead, which puts a native stack
// under the guilty line.
//
// One producer (the thread of one Node environment). Errors stay in the stream until the next read.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/context.h"
#include "core/status.h"

namespace roots {

class Task {
 public:
  virtual ~Task() = default;  // releases what the task holds
  virtual Status run(const Context& context) = 0;
  virtual const char* name() const = 0;
};

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Takes the task; waits for room when the queue is full.
  void submit(std::unique_ptr<Task> task);
  // Whether everything submitted has run. For the producer.
  bool idle() const {
    return completed_.load(std::memory_order_acquire) == submitted_.load(std::memory_order_relaxed);
  }
  // On an idle stream: runs `kernel(context)` on the caller, with errors kept as for a task.
  template <class Kernel>
  void run_here(const char* name, const Kernel& kernel) {
    if (!stopping_.load(std::memory_order_relaxed)) keep_error(name, kernel(context_));
  }
  // Waits until everything submitted has run.
  void synchronize();
  // The first error since the last call, as "kernel: words", or empty.
  std::string take_error();
  bool runs_inline() const { return inline_; }
  // Finishes the kernel that runs, discards the rest, ends the thread.
  void stop();

 private:
  void work();
  void keep_error(const char* name, Status status);

  static constexpr uint64_t kCapacity =
      4096;  // tasks: enough to run ahead of the device, few enough to bound memory

  const bool inline_;
  Context context_;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;

  std::vector<Task*> ring_;
  std::atomic<uint64_t> submitted_{0};
  std::atomic<uint64_t> completed_{0};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> waiting_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::mutex error_mutex_;
  std::string error_;
  std::thread thread_;
};

}  // namespace roots
