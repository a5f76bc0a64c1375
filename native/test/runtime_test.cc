// The parts of runtime/ that TypeScript cannot reach precisely: allocator arithmetic, the pool under
// contention, the stream's order and errors. Exits 1 with the line of the first failure. Runs under ASan and
// TSan too.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__linux__)
#include <sched.h>
#endif

#include "runtime/allocator.h"
#include "runtime/backends.h"
#include "runtime/external_memory.h"
#include "runtime/storage.h"
#include "runtime/stream.h"
#include "runtime/thread_pool.h"

namespace {

int g_failures = 0;
#define EXPECT(condition)                                         \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++g_failures;                                               \
    }                                                             \
  } while (0)

// What V8 is told never sums up to less than nothing, nor strays from what there is.
void external_memory() {
  using roots::ExternalMemory;
  ExternalMemory memory;
  std::vector<int64_t> live;
  int64_t told = 0, held = 0;
  uint32_t random = 1;
  for (int i = 0; i < 200000; ++i) {
    random = random * 1664525 + 1013904223;
    const uint32_t dice = random >> 24;
    // phases of growth and of collection, small and large tensors
    if (live.empty() || dice % 8 < (i / 5000 % 2 == 0 ? 5u : 2u)) {
      const int64_t bytes = dice % 3 == 0 ? (random >> 8 & 0xffffff) : (random >> 8 & 0x3fff);
      live.push_back(bytes);
      held += bytes;
      told += memory.allocated(bytes);
    } else {
      const int64_t bytes = live.back();
      live.pop_back();
      held -= bytes;
      told += dice & 8 ? memory.collected(bytes) : memory.disposed(bytes);
    }
    if (dice == 0) told += memory.settle();
    EXPECT(told >= 0);
    EXPECT(told > held - ExternalMemory::kPortion);
    EXPECT(told < held + ExternalMemory::kPortion + ExternalMemory::kMostInAdvance);
  }
  told += memory.settle();
  EXPECT(told > held - ExternalMemory::kPortion && told < held + ExternalMemory::kPortion);
  told += memory.forget();
  EXPECT(told == 0);
  EXPECT(memory.allocated(int64_t{1} << 24) == 0 && memory.collected(int64_t{1} << 24) == 0);
}

void allocator() {
  using roots::size_class;
  EXPECT(size_class(0) == 64 && size_class(64) == 64 && size_class(65) == 128);
  for (size_t n = 1; n < 5000000; n = n * 9 / 8 + 1) {
    EXPECT(size_class(n) >= n && size_class(n) % 64 == 0);
    EXPECT(n < 512 || size_class(n) <= n + n / 8 + 64);
    EXPECT(size_class(size_class(n)) == size_class(n));
  }
  roots::Allocator a(roots::device(0).backend, 0);
  a.set_limit(1 << 20);
  size_t rounded = 0;
  void* p = a.allocate(1000, &rounded);
  EXPECT(rounded == size_class(1000));
  EXPECT(p && a.stats().live_bytes == 1000 && a.stats().live_blocks == 1);
  EXPECT(a.allocate(size_t{1} << 20, &rounded) == nullptr);
  EXPECT(a.allocate(SIZE_MAX, &rounded) == nullptr && a.allocate(SIZE_MAX / 2, &rounded) == nullptr);
  a.count_out(1000);
  a.recycle(p, size_class(1000));
  EXPECT(a.stats().live_bytes == 0 && a.stats().cached_bytes == 1024);
  EXPECT(a.allocate(1001, &rounded) == p);  // the same class, from the cache
  a.count_out(1001);
  a.recycle(p, size_class(1001));
  a.drop_cache();
  EXPECT(a.stats().cached_bytes == 0 && a.stats().peak_bytes == 1001);

  // Large blocks: a cached one of up to 3/8 more is taken; beyond that, it goes back rather than stay beside
  // a new one.
  constexpr size_t kMega = size_t{1} << 20;
  a.set_limit(int64_t{1} << 40);
  void* big = a.allocate(384 * kMega, &rounded);
  EXPECT(big && rounded == size_class(384 * kMega));
  a.count_out(384 * kMega);
  a.recycle(big, rounded);
  EXPECT(a.stats().cached_bytes == static_cast<int64_t>(rounded));
  void* reused = a.allocate(300 * kMega, &rounded);
  EXPECT(reused == big && rounded == size_class(384 * kMega) && a.stats().cached_bytes == 0);
  a.count_out(300 * kMega);
  a.recycle(reused, rounded);
  void* other = a.allocate(100 * kMega, &rounded);
  EXPECT(other && rounded == size_class(100 * kMega) && a.stats().cached_bytes == 0);
  a.count_out(100 * kMega);
  a.recycle(other, rounded);
  a.drop_cache();
}

