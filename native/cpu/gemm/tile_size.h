// Tile and block sizes of the GEMM, each with its reason.
#pragma once

#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

#if defined(__AVX512F__)
// 14 rows x 2 vectors: 28 accumulators + 2 vectors of B + 1 broadcast of A fill the 32 registers.
constexpr int kTileRows = 14, kTileVectors = 2;
#elif defined(__AVX2__)
// 6 x 2: 12 accumulators + 2 + 1 of 16 registers.
constexpr int kTileRows = 6, kTileVectors = 2;
#else
// 4 x 2 of 16 SSE registers; without FMA two more hold products.
constexpr int kTileRows = 4, kTileVectors = 2;
#endif

template <class T>
constexpr int kTileColumns = kTileVectors * Vec<T>::kWidth;

#if defined(__AVX512F__)
// K is cut so that a packed B panel (32 columns x 384 x 4 bytes = 48 KiB) streams from L2 while the A panel
// (14 x 384 x 4 = 21 KiB) stays in L1.
constexpr int64_t kBlockK = 384;
constexpr bool kColumnsStay = false;
#else
// The other way round where panels of B are narrow: one of 16 columns x 768 x 4 bytes = 48 KiB stays in L2
// and is read as fast as it is multiplied, A panels (6 x 768 x 4 = 18 KiB) pass by. Blocks of 256, which
// would stay in L1, read and write C three times as often: 171 and 175 instead of 179 and 185 GFLOP/s at 1024
// and 2048.
constexpr int64_t kBlockK = 768;
constexpr bool kColumnsStay = true;
#endif
// Rows of A packed at once: 2016 = 144 tiles of 14, 3 MiB of float, well inside L3.
constexpr int64_t kBlockM = 2016;
// Columns of B packed at once: 384 x 4096 x 4 = 6 MiB of float, inside L3 together with A.
constexpr int64_t kBlockN = 4096;
// Panels of A and B that are packed before the first is multiplied, a few blocks of K where they are small.
constexpr int64_t kPackedBytes = 4 << 20;
// One parallel chunk: at most so many row tiles x column tiles of C, whose panels of A and B are half of L2,
#if defined(__AVX512F__)
constexpr int64_t kChunkRowTiles = 8, kChunkColumnTiles = 8;
#else
// as many rows and columns of the smaller tiles: 120 x 192, so that panels are fetched from L3 as rarely,
constexpr int64_t kChunkRowTiles = 20, kChunkColumnTiles = 12;
#endif
// and at least this much arithmetic, 10-15 us.
constexpr int64_t kLeastChunkFlops = 1500000;
// A transposed A is read in place for up to this many columns of B: packing pays when the panel is used more
// often.
#if defined(__AVX2__) && !defined(__AVX512F__)
// Six rows are less than half a line, so every line would be fetched for three tiles.
constexpr int64_t kFewColumns = 64;
#else
constexpr int64_t kFewColumns = 512;
#endif
// B is read in place for up to this many rows of A, or when it takes no more than this: half of L2. The
// narrow panels of AVX2 are one line a row, and rows of a power of two apart share a few sets of L1: always
// packed.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int64_t kFewRows = 16, kInPlaceBytes = 0;
#else
constexpr int64_t kFewRows = 64, kInPlaceBytes = 512 * 1024;
#endif
// Up to this many rows, B is read in place instead of being packed: packing would cost as much as the
// product.
constexpr int64_t kSkinnyRows = 4;
// Up to this many rows, x W^T is made of dot products of rows, which need no packing. With 16 registers a
// tile of dot products is so small that rows come from L2 too often.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int64_t kDotRows = 4;
#else
constexpr int64_t kDotRows = 64;
#endif

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
