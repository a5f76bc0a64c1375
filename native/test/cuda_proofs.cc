// Proofs for native/cuda/gemm/sm90.cuh that need no GPU: its index maps are bijections, and no interleaving
// of loader, copies and multipliers deadlocks or reads a tile that is not there.
#define ROOTS_CUDA_EMULATED
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
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
    for (int i = 0; i < hopper::kSums; ++i)
      sums.insert(hopper::sum_row(t, i) * 1000 + hopper::sum_column(t, i));
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

// One barrier: arrivals and copies still missing in its phase.
struct Barrier {
  int expected, pending, copies;
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

constexpr int kConsumers = 2, kMostStages = 4;

// Everything that decides what may happen next.
struct State {
  Barrier full[kMostStages], empty[kMostStages];
  int content[kMostStages], flying[kMostStages];  // tile that lies there, or on its way; -1: none
  int loader, loader_step;
  int consumer[kConsumers], consumer_step[kConsumers];  // tile, and what is done with it

  std::string key() const { return std::string(reinterpret_cast<const char*>(this), sizeof *this); }
};

struct Model {
  int stages, depth;
  std::set<std::string> seen;
  bool fine = true;

  void wrong(const char* what) {
    if (fine)
      expect(false,
             std::string(what) + ", stages " + std::to_string(stages) + ", depth " + std::to_string(depth));
    fine = false;
  }

  // A place may be overwritten when every consumer has finished with the tile before.
  void check_overwrite(const State& s, int tile) {
    for (int c = 0; c < kConsumers; ++c) {
      // products of a tile may read it until those of the next one have been issued and waited for
      const int oldest = s.consumer[c] > 0 ? s.consumer[c] - 1 : 0;
      if (tile - stages >= oldest) wrong("a tile overwritten while it is read");
    }
  }

  void explore(State start) {
    std::vector<State> open{start};
    while (!open.empty() && fine) {
      const State s = open.back();
      open.pop_back();
      if (!seen.insert(s.key()).second) continue;
      const size_t before = open.size();
      bool done = s.loader == depth;
      if (s.loader < depth) {
        const int p = sm90::place_of(s.loader, stages);
        State next = s;
        if (s.loader_step == 0) {
          if (s.empty[p].phase != sm90::empty_phase(s.loader, stages)) {
            next.loader_step = 1;
            open.push_back(next);
          }
        } else {
          check_overwrite(s, s.loader);
          ++next.full[p].copies;
          next.full[p].arrive();
          if (s.flying[p] >= 0) wrong("two copies to one place");
          next.flying[p] = s.loader;
          next.content[p] = -1;
          ++next.loader;
          next.loader_step = 0;
          open.push_back(next);
        }
      }
      for (int p = 0; p < stages; ++p)
        if (s.flying[p] >= 0) {
          State next = s;
          next.content[p] = s.flying[p];
          next.flying[p] = -1;
          --next.full[p].copies;
          next.full[p].advance();
          open.push_back(next);
          done = false;
        }
      for (int c = 0; c < kConsumers; ++c) {
        const int i = s.consumer[c];
        if (i == depth) continue;
        done = false;
        const int p = sm90::place_of(i, stages);
        State next = s;
        if (s.consumer_step[c] == 0) {
          if (s.full[p].phase == sm90::full_phase(i, stages)) continue;
          if (s.content[p] != i) wrong("a tile read that is not there");
          next.consumer_step[c] = 1;
        } else {
          // the products of the tile before have ended
          if (i > 0) next.empty[sm90::place_of(i - 1, stages)].arrive();
          ++next.consumer[c];
          next.consumer_step[c] = 0;
        }
        open.push_back(next);
      }
      if (open.size() == before && !done) wrong("a deadlock");
    }
  }
};

void barriers() {
  size_t states = 0;
  for (int stages = 2; stages <= kMostStages; ++stages)
    for (int depth = 1; depth <= 9; ++depth) {
      Model model{stages, depth, {}, true};
      State start;
      memset(static_cast<void*>(&start), 0, sizeof start);
      for (int p = 0; p < kMostStages; ++p) {
        start.full[p] = {1, 1, 0, 0};
        start.empty[p] = {kConsumers, kConsumers, 0, 0};
        start.content[p] = start.flying[p] = -1;
      }
      model.explore(start);
      states += model.seen.size();
    }
  std::printf("barriers of gemm/sm90.cuh: %zu states of 2 to 4 stages and 1 to 9 tiles\n", states);
}

}  // namespace

int main() {
  index_maps();
  barriers();
  if (g_failures == 0) std::printf("all proofs hold\n");
  return g_failures == 0 ? 0 : 1;
}
