// What else a kernel receives besides its tensors: threads and scratch memory, as plain function pointers,
// so that kernels depend neither on the runtime nor on the C++ library.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace roots {

struct Context {
  void* host;
  // Runs body(argument, chunk) for every chunk in [0, chunks), in any order, on any thread; returns when all
  // are done. Chunk borders must depend on the problem only, never on the number of threads.
  void (*run_chunks)(void* host, int64_t chunks, void (*body)(void*, int64_t), void* argument);
  // Memory of the calling thread, 64-byte aligned, valid until the same thread asks for the same slot again.
  // Slots let a kernel hold several buffers. nullptr when the system has none.
  void* (*scratch)(void* host, int32_t slot, size_t bytes);
  // Shared memory for the duration of one kernel call (the queue runs kernels one at a time).
  void* (*workspace)(void* host, int32_t slot, size_t bytes);

  template <class Body>
  inline __attribute__((always_inline)) void parallel_for(int64_t chunks, const Body& body) const {
    if (chunks <= 0) return;
    if (chunks == 1) {
      body(static_cast<int64_t>(0));
      return;
    }
    run_chunks(
        host, chunks, [](void* b, int64_t i) { (*static_cast<const Body*>(b))(i); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }
};

}  // namespace roots
