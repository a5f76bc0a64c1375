// Tile registers without the processor: what native/cpu/gemm/amx.h uses of them, as the manual of the
// instruction set defines it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), eight
// whole tiles for each thread. Included before every line of that level's kernels with
// -DROOTS_AVX512_EMULATED=ON.
#pragma once

#include <stdint.h>
#include <string.h>

#include "test/avx512_emulated.h"

namespace emulated {
namespace {

struct Tile {
  unsigned char rows[16][64];
};
thread_local Tile tiles[8];

[[maybe_unused]] inline void tile_load(int t, const void* from, int64_t stride) {
  for (int r = 0; r < 16; ++r) memcpy(tiles[t].rows[r], static_cast<const char*>(from) + r * stride, 64);
}
[[maybe_unused]] inline void tile_store(int t, void* to, int64_t stride) {
  for (int r = 0; r < 16; ++r) memcpy(static_cast<char*>(to) + r * stride, tiles[t].rows[r], 64);
}
[[maybe_unused]] inline void tile_zero(int t) { tiles[t] = {}; }

// C += A B: row m of A holds groups of `Group` neighbouring k; line k of B as many for each of 16 columns.
template <class Sum, class Element, int Group, class Product>
[[maybe_unused]] void tile_dot(int c, int a, int b, const Product& product) {
  for (int m = 0; m < 16; ++m) {
    Sum sums[16];
    Element x[16 * Group];
    memcpy(sums, tiles[c].rows[m], 64);
    memcpy(x, tiles[a].rows[m], 64);
    for (int k = 0; k < 16; ++k) {
      Element y[16 * Group];
      memcpy(y, tiles[b].rows[k], 64);
      for (int n = 0; n < 16; ++n)
        for (int e = 0; e < Group; ++e) sums[n] = product(sums[n], x[k * Group + e], y[n * Group + e]);
    }
    memcpy(tiles[c].rows[m], sums, 64);
  }
}
[[maybe_unused]] inline void tile_dot_i8(int c, int a, int b) {
  tile_dot<int32_t, int8_t, 4>(c, a, b, [](int32_t sum, int8_t x, int8_t y) {
    return static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(x * y));
  });
}
[[maybe_unused]] inline void tile_dot_bf16(int c, int a, int b) {
  tile_dot<float, uint16_t, 2>(c, a, b, [](float sum, uint16_t x, uint16_t y) {
    return flushed(__builtin_fmaf(from_bf16(x), from_bf16(y), flushed(sum)));
  });
}

}  // namespace
}  // namespace emulated
