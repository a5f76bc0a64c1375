// Tile registers (AMX): products of 16 rows by 16 columns, 64 bytes deep. A tile of A is 16 rows of 64 bytes
// along k (32 bf16 or 64 int8); one of B is 16 lines of k, each 16 columns by 4 bytes: two neighbouring k of
// bf16, four of int8, which is how the panels of gemm/bf16.h and gemm/i8.h lie. Source: Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 1, chapter 18.
//
// A thread configures the registers before it uses them and gives them back, so that the system need not save
// them.
#pragma once

#include <stdint.h>

#include "cpu/isa.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kTileSide = 16;     // rows, and columns of 32 bits
constexpr int64_t kTileBytes = 1024;  // of a whole tile
constexpr int64_t kAmxRows = 32,
                  kAmxColumns = 32;  // of C at a time: four tiles, two of A and two of B beside them

#if defined(ROOTS_EMULATED_AMX)

template <int T>
ROOTS_INLINE void tile_load(const void* from, int64_t stride) {
  emulated::tile_load(T, from, stride);
}
template <int T>
ROOTS_INLINE void tile_store(void* to, int64_t stride) {
  emulated::tile_store(T, to, stride);
}
template <int T>
ROOTS_INLINE void tile_zero() {
  emulated::tile_zero(T);
}
template <int C, int A, int B>
ROOTS_INLINE void tile_dot_bf16() {
  emulated::tile_dot_bf16(C, A, B);
}
template <int C, int A, int B>
ROOTS_INLINE void tile_dot_i8() {
  emulated::tile_dot_i8(C, A, B);
}
struct TileRegisters {};

#else

// As assembly: the compiler's intrinsics (GCC 12) do not say that loads read memory, so that stores to it may
// move behind them.
template <int T>
ROOTS_INLINE void tile_load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
ROOTS_INLINE void tile_store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}
template <int T>
ROOTS_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}
// C += A B
template <int C, int A, int B>
ROOTS_INLINE void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
ROOTS_INLINE void tile_dot_i8() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

// Eight whole tiles while it lives.
struct TileRegisters {
  ROOTS_INLINE TileRegisters() {
    struct alignas(64) Configuration {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Configuration configuration;
    __asm__ volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ROOTS_INLINE ~TileRegisters() { __asm__ volatile("tilerelease"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

#endif

// Tiles 0 to 3 += rows of A (blocks of 16 or 32 rows by 64 bytes, `depth` bytes / 64 of them, the last padded
// with zeros) by 32 columns of B (lines of 4 bytes a column, 128 bytes apart; a last partial block is padded
// here, since what follows it may be a NaN). Pairs: of tiles of A, 2 or 1.
template <int Pairs, bool Int8>
ROOTS_INLINE void tile_products(int64_t lines, const void* a, const void* b) {
  constexpr int64_t kLine = kAmxColumns * 4;
  const auto* x = static_cast<const char*>(a);
  const auto* y = static_cast<const char*>(b);
  const auto dot = [](auto c, auto m, auto n) ROOTS_INLINED {
    if constexpr (Int8)
      tile_dot_i8<c, m, n>();
    else
      tile_dot_bf16<c, m, n>();
  };
  const auto step = [&](const char* from) ROOTS_INLINED {
    tile_load<4>(x, 64);
    tile_load<6>(from, kLine);
    dot(Index<0>{}, Index<4>{}, Index<6>{});
    tile_load<7>(from + 64, kLine);
    dot(Index<1>{}, Index<4>{}, Index<7>{});
    if constexpr (Pairs == 2) {
      tile_load<5>(x + kTileBytes, 64);
      dot(Index<2>{}, Index<5>{}, Index<6>{});
      dot(Index<3>{}, Index<5>{}, Index<7>{});
    }
    x += Pairs * kTileBytes;
  };
  int64_t line = 0;
  for (; line + kTileSide <= lines; line += kTileSide, y += kTileSide * kLine) step(y);
  if (line < lines) {
    alignas(64) char rest[kTileSide * kLine] = {};
    __builtin_memcpy(rest, y, static_cast<size_t>((lines - line) * kLine));
    step(rest);
  }
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
