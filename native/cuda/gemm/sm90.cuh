// Products of bfloat16 with float32 sums on Hopper: warp groups that only load (TMA) feed others that only
// multiply (wgmma), through a ring of tiles in shared memory.
//
// A block of three warp groups computes 128 x 256. One thread of the first copies tiles of 64 along K, four
// ahead; each of the others multiplies 64 rows. `full[s]` says that tile s has arrived, `empty[s]` that all
// eight warps have finished reading it. Operands are contiguous along K or along their other axis, 16-byte
// aligned; all else (float32, odd strides) is first rounded into workspace, along K.
//   K contiguous:   one box of 64 k per row; groups of eight rows 1024 bytes apart
//   M or N instead: boxes of 64 columns by 64 k, one after the other
#pragma once

#include "cuda/gemm/sm80.cuh"
#include "cuda/hopper.cuh"

namespace roots {
namespace cuda {
namespace sm90 {

constexpr int kTileM = 128, kTileN = 256, kTileK = hopper::kBoxElements, kStages = 4;
constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * hopper::kWarpGroup;
constexpr int kWarpRows = 16;  // of the tile, multiplied and stored by one warp
constexpr int kBytesA = kTileM * hopper::kSwizzledRow, kBytesB = kTileN * hopper::kSwizzledRow;
constexpr int kStageBytes = kBytesA + kBytesB, kBoxBytes = kTileK * hopper::kSwizzledRow;
constexpr int kOutPitch = kTileN + 4;  // floats between rows of sums on their way out
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

// The descriptor of 16 k of an operand, `row` a multiple of 64.
template <bool kAlongRows>
ROOTS_DEVICE uint64_t part(uint32_t tile, int row, int k) {
  if constexpr (kAlongRows)
    return hopper::descriptor(tile + static_cast<uint32_t>(row / 64 * kBoxBytes + k * hopper::kSwizzledRow),
                              kBoxBytes, 1024);
  else
    return hopper::descriptor(tile + static_cast<uint32_t>(row * hopper::kSwizzledRow + k * 2), 16, 1024);
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

template <bool kAlongM, bool kAlongN, class Finish>
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
  const int depth = static_cast<int>((K + kTileK - 1) / kTileK);
  if (group == 0) {
    hopper::fewer_registers<kLoaderRegisters>();
    if (thread == 0) {
#pragma unroll 1
      for (int i = 0; i < depth; ++i) {
        const int s = i % kStages;
        // the first round finds all stages empty: the phase before the first counts as ended
        hopper::barrier_wait(empty + s, (i / kStages & 1) ^ 1);
        hopper::barrier_arrive_expect(full + s, kStageBytes);
        unsigned char* const stage = tiles + s * kStageBytes;
        load<kAlongM, kTileM>(&map_a, full + s, stage, static_cast<int>(tile_m * kTileM), i * kTileK);
        load<kAlongN, kTileN>(&map_b, full + s, stage + kBytesA, static_cast<int>(tile_n * kTileN),
                              i * kTileK);
      }
    }
    return;
  }
  hopper::more_registers<kMultiplierRegisters>();
  const int lane = thread % kWarp, row = (group - 1) * 64;
  float sums[kTileN / 2];
#pragma unroll 1
  for (int i = 0; i < depth; ++i) {
    const int s = i % kStages;
    hopper::barrier_wait(full + s, i / kStages & 1);
    const uint32_t a = hopper::shared_address(tiles + s * kStageBytes), b = a + kBytesA;
    hopper::products_begin();
#pragma unroll
    for (int k = 0; k < kTileK; k += 16)
      hopper::multiply<kTileN, kAlongM, kAlongN>(sums, part<kAlongM>(a, row, k), part<kAlongN>(b, 0, k),
                                                 i > 0 || k > 0);
    hopper::products_commit();
    // this tile is still being read, the one before no longer
    hopper::products_wait<kTileN, 1>(sums);
    if (i > 0 && lane == 0) hopper::barrier_arrive(empty + (i - 1) % kStages);
  }
  hopper::products_wait<kTileN, 0>(sums);
  // The sums go out through the memory of the tiles, when nobody reads those any more: a warp writes its 16
  // rows there, and then whole rows to global memory, by one copy of the epilogue.
  if (lane == 0) hopper::barrier_arrive(finished);
  hopper::barrier_wait(finished, 0);
  const int warp_row = row + thread % hopper::kWarpGroup / kWarp * kWarpRows;
  auto* const mine = reinterpret_cast<float*>(tiles) + warp_row * kOutPitch;
#pragma unroll
  for (int i = 0; i < kTileN / 2; ++i)
    mine[hopper::sum_row(lane, i) * kOutPitch + hopper::sum_column(lane, i)] = sums[i];
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

// (rows, K) of any strides to bfloat16 with `pitch` elements between rows, zeros beyond K.
constexpr int kTransposeTile = 32;
__global__ void __launch_bounds__(256)
    round_kernel(sm80::Operand x, int64_t rows, int64_t K, int64_t pitch, uint16_t* to) {
  __shared__ uint16_t tile[kTransposeTile][kTransposeTile + 2];
  const int t = static_cast<int>(threadIdx.x), fast = t % kTransposeTile, slow = t / kTransposeTile;
  const bool along_k = x.column_stride == 1;
  const int64_t tiles_k = (pitch + kTransposeTile - 1) / kTransposeTile;
  const int64_t tiles = (rows + kTransposeTile - 1) / kTransposeTile * tiles_k;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const int64_t r0 = index / tiles_k * kTransposeTile, k0 = index % tiles_k * kTransposeTile;
    for (int j = slow; j < kTransposeTile; j += 256 / kTransposeTile) {
      const int64_t r = r0 + (along_k ? j : fast), k = k0 + (along_k ? fast : j);
      uint16_t value = 0;
      if (r < rows && k < K)
        value =
            static_cast<uint16_t>(sm80::element(x, r * x.row_stride + k * x.column_stride, Bf16Product{}));
      tile[along_k ? j : fast][along_k ? fast : j] = value;
    }
    __syncthreads();
    for (int j = slow; j < kTransposeTile; j += 256 / kTransposeTile)
      if (r0 + j < rows && k0 + fast < pitch) to[(r0 + j) * pitch + k0 + fast] = tile[j][fast];
    __syncthreads();
  }
}

// What TMA can read: where, contiguous along the rows' axis or along K, and the bytes between lines.
struct Ready {
  const void* data;
  bool along_rows;
  int64_t pitch;
};

inline bool as_it_is(const sm80::Operand& x, Ready* ready) {
  if (x.source != sm80::Source::bf16 || reinterpret_cast<uintptr_t>(x.data) % 16 != 0) return false;
  const bool along_k = x.column_stride == 1;
  const int64_t line = along_k ? x.row_stride : x.column_stride;
  if ((!along_k && x.row_stride != 1) || line % 8 != 0 || line <= 0) return false;
  *ready = {x.data, !along_k, line * 2};
  return true;
}

inline Status prepare(const sm80::Operand& x, int64_t rows, int64_t K, int slot, Ready* ready) {
  if (as_it_is(x, ready)) return nullptr;
  const int64_t pitch = (K + 7) / 8 * 8;
  auto* to = static_cast<uint16_t*>(workspace(slot, static_cast<size_t>(rows * pitch) * 2));
  if (!to) return kOutOfMemory;
  *ready = {to, false, pitch * 2};
  return launch(round_kernel, grid_for(ceil_div(rows, kTransposeTile) * ceil_div(pitch, kTransposeTile)), 256,
                0, x, rows, K, pitch, to);
}

inline Status map_of(const Ready& x, int64_t rows, int64_t K, int32_t tile_rows, hopper::TensorMap* map) {
  return x.along_rows ? hopper::make_map(map, x.data, rows, K, x.pitch, kTileK)
                      : hopper::make_map(map, x.data, K, rows, x.pitch, tile_rows);
}

// One product; a and b as for sm80::gemm.
template <class Finish>
Status gemm(int64_t M, int64_t N, int64_t K, const sm80::Operand& a, const sm80::Operand& b,
            const Finish& finish) {
  Ready ra, rb;
  if (const Status status = prepare(a, M, K, 0, &ra)) return status;
  if (const Status status = prepare(b, N, K, 1, &rb)) return status;
  hopper::TensorMap map_a, map_b;
  if (const Status status = map_of(ra, M, K, kTileM, &map_a)) return status;
  if (const Status status = map_of(rb, N, K, kTileN, &map_b)) return status;
  const dim3 grid(static_cast<unsigned>(ceil_div(M, kTileM) * ceil_div(N, kTileN)));
  const auto go = [&](auto kernel) {
    return launch(kernel, grid, kThreads, kShared, map_a, map_b, M, N, K, finish);
  };
  if (ra.along_rows)
    return rb.along_rows ? go(gemm_kernel<true, true, Finish>) : go(gemm_kernel<true, false, Finish>);
  return rb.along_rows ? go(gemm_kernel<false, true, Finish>) : go(gemm_kernel<false, false, Finish>);
}

// Whether a product is large enough for whole tiles.
inline bool fits(int64_t M, int64_t N, int64_t K) {
  constexpr int64_t kMost = int64_t{1} << 31;
  return M >= 64 && N >= 64 && K >= 64 && M < kMost && N < kMost && K < kMost &&
         ceil_div(M, kTileM) * ceil_div(N, kTileN) < kMost;
}

}  // namespace sm90
}  // namespace cuda
}  // namespace roots
