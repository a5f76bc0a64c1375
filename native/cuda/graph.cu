// Capturing, updating and sending graphs (graph.cuh), and the same order of events where the GPU is emulated.
#include "cuda/graph.cuh"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/launch.cuh"
#if defined(ROOTS_CUDA_EMULATED)
#include <utility>
#include <vector>
#endif

namespace roots {
namespace cuda {
namespace {

#if defined(ROOTS_CUDA_EMULATED)
using Executable = size_t;  // the number of launches: all that tells one emulated graph from another
#else
using Executable = cudaGraphExec_t;
#endif

// One piece of the stretches of a key, as it was made last.
struct Made {
  int64_t key;
  int piece;
  Executable executable;
  uint64_t used;  // when; 0: a free place
};

constexpr int kMost = 32;

struct Graphs {
  pthread_mutex_t mutex;
  int depth = 0;  // of marks
  int64_t key = 0;
  int piece = 0;
  Status failure = nullptr;  // of beginning to capture again, told by the next mark
  Made made[kMost] = {};
  uint64_t clock = 0;
  int64_t sent_count = 0, made_count = 0;
#if defined(ROOTS_CUDA_EMULATED)
  std::vector<std::function<void()>> recorded;
#endif
  Graphs() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
};
Graphs g;

#if defined(ROOTS_CUDA_EMULATED)

Status capture() { return nullptr; }
void forget(Executable&) {}

struct Captured {
  std::vector<std::function<void()>> work;
  Status end() {
    work.swap(g.recorded);
    return nullptr;
  }
  bool empty() const { return work.empty(); }
  bool update(Executable& executable) const { return executable == work.size(); }
  Status make(Executable& executable) const {
    executable = work.size();
    return nullptr;
  }
  Status send(Executable&) const {
    for (const auto& launch : work) launch();
    return nullptr;
  }
};

#else

Status words_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// Relaxed: a piece may be ended by another thread, and memory be had, while launches are captured.
Status capture() { return words_of(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed)); }

void forget(Executable& executable) {
  cudaStreamSynchronize(stream());  // it may still run
  cudaGraphExecDestroy(executable);
  executable = nullptr;
}

struct Captured {
  cudaGraph_t graph = nullptr;
  size_t nodes = 0;
  ~Captured() {
    if (graph) cudaGraphDestroy(graph);
  }
  Status end() {
    cudaError_t error = cudaStreamEndCapture(stream(), &graph);
    if (error == cudaSuccess) error = cudaGraphGetNodes(graph, nullptr, &nodes);
    return words_of(error);
  }
  bool empty() const { return nodes == 0; }
  bool update(Executable& executable) const {
    cudaGraphExecUpdateResultInfo info;
    if (cudaGraphExecUpdate(executable, graph, &info) == cudaSuccess) return true;
    cudaGetLastError();  // another shape: not an error
    return false;
  }
  Status make(Executable& executable) const {
    return words_of(cudaGraphInstantiate(&executable, graph, 0));
  }
  Status send(Executable& executable) const { return words_of(cudaGraphLaunch(executable, stream())); }
};

#endif

// Where the current piece was made last, else the place that was not used for longest.
Made* place() {
  Made* best = g.made;
  for (Made& m : g.made) {
    if (m.used && m.key == g.key && m.piece == g.piece) return &m;
    if (m.used < best->used) best = &m;
  }
  if (best->used) forget(best->executable);
  *best = {g.key, g.piece, {}, 0};
  return best;
}

// Ends the piece that is being captured and sends it.
Status send() {
  Captured captured;
  if (const Status status = captured.end()) return status;
  if (captured.empty()) return nullptr;
  Made* made = place();
  ++g.piece;
  const bool again = made->used != 0;
  if (!again || !captured.update(made->executable)) {
    if (again) forget(made->executable);
    made->used = 0;
    if (const Status status = captured.make(made->executable)) return status;
    ++g.made_count;
  }
  made->used = ++g.clock;
  ++g.sent_count;
  return captured.send(made->executable);
}

Status take_failure() {
  const Status status = g.failure;
  g.failure = nullptr;
  return status;
}

}  // namespace

bool graphs_wanted() {
  static const bool wanted = [] {
    const char* word = getenv("ROOTS_CUDA_GRAPHS");
    return word && strcmp(word, "1") == 0;
  }();
  return wanted;
}

GraphLock::GraphLock() {
  if (graphs_wanted()) pthread_mutex_lock(&g.mutex);
}
GraphLock::~GraphLock() {
  if (graphs_wanted()) pthread_mutex_unlock(&g.mutex);
}

GraphPause::GraphPause() {
  if (g.depth > 0) status_ = send();
}
GraphPause::~GraphPause() {
  if (g.depth == 0) return;
  const Status status = capture();
  if (status && !g.failure) g.failure = status;
}

Status graph_mark(int64_t key, int32_t begin) {
  if (!graphs_wanted()) return nullptr;
  const GraphLock lock;
  if (begin) {
    if (g.depth++ > 0) return nullptr;
    g.key = key;
    g.piece = 0;
    const Status status = capture();
    if (status) g.depth = 0;  // kernels are launched one by one
    return status;
  }
  if (g.depth == 0 || --g.depth > 0) return nullptr;
  const Status status = send(), before = take_failure();
  return before ? before : status;
}

void graph_counts(int64_t* sent, int64_t* made) {
  const GraphLock lock;
  *sent = g.sent_count;
  *made = g.made_count;
}

#if defined(ROOTS_CUDA_EMULATED)
bool graph_record(std::function<void()> work) {
  const GraphLock lock;
  if (g.depth == 0) return false;
  g.recorded.push_back(std::move(work));
  return true;
}
#endif

}  // namespace cuda
}  // namespace roots
