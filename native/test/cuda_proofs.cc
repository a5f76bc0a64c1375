// Proofs for the kernels for Hopper that need no GPU: index maps are bijections, and no interleaving of
// loader, copies and multipliers deadlocks or reads a tile that is not there.
#define ROOTS_CUDA_EMULATED
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/gemm/sm90.cuh"
#include "test/cuda_emulator.cc"

namespace {

using namespace roots::cuda;

int g_failures = 0;
void expect(bool ok, const std::string& what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  ++g_failures;
}

void index_maps() {
  std::set<uint32_t> bytes;
  for (uint32_t a = 0; a < 4096; ++a) {
    expect(hopper::swizzle(a) / 128 == a / 128 && hopper::swizzle(a) % 16 == a % 16,
           "swizzle keeps rows and chunks");
    bytes.insert(hopper::swizzle(a));
  }
  expect(bytes.size() == 4096, "swizzle is a bijection");
  // eight rows of one column of chunks lie in eight different chunks: no bank conflicts
  for (uint32_t chunk = 0; chunk < 8; ++chunk) {
    std::set<uint32_t> banks;
    for (uint32_t row = 0; row < 8; ++row) banks.insert(hopper::swizzle(row * 128 + chunk * 16) % 128);
    expect(banks.size() == 8, "eight rows touch all banks");
  }
  std::set<int> sums;
  for (int t = 0; t < hopper::kWarpGroup; ++t)
    for (int i = 0; i < 128; ++i)
      sums.insert(hopper::sum_row(t, i % 4) * 1000 + hopper::sum_column(t, i / 4, i % 4));
  expect(sums.size() == 64 * 256, "every sum of a warp group has one owner");
  uint32_t random = 1;
  for (int round = 0; round < 300; ++round) {
    random = random * 1664525u + 1013904223u;
    const int64_t m = 1 + random % 37, n = 1 + random / 64 % 29;
    std::set<int64_t> tiles;
    for (int64_t i = 0; i < m * n; ++i) {
      int64_t tm, tn;
      sm90::tile_of(i, m, n, &tm, &tn);
      expect(tm >= 0 && tm < m && tn >= 0 && tn < n, "a tile inside the matrix");
      tiles.insert(tm * n + tn);
    }
    expect(static_cast<int64_t>(tiles.size()) == m * n, "every tile once");
  }
}

// --- rings of tiles: one loader, the copies it starts, and two groups of consumers, in every order

struct Barrier {
  int expected, pending, copies;  // arrivals and copies still missing in this phase
  unsigned phase;
  void advance() {
    if (pending == 0 && copies == 0) {
      phase ^= 1;
      pending = expected;
    }
  }
  void arrive() {
    expect(pending > 0, "an arrival that is expected");
    --pending;
    advance();
  }
};

constexpr int kConsumers = 2, kMostStages = 4, kMostRings = 2;

struct Step {
  enum Kind { wait_empty, copy, wait_full, release } kind;
  int ring, tile;
};
struct Protocol {
  std::string name;
  int rings, stages, depth;
  std::vector<Step> loader, consumer;
};

Protocol gemm_protocol(int stages, int depth) {
  Protocol p{"gemm/sm90.cuh", 1, stages, depth, {}, {}};
  for (int i = 0; i < depth; ++i) {
    p.loader.push_back({Step::wait_empty, 0, i});
    p.loader.push_back({Step::copy, 0, i});
    p.consumer.push_back({Step::wait_full, 0, i});
    // the products of the tile before have ended
    if (i > 0) p.consumer.push_back({Step::release, 0, i - 1});
  }
  return p;
}

// Keys in one ring, values in the other.
Protocol attention_protocol(int stages, int depth) {
  Protocol p{"attention_sm90.cuh", 2, stages, depth, {}, {}};
  for (int t = 0; t < depth; ++t) {
    for (int ring = 0; ring < 2; ++ring) {
      p.loader.push_back({Step::wait_empty, ring, t});
      p.loader.push_back({Step::copy, ring, t});
    }
    p.consumer.push_back({Step::wait_full, 0, t});
    if (t > 0) p.consumer.push_back({Step::wait_full, 1, t - 1});
    p.consumer.push_back({Step::release, 0, t});
    if (t > 0) p.consumer.push_back({Step::release, 1, t - 1});
  }
  p.consumer.push_back({Step::wait_full, 1, depth - 1});
  return p;
}

// As the product, or without the overlap of neighbouring tiles.
Protocol gradient_protocol(int stages, int depth) {
  Protocol p{"attention_sm90_backward.cuh", 1, stages, depth, {}, {}};
  for (int t = 0; t < depth; ++t) {
    p.loader.push_back({Step::wait_empty, 0, t});
    p.loader.push_back({Step::copy, 0, t});
    p.consumer.push_back({Step::wait_full, 0, t});
    p.consumer.push_back({Step::release, 0, t});
  }
  return p;
}

// Everything that decides what may happen next.
struct State {
  Barrier full[kMostRings][kMostStages], empty[kMostRings][kMostStages];
  int content[kMostRings][kMostStages], flying[kMostRings][kMostStages];  // the tile there; -1: none
  int loader, consumer[kConsumers];                                       // steps taken

