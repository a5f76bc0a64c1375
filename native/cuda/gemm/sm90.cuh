// Products of bfloat16 with float32 sums, and of int8 with int32 sums, on Hopper: warp groups that only load
// (TMA) feed others that only multiply (wgmma), through a ring of tiles in shared memory.
//
// A block of three warp groups computes 128 x 256. One thread of the first copies tiles of 128 bytes along K,
// four ahead; each of the others multiplies 64 rows. `full[s]` says that tile s has arrived, `empty[s]` that
// all eight warps have finished reading it. Operands are contiguous along K or along their other axis,
// 16-byte aligned; all else (float32, odd strides) is first rounded into workspace, along K. int8: along K
// alone.
//   K contiguous:   one box of 64 k per row; groups of eight rows 1024 bytes apart
//   M or N instead: boxes of 64 columns by 64 k, one after the other
#pragma once

#include "cuda/gemm/sm80.cuh"
#include "cuda/hopper.cuh"

namespace roots {
namespace cuda {
namespace sm90 {

constexpr int kTileM = 128, kTileN = 256, kStages = 4;
template <class P>
constexpr int kTileK = hopper::kSwizzledRow / 4 * P::kPerWord;
constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * hopper::kWarpGroup;
constexpr int kWarpRows = 16;  // of the tile, multiplied and stored by one warp
constexpr int kBytesA = kTileM * hopper::kSwizzledRow, kBytesB = kTileN * hopper::kSwizzledRow;
constexpr int kStageBytes = kBytesA + kBytesB;
constexpr int kBoxBytes = 64 * hopper::kSwizzledRow;  // of a box of 64 k, contiguous along M or N
constexpr int kOutPitch = kTileN + 4;                 // numbers between rows of sums on their way out
constexpr int kBarriers = 2 * kStages + 1;
constexpr size_t kShared = hopper::kAlignment + kStages * kStageBytes + kBarriers * 8;
static_assert(kShared <= 232448, "the shared memory of a block");
static_assert(kTileM * kOutPitch * 4 <= kStages * kStageBytes, "the sums take the place of the tiles");
static_assert(kTileM == kConsumers * 64 && kStageBytes % hopper::kAlignment == 0, "");
// A block enters with 168 registers a thread; more than the loaders give up cannot be had.
constexpr int kLoaderRegisters = 40, kMultiplierRegisters = 232;
static_assert(kLoaderRegisters + kConsumers * kMultiplierRegisters <= 168 * (1 + kConsumers), "");

// Tile `index` of a product, in groups of eight rows of tiles, so that blocks at work share operands in L2.
constexpr int64_t kGroup = 8;
ROOTS_BOTH void tile_of(int64_t index, int64_t tiles_m, int64_t tiles_n, int64_t* m, int64_t* n) {
  const int64_t first = index / (kGroup * tiles_n) * kGroup;
  const int64_t rows = tiles_m - first < kGroup ? tiles_m - first : kGroup;
  const int64_t rest = index - first * tiles_n;
  *m = first + rest % rows;
  *n = rest / rows;
}

// The descriptor of 32 bytes of K of an operand, the step-th of its tile; `row` a multiple of 64.
template <bool kAlongRows>
ROOTS_DEVICE uint64_t part(uint32_t tile, int row, int step) {
  if constexpr (kAlongRows)
    return hopper::descriptor(
        tile + static_cast<uint32_t>(row / 64 * kBoxBytes + step * 16 * hopper::kSwizzledRow), kBoxBytes,
        1024);
  else
    return hopper::descriptor(tile + static_cast<uint32_t>(row * hopper::kSwizzledRow + step * 32), 16, 1024);
}

template <bool kAlongRows, int kRows>
ROOTS_DEVICE void load(const hopper::TensorMap* map, hopper::Barrier* full, unsigned char* to, int row,
                       int k) {
  if constexpr (kAlongRows) {
#pragma unroll 1
    for (int r = 0; r < kRows; r += 64) hopper::copy_async(map, full, to + r / 64 * kBoxBytes, row + r, k);
  } else {
    hopper::copy_async(map, full, to, k, row);
  }
}

template <class P, bool kAlongM, bool kAlongN, class Finish>
__global__ void __launch_bounds__(kThreads, 1) gemm_kernel(const __grid_constant__ hopper::TensorMap map_a,
                                                           const __grid_constant__ hopper::TensorMap map_b,
                                                           int64_t M, int64_t N, int64_t K, Finish finish) {
#if defined(ROOTS_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ROOTS_DYNAMIC_SHARED(raw);
  unsigned char* const tiles =
      raw + (hopper::kAlignment - hopper::shared_address(raw) % hopper::kAlignment) % hopper::kAlignment;
  auto* const full = reinterpret_cast<hopper::Barrier*>(tiles + kStages * kStageBytes);
  hopper::Barrier *const empty = full + kStages, *const finished = empty + kStages;
  const int thread = static_cast<int>(threadIdx.x), group = thread / hopper::kWarpGroup;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      hopper::barrier_init(full + s, 1);
      hopper::barrier_init(empty + s, kConsumers * 4);
    }
    hopper::barrier_init(finished, kConsumers * 4);
    hopper::barrier_fence();
  }
  __syncthreads();
  int64_t tile_m, tile_n;
  tile_of(blockIdx.x, (M + kTileM - 1) / kTileM, (N + kTileN - 1) / kTileN, &tile_m, &tile_n);
  const int depth = static_cast<int>((K + kTileK<P> - 1) / kTileK<P>);
  if (group == 0) {
    hopper::fewer_registers<kLoaderRegisters>();
    if (thread == 0) {
#pragma unroll 1
      for (int i = 0; i < depth; ++i) {
        const int s = hopper::place_of(i, kStages);
        hopper::barrier_wait(empty + s, hopper::empty_phase(i, kStages));
        hopper::barrier_arrive_expect(full + s, kStageBytes);
        unsigned char* const stage = tiles + s * kStageBytes;
        load<kAlongM, kTileM>(&map_a, full + s, stage, static_cast<int>(tile_m * kTileM), i * kTileK<P>);
        load<kAlongN, kTileN>(&map_b, full + s, stage + kBytesA, static_cast<int>(tile_n * kTileN),
                              i * kTileK<P>);
      }
    }
    return;
  }
  hopper::more_registers<kMultiplierRegisters>();
  const int lane = thread % kWarp, row = (group - 1) * 64;
  hopper::Sums<P, kTileN / 8> sums;
#pragma unroll 1
  for (int i = 0; i < depth; ++i) {
    const int s = hopper::place_of(i, kStages);
    hopper::barrier_wait(full + s, hopper::full_phase(i, kStages));
    const uint32_t a = hopper::shared_address(tiles + s * kStageBytes), b = a + kBytesA;
    hopper::products_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step)
      hopper::multiply<P, kAlongM, kAlongN>(sums, part<kAlongM>(a, row, step), part<kAlongN>(b, 0, step),
                                            i > 0 || step > 0);
    hopper::products_commit<P>();
    // this tile is still being read, the one before no longer
    hopper::products_wait<P, 1>();
    if (i > 0 && lane == 0) hopper::barrier_arrive(empty + hopper::place_of(i - 1, kStages));
  }
  hopper::products_wait<P, 0>();
  hopper::products_done<P>(sums);
  // The sums go out through the memory of the tiles, when nobody reads those any more: a warp writes its 16
  // rows there, and then whole rows to global memory, by one copy of the epilogue.
  if (lane == 0) hopper::barrier_arrive(finished);
  hopper::barrier_wait(finished, 0);
  const int warp_row = row + thread % hopper::kWarpGroup / kWarp * kWarpRows;
  auto* const mine = reinterpret_cast<typename P::Accumulator*>(tiles) + warp_row * kOutPitch;
#pragma unroll
  for (int block = 0; block < kTileN / 8; ++block)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      mine[hopper::sum_row(lane, i) * kOutPitch + hopper::sum_column(lane, block, i)] = sums[block][i];
  __syncwarp();
#pragma unroll 1
  for (int r = 0; r < kWarpRows; ++r) {
    const int64_t to = tile_m * kTileM + warp_row + r;
    if (to >= M) break;
#pragma unroll 1
    for (int c = lane; c < kTileN && tile_n * kTileN + c < N; c += kWarp)
      finish(0, to, tile_n * kTileN + c, mine[r * kOutPitch + c]);
  }
#endif
}

