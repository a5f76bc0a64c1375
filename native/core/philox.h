// Counter-based random numbers: Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). Four numbers depend on (seed, counter) alone, on every device.
#pragma once

#include <stdint.h>

#include "core/portable.h"

namespace roots {
namespace {

struct Philox {
  uint32_t lane[4];
};

ROOTS_PORTABLE Philox philox(uint64_t seed, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// In [0, 1): 24 bits, so that the value is exact in float and below 1.
ROOTS_PORTABLE double unit(uint32_t bits) { return static_cast<double>(bits >> 8) * (1.0 / 16777216.0); }

}  // namespace
}  // namespace roots