  std::string key() const { return std::string(reinterpret_cast<const char*>(this), sizeof *this); }
};

struct Model {
  Protocol protocol;
  std::set<std::string> seen = {};
  bool fine = true;

  void wrong(const char* what) {
    if (fine)
      expect(false, protocol.name + ": " + what + ", stages " + std::to_string(protocol.stages) + ", depth " +
                        std::to_string(protocol.depth));
    fine = false;
  }

  // Whether a consumer that has taken `steps` will not read a tile any more.
  bool released(const Step& tile, int steps) const {
    for (int i = 0; i < steps; ++i) {
      const Step& s = protocol.consumer[static_cast<size_t>(i)];
      if (s.kind == Step::release && s.ring == tile.ring && s.tile == tile.tile) return true;
    }
    return false;
  }

  // Takes a step of the loader if it can.
  bool load(const Step& step, State* s) {
    const int p = hopper::place_of(step.tile, protocol.stages);
    if (step.kind == Step::wait_empty)
      return s->empty[step.ring][p].phase != hopper::empty_phase(step.tile, protocol.stages);
    if (step.tile >= protocol.stages)
      for (const int steps : s->consumer)
        if (!released({Step::copy, step.ring, step.tile - protocol.stages}, steps))
          wrong("a tile overwritten while it is read");
    if (s->flying[step.ring][p] >= 0) wrong("two copies to one place");
    ++s->full[step.ring][p].copies;
    s->full[step.ring][p].arrive();
    s->flying[step.ring][p] = step.tile;
    s->content[step.ring][p] = -1;
    return true;
  }
  bool consume(const Step& step, State* s) {
    const int p = hopper::place_of(step.tile, protocol.stages);
    if (step.kind == Step::release) {
      s->empty[step.ring][p].arrive();
      return true;
    }
    if (s->full[step.ring][p].phase == hopper::full_phase(step.tile, protocol.stages)) return false;
    if (s->content[step.ring][p] != step.tile) wrong("a tile read that is not there");
    return true;
  }

  void explore(const State& start) {
    std::vector<State> open{start};
    while (!open.empty() && fine) {
      const State s = open.back();
      open.pop_back();
      if (!seen.insert(s.key()).second) continue;
      const size_t before = open.size();
      const auto loader_steps = static_cast<int>(protocol.loader.size()),
                 consumer_steps = static_cast<int>(protocol.consumer.size());
      bool flying = false, consumed = true;
      if (s.loader < loader_steps) {
        State next = s;
        if (load(protocol.loader[static_cast<size_t>(s.loader)], &next)) {
          ++next.loader;
          open.push_back(next);
        }
      }
      for (int r = 0; r < protocol.rings; ++r)
        for (int p = 0; p < protocol.stages; ++p)
          if (s.flying[r][p] >= 0) {
            State next = s;
            next.content[r][p] = s.flying[r][p];
            next.flying[r][p] = -1;
            --next.full[r][p].copies;
            next.full[r][p].advance();
            open.push_back(next);
            flying = true;
          }
      for (int c = 0; c < kConsumers; ++c) {
        if (s.consumer[c] == consumer_steps) continue;
        consumed = false;
        State next = s;
        if (consume(protocol.consumer[static_cast<size_t>(s.consumer[c])], &next)) {
          ++next.consumer[c];
          open.push_back(next);
        }
      }
      if (consumed && (flying || s.loader < loader_steps)) wrong("a copy after the last reader has left");
      if (open.size() == before && !(consumed && s.loader == loader_steps)) wrong("a deadlock");
    }
  }
};

void barriers() {
  for (const auto& [make, most_stages, most_depth] :
       {std::tuple(&gemm_protocol, 4, 9), std::tuple(&attention_protocol, 3, 6),
        std::tuple(&gradient_protocol, 3, 7)}) {
    size_t states = 0;
    for (int stages = 2; stages <= most_stages; ++stages)
      for (int depth = 1; depth <= most_depth; ++depth) {
        Model model{make(stages, depth)};
        State start;
        memset(static_cast<void*>(&start), 0, sizeof start);
        for (int r = 0; r < kMostRings; ++r)
          for (int p = 0; p < kMostStages; ++p) {
            start.full[r][p] = {1, 1, 0, 0};
            start.empty[r][p] = {kConsumers, kConsumers, 0, 0};
            start.content[r][p] = start.flying[r][p] = -1;
          }
        model.explore(start);
        states += model.seen.size();
      }
    std::printf("barriers of %s: %zu states of 2 to %d stages and 1 to %d tiles\n", make(2, 1).name.c_str(),
                states, most_stages, most_depth);
  }
}

}  // namespace

int main() {
  index_maps();
  barriers();
  if (g_failures == 0) std::printf("all proofs hold\n");
  return g_failures == 0 ? 0 : 1;
}