// --- operands
// ----------------------------------------------------------------------------------------------------

// What TMA can read: where, contiguous along the rows' axis or along K, and the bytes between lines.
struct Ready {
  const void* data;
  bool along_rows;
  int64_t pitch;
};

template <class P>
Status map_of(const Ready& x, int64_t rows, int64_t K, int32_t tile_rows, hopper::TensorMap* map) {
  constexpr int32_t bytes = 4 / P::kPerWord;
  return x.along_rows ? hopper::make_map(map, x.data, bytes, rows, K, x.pitch, 64)
                      : hopper::make_map(map, x.data, bytes, K, rows, x.pitch, tile_rows);
}

// One product of operands that TMA can read.
template <class P, class Finish>
Status multiply(int64_t M, int64_t N, int64_t K, const Ready& a, const Ready& b, const Finish& finish) {
  hopper::TensorMap map_a, map_b;
  if (const Status status = map_of<P>(a, M, K, kTileM, &map_a)) return status;
  if (const Status status = map_of<P>(b, N, K, kTileN, &map_b)) return status;
  const dim3 grid(static_cast<unsigned>(ceil_div(M, kTileM) * ceil_div(N, kTileN)));
  const auto go = [&](auto kernel) {
    return launch(kernel, grid, kThreads, kShared, map_a, map_b, M, N, K, finish);
  };
  if constexpr (P::kPerWord == 2) {  // others have no products along M or N
    if (a.along_rows && b.along_rows) return go(gemm_kernel<P, true, true, Finish>);
    if (a.along_rows) return go(gemm_kernel<P, true, false, Finish>);
    if (b.along_rows) return go(gemm_kernel<P, false, true, Finish>);
  }
  return go(gemm_kernel<P, false, false, Finish>);
}

// Whether a product is large enough for whole tiles.
inline bool fits(int64_t M, int64_t N, int64_t K) {
  constexpr int64_t kMost = int64_t{1} << 31;
  return M >= 64 && N >= 64 && K >= 64 && M < kMost && N < kMost && K < kMost &&
         ceil_div(M, kTileM) * ceil_div(N, kTileN) < kMost;
}

// One product of int8, rows along K of `row_bytes` bytes, or one with mma.sync where TMA cannot read them.
template <class Finish>
Status gemm_i8(int64_t M, int64_t N, int64_t row_bytes, const int8_t* a, const int8_t* b,
               const Finish& finish) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (hopper::wanted() && fits(M, N, row_bytes) && row_bytes % 16 == 0 && aligned(a) && aligned(b))
    return multiply<I8Product>(M, N, row_bytes, {a, false, row_bytes}, {b, false, row_bytes}, finish);
  return sm80::gemm<I8Product>(M, N, row_bytes, {a, sm80::Source::i8, row_bytes, 1},
                               {b, sm80::Source::i8, row_bytes, 1}, Batches(), finish);
}

}  // namespace sm90
}  // namespace cuda
}  // namespace roots
