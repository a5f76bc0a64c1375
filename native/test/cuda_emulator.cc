// The scheduler of test/cuda_emulator.h: fibers of one block, in turn, on the calling thread.
#include "test/cuda_emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches stacks with x86-64 assembly"
#endif

// Saves the callee-saved registers on this stack, its pointer in *from, and continues on `to`.
extern "C" void roots_fiber_switch(void** from, void* to);
__asm__(
    ".text\n"
    ".globl roots_fiber_switch\n"
    ".hidden roots_fiber_switch\n"
    ".type roots_fiber_switch,@function\n"
    "roots_fiber_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n");

namespace emulator {

Position now;

void fail(const char* words) {
  fprintf(stderr, "cuda emulator: %s (block %u,%u,%u)\n", words, now.block.x, now.block.y, now.block.z);
  abort();
}

namespace {

constexpr size_t kStack = 64 << 10;
constexpr int kWarpSize = 32;

enum class Wait { none, block, warp, turn };
constexpr int kMostTurns = 1 << 20;  // without any other progress

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  int thread = -1;  // parked at a barrier on behalf of this thread
  Wait wait = Wait::none;
};

struct Block {
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  int threads = 0, started = 0, finished = 0;
  std::vector<Fiber*> parked, idle;
  std::vector<int> live_in_warp, waiting_in_warp;
  int waiting = 0;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  unsigned char exchange[2][64][kWarpSize][64];  // by parity, so that one barrier per exchange is enough
  std::vector<int> parity;
};
// Never destroyed: fibers outlive static destructors, which would leave them unreachable, leaks to a
// sanitizer.
Block& g = *new Block;
std::vector<unsigned char>& g_shared = *new std::vector<unsigned char>;

void set_thread(int t) {
  const unsigned x = now.block_size.x, y = now.block_size.y, u = static_cast<unsigned>(t);
  now.thread = dim3(u % x, u / x % y, u / x / y);
}

int thread_index() {
  return static_cast<int>(now.thread.x + now.block_size.x * (now.thread.y + now.block_size.y * now.thread.z));
}

// A fiber runs threads that have not started until there are none, then goes idle.
void fiber_main() {
  for (;;) {
    while (g.started < g.threads) {
      const int t = g.started++;
      set_thread(t);
      g.current->thread = t;
      g.body(g.argument);
      ++g.finished;
      --g.live_in_warp[static_cast<size_t>(g.current->thread / kWarpSize)];
    }
    Fiber* self = g.current;
    g.idle.push_back(self);
    roots_fiber_switch(&self->stack_pointer, g.scheduler);
  }
}

Fiber* new_fiber() {
  auto* f = new Fiber;
  f->stack = static_cast<unsigned char*>(
      mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (f->stack == MAP_FAILED) fail("no memory for a stack");
  void** top = reinterpret_cast<void**>(f->stack + kStack);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f->stack_pointer = top;
  return f;
}

void resume(Fiber* f) {
  g.current = f;
  if (f->thread >= 0 && f->wait != Wait::none) {
    f->wait = Wait::none;
    set_thread(f->thread);
  }
  roots_fiber_switch(&g.scheduler, f->stack_pointer);
}

void park(Wait wait) {
  Fiber* self = g.current;
  self->wait = wait;
  g.parked.push_back(self);
  roots_fiber_switch(&self->stack_pointer, g.scheduler);
}

void run_block() {
  g.started = g.finished = g.waiting = 0;
  const auto warps = static_cast<size_t>((g.threads + kWarpSize - 1) / kWarpSize);
  if (warps > 64) fail("more than 2048 threads in a block");
  g.live_in_warp.assign(warps, kWarpSize);
  g.live_in_warp.back() = g.threads - static_cast<int>(warps - 1) * kWarpSize;
  g.waiting_in_warp.assign(warps, 0);
  g.parity.assign(warps, 0);
  int turns = 0;
  while (g.finished < g.threads) {
    if (g.started < g.threads) {
      Fiber* f;
      if (g.idle.empty()) {
        f = new_fiber();
      } else {
        f = g.idle.back();
        g.idle.pop_back();
      }
      f->thread = -1;
      resume(f);
      continue;
    }
    // everyone has started: release whole warps first, then the block
    std::vector<Fiber*> ready;
    for (size_t w = 0; w < warps; ++w)
      if (g.waiting_in_warp[w] > 0 && g.waiting_in_warp[w] == g.live_in_warp[w]) {
        g.waiting_in_warp[w] = 0;
        g.parity[w] ^= 1;
        std::vector<Fiber*> rest;
        for (Fiber* f : g.parked)
          (f->wait == Wait::warp && f->thread / kWarpSize == static_cast<int>(w) ? ready : rest).push_back(f);
        g.parked.swap(rest);
      }
    if (ready.empty() && g.waiting > 0 && g.waiting == g.threads - g.finished) {
      g.waiting = 0;
      ready.swap(g.parked);
    }
    // those who wait for memory: in an order that changes from turn to turn
    if (ready.empty() && turns < kMostTurns) {
      std::vector<Fiber*> rest;
      for (Fiber* f : g.parked) (f->wait == Wait::turn ? ready : rest).push_back(f);
      g.parked.swap(rest);
      if (!ready.empty())
        std::rotate(ready.begin(), ready.begin() + ++turns * 7919 % static_cast<int>(ready.size()),
                    ready.end());
    } else {
      turns = 0;
    }
    if (ready.empty()) fail("a barrier or a shuffle that some threads never reach");
    for (Fiber* f : ready) resume(f);
  }
}

}  // namespace

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* argument) {
  // several environments launch from threads of their own; a GPU's stream takes one kernel after the other
  static std::mutex& one_at_a_time = *new std::mutex;
  const std::lock_guard lock(one_at_a_time);
  if (block.x * block.y * block.z > 1024) fail("more than 1024 threads in a block");
  if (shared_bytes > 232448) fail("more shared memory than any GPU has");
  now.grid_size = grid;
  now.block_size = block;
  g.body = body;
  g.argument = argument;
  g.threads = static_cast<int>(block.x * block.y * block.z);
  g_shared.resize(shared_bytes + 1024);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        now.block = dim3(x, y, z);
        memset(g_shared.data(), 0xff, g_shared.size());  // NaN: shared memory starts undefined
        run_block();
      }
}

unsigned char* dynamic_shared() {
  const auto address = reinterpret_cast<uintptr_t>(g_shared.data());
  return reinterpret_cast<unsigned char*>((address + 1023) / 1024 * 1024);
}

void block_barrier() {
  ++g.waiting;
  park(Wait::block);
}

void yield() { park(Wait::turn); }

int lane() { return thread_index() % kWarpSize; }

const unsigned char* gather(const void* value, size_t bytes) {
  const int t = thread_index();
  const auto w = static_cast<size_t>(t / kWarpSize);
  const int parity = g.parity[w];
  memcpy(g.exchange[parity][w][t % kWarpSize], value, bytes);
  ++g.waiting_in_warp[w];
  park(Wait::warp);
  return g.exchange[parity][w][0];
}

void exchange(void* value, size_t bytes, int from) {
  const unsigned char* all = gather(value, bytes);
  memcpy(value, all + from * 64, bytes);
}

}  // namespace emulator
