// A stretch of the queue sent to the GPU as one graph: the launches between two marks are captured instead of
// executed, and sent together at the second mark. A stretch that comes again, a training step or a decoded
// token, is captured again and updates the graph it made the first time, so arguments may change freely; other
// kernels or another number of them make a new one. What is saved is the time between kernels and most of the
// cost of each launch (CUDA Programming Guide, "CUDA Graphs").
//
// Copies to and from the host cannot be captured: they send what was captured so far as a piece of its own.
// Behind ROOTS_CUDA_GRAPHS=1: it has not run on a GPU yet.
#pragma once

#include "core/status.h"
#include "cuda/platform.cuh"
#if defined(ROOTS_CUDA_EMULATED)
#include <functional>
#endif

namespace roots {
namespace cuda {
#pragma GCC visibility push(hidden)

bool graphs_wanted();

// Stretches of one key are the same kernels again. Marks may be nested, also by several environments: the
// outermost count.
Status graph_mark(int64_t key, int32_t begin);
// Graphs sent, and how many of them had to be made anew.
void graph_counts(int64_t* sent, int64_t* made);

// Keeps launches of other threads out, so that nothing overtakes what is captured.
class GraphLock {
 public:
  GraphLock();
  ~GraphLock();
  GraphLock(const GraphLock&) = delete;
  GraphLock& operator=(const GraphLock&) = delete;
};

// For its lifetime the stream executes; what was captured before has been sent.
class GraphPause {
 public:
  GraphPause();
  ~GraphPause();
  Status status() const { return status_; }

 private:
  GraphLock lock_;
  Status status_ = nullptr;
};

#if defined(ROOTS_CUDA_EMULATED)
// False when nothing is being captured: the caller runs it at once.
bool graph_record(std::function<void()> work);
#endif

#pragma GCC visibility pop
}  // namespace cuda
}  // namespace roots