void pool() {
  auto& pool = roots::ThreadPool::instance();
  for (int threads : {1, 2, 3, 7}) {
    pool.set_threads(threads);
    for (int round = 0; round < 2000; ++round) {
      std::atomic<int64_t> sum{0};
      const int64_t chunks = 1 + round % 17;
      pool.run(
          chunks, [](void* s, int64_t i) { static_cast<std::atomic<int64_t>*>(s)->fetch_add(i + 1); }, &sum);
      EXPECT(sum == chunks * (chunks + 1) / 2);
    }
  }
  // Several callers at once: one has the pool, the others work alone.
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int round = 0; round < 500; ++round)
        pool.run(8, [](void* s, int64_t) { static_cast<std::atomic<int64_t>*>(s)->fetch_add(1); }, &total);
    });
  for (auto& c : callers) c.join();
  EXPECT(total == 4 * 500 * 8);
}

#if defined(__linux__)
// Workers leave the core of their caller, and stay free to run anywhere.
void cores() {
  auto& pool = roots::ThreadPool::instance();
  pool.set_threads(2);
  struct Job {
    cpu_set_t all;
    std::thread::id caller = std::this_thread::get_id();
    std::atomic<int> bound{0};
  } job;
  EXPECT(sched_getaffinity(0, sizeof job.all, &job.all) == 0);
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &here);
  EXPECT(sched_setaffinity(0, sizeof here, &here) == 0);
  for (int round = 0; round < 2000; ++round)
    pool.run(
        8,
        [](void* argument, int64_t) {
          auto* j = static_cast<Job*>(argument);
          cpu_set_t own;
          if (std::this_thread::get_id() == j->caller) return;
          if (sched_getaffinity(0, sizeof own, &own) != 0 || !CPU_EQUAL(&own, &j->all)) j->bound.fetch_add(1);
        },
        &job);
  EXPECT(job.bound == 0);
  EXPECT(sched_setaffinity(0, sizeof job.all, &job.all) == 0);
}
#endif

class Count final : public roots::Task {
 public:
  Count(std::vector<int>* order, int id, const char* error) : order_(order), id_(id), error_(error) {}
  roots::Status run(const roots::Context&) override {
    order_->push_back(id_);
    return error_;
  }
  const char* name() const override { return "count"; }

 private:
  std::vector<int>* order_;
  int id_;
  const char* error_;
};

void stream() {
  for (int round = 0; round < 20; ++round) {
    std::vector<int> order;
    roots::Stream s;
    for (int i = 0; i < 10000; ++i)
      s.submit(std::make_unique<Count>(&order, i, i == 5 ? "on purpose" : nullptr));
    s.synchronize();
    EXPECT(order.size() == 10000);
    for (int i = 0; i < 10000 && i < static_cast<int>(order.size()); ++i) EXPECT(order[i] == i);
    EXPECT(s.take_error() == "count: on purpose");
    EXPECT(s.take_error().empty());
  }
  // Stopped with work queued: what has not run is released, not run.
  std::vector<int> order;
  {
    roots::Stream s;
    for (int i = 0; i < 3000; ++i) s.submit(std::make_unique<Count>(&order, i, nullptr));
  }
  EXPECT(order.size() <= 3000);
}

}  // namespace

int main() {
  external_memory();
  allocator();
  pool();
#if defined(__linux__)
  cores();
#endif
  stream();
  if (g_failures == 0) std::printf("runtime_test: passed\n");
  return g_failures == 0 ? 0 : 1;
}
