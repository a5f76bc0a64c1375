// Forward attention from operands rounded to bfloat16 on Hopper: one warp group copies tiles of keys and
// values (TMA), two multiply (wgmma), 64 queries each (FlashAttention-3, arXiv 2407.08608). Scores of the
// next keys and the sums of values before run on the tensor cores while a group turns scores into weights.
//
// Rings of two tiles of 128 keys and of two of values: `full` says that a tile has arrived, `empty` that all
// eight warps have finished reading it. A head's rows are 64 or 128 elements: one box of 64 columns behind
// the other.
#pragma once

#include "cuda/attention_bf16.cuh"
#include "cuda/hopper.cuh"

namespace roots {
namespace cuda {
namespace {

namespace sm90_attention {

constexpr int kQueries = 128, kKeys = 128, kStages = 2;
constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * hopper::kWarpGroup;
// A block enters with 168 registers a thread; more than the loaders give up cannot be had.
constexpr int kLoaderRegisters = 24, kMultiplierRegisters = 240;
static_assert(kLoaderRegisters + kConsumers * kMultiplierRegisters <= 168 * (1 + kConsumers), "");
static_assert(kQueries == kConsumers * 64 && kKeys == kQueries, "one size of box serves all");

constexpr int kBoxBytes = kKeys * hopper::kSwizzledRow;  // 64 columns of a tile
template <int kD>
constexpr int kBytes = kD / 64 * kBoxBytes;  // of a tile
constexpr int kBarriers = 4 * kStages + 1;
template <int kD>
constexpr size_t kShared = hopper::kAlignment + (1 + 2 * kStages) * kBytes<kD> + kBarriers * 8;
static_assert(kShared<128> <= 232448, "the shared memory of a block");

template <int kD>
ROOTS_DEVICE void load(const hopper::TensorMap* map, hopper::Barrier* full, unsigned char* to, int row,
                       int head, int batch) {
  hopper::barrier_arrive_expect(full, kBytes<kD>);
#pragma unroll
  for (int box = 0; box < kD / 64; ++box)
    hopper::copy_head(map, full, to + box * kBoxBytes, box * 64, row, head, batch);
}

// 16 elements of the rows from `row` on, the step-th of the head: an operand that is contiguous along K.
ROOTS_DEVICE uint64_t along_head(uint32_t tile, int row, int step, int box_bytes) {
  return hopper::descriptor(
      tile + static_cast<uint32_t>(step / 4 * box_bytes + row * hopper::kSwizzledRow + step % 4 * 32), 16,
      1024);
}
// All columns of 16 rows, the step-th of the tile: contiguous along N.
ROOTS_DEVICE uint64_t along_rows(uint32_t tile, int step, int box_bytes) {
  return hopper::descriptor(tile + static_cast<uint32_t>(step * 16 * hopper::kSwizzledRow),
                            static_cast<uint32_t>(box_bytes), 1024);
}

template <int kD>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const __grid_constant__ hopper::TensorMap map_q,
                   const __grid_constant__ hopper::TensorMap map_k,
                   const __grid_constant__ hopper::TensorMap map_v, Problem p, int64_t tiles) {
#if defined(ROOTS_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using P = Bf16Product;
  ROOTS_DYNAMIC_SHARED(raw);
  unsigned char* const query_tile =
      raw + (hopper::kAlignment - hopper::shared_address(raw) % hopper::kAlignment) % hopper::kAlignment;
  unsigned char *const key_tiles = query_tile + kBytes<kD>, *const value_tiles =
                                                                key_tiles + kStages * kBytes<kD>;
  auto* const key_full = reinterpret_cast<hopper::Barrier*>(value_tiles + kStages * kBytes<kD>);
  hopper::Barrier *const key_empty = key_full + kStages, *const value_full = key_empty + kStages,
                         *const value_empty = value_full + kStages, *const query_full = value_empty + kStages;
  const int thread = static_cast<int>(threadIdx.x), group = thread / hopper::kWarpGroup;
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      hopper::barrier_init(key_full + s, 1);
      hopper::barrier_init(value_full + s, 1);
      hopper::barrier_init(key_empty + s, kConsumers * 4);
      hopper::barrier_init(value_empty + s, kConsumers * 4);
    }
    hopper::barrier_init(query_full, 1);
    hopper::barrier_fence();
  }
  __syncthreads();
  // the last queries see the most keys: they start first
  const int64_t job = blockIdx.x;
  const int b = static_cast<int>(job / tiles / p.H), h = static_cast<int>(job / tiles % p.H),
            block_first = static_cast<int>(tiles - 1 - job % tiles) * kQueries;
  const Range block = keys_of(p, b, block_first, kQueries);
  const int count = tiles_in(block.last - block.first, kKeys);
  if (group == 0) {
    hopper::fewer_registers<kLoaderRegisters>();
    if (thread == 0) {
      const int kv = h / static_cast<int>(p.H / p.Hkv);
      load<kD>(&map_q, query_full, query_tile, block_first, h, b);
#pragma unroll 1
      for (int t = 0; t < count; ++t) {
        const int s = hopper::place_of(t, kStages);
        const uint32_t phase = hopper::empty_phase(t, kStages);
        hopper::barrier_wait(key_empty + s, phase);
        load<kD>(&map_k, key_full + s, key_tiles + s * kBytes<kD>, block.first + t * kKeys, kv, b);
        hopper::barrier_wait(value_empty + s, phase);
        load<kD>(&map_v, value_full + s, value_tiles + s * kBytes<kD>, block.first + t * kKeys, kv, b);
      }
    }
    return;
  }
  hopper::more_registers<kMultiplierRegisters>();
  const int lane = thread % kWarp, own_first = block_first + (group - 1) * 64;
  const int i0 = own_first + thread % hopper::kWarpGroup / kWarp * 16;
  const int rows[2] = {i0 + lane / 4, i0 + lane / 4 + 8};
  const float scale = static_cast<float>(p.scale) * kLog2e;
  const Range own = keys_of(p, b, own_first, 64);
  const uint32_t queries = hopper::shared_address(query_tile), keys = hopper::shared_address(key_tiles),
                 values = hopper::shared_address(value_tiles);
  float sums[kD / 8][4] = {}, scores[kKeys / 8][4];
  uint32_t weights[kKeys / 16][4];
  Running softmax;
  const auto score = [&](int t) {
    const int s = hopper::place_of(t, kStages);
    hopper::barrier_wait(key_full + s, hopper::full_phase(t, kStages));
    hopper::products_begin();
#pragma unroll
    for (int step = 0; step < kD / 16; ++step)
      hopper::multiply<P, false, false>(scores, along_head(queries, (group - 1) * 64, step, kBoxBytes),
                                        along_head(keys + s * kBytes<kD>, 0, step, kBoxBytes), step > 0);
    hopper::products_commit<P>();
  };
  const auto add_values = [&](int t) {
    const int s = hopper::place_of(t, kStages);
    hopper::barrier_wait(value_full + s, hopper::full_phase(t, kStages));
    hopper::products_begin();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step)
      hopper::multiply_left<P, true>(sums, weights[step],
                                     along_rows(values + s * kBytes<kD>, step, kBoxBytes), true);
    hopper::products_commit<P>();
  };
  // of the scores that have been waited for
  const auto weigh = [&](int t) {
    hopper::products_done<P>(scores);
    if (lane == 0) hopper::barrier_arrive(key_empty + hopper::place_of(t, kStages));
    const int j0 = block.first + t * kKeys;
    multiply_all(scores, scale);
    if (own.limits(j0, kKeys) || p.mask.data) limit_keys<true>(p, b, h, rows, j0, scores);
    softmax.weigh(scores);
  };
  const auto round_weights = [&] {
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step)
      as_left(scores[2 * step], scores[2 * step + 1], weights[step]);
  };
  hopper::barrier_wait(query_full, 0);
  if (count > 0) {
    score(0);
    hopper::products_wait<P, 0>();
    weigh(0);
    round_weights();
#pragma unroll 1
    for (int t = 1; t < count; ++t) {
      score(t);
      add_values(t - 1);
      hopper::products_wait<P, 1>();  // the scores
      weigh(t);
      hopper::products_wait<P, 0>();  // the values
      hopper::products_done<P>(sums);
      if (lane == 0) hopper::barrier_arrive(value_empty + hopper::place_of(t - 1, kStages));
      multiply_rows(sums, softmax.keep);
      round_weights();
    }
    add_values(count - 1);
    hopper::products_wait<P, 0>();
    hopper::products_done<P>(sums);
  }
  store_attention<kD>(p, b, h, rows, sums, softmax);
#endif
}

// The map of rows as TMA reads them, or false where it cannot.
inline bool map_of(const HeadRows& x, const Tensor& shape, int64_t width, int32_t box_rows,
                   hopper::TensorMap* map) {
  const int64_t counts[] = {shape.shape[2], shape.shape[1], shape.shape[0]},
                strides[] = {x.row, x.head, x.batch};
  int64_t pitches[3];
  for (int i = 0; i < 3; ++i) {
    // the stride of an axis of one is anything
    pitches[i] = counts[i] == 1 ? width * 2 : strides[i] * 2;
    if (pitches[i] <= 0 || pitches[i] % 16 != 0 || pitches[i] >= int64_t{1} << 40) return false;
  }
  return hopper::make_heads_map(map, x.data, width, counts, pitches, box_rows) == nullptr;
}

// Whether there is enough work for tiles of this size.
inline bool fits(const Problem& p) {
  return p.Tq >= 64 && p.Tk >= 64 && p.B * p.H * ceil_div(p.Tq, kQueries) < int64_t{1} << 31;
}

template <int kD>
Status forward(const Problem& p, const hopper::TensorMap& q, const hopper::TensorMap& k,
               const hopper::TensorMap& v) {
  const int64_t tiles = ceil_div(p.Tq, kQueries);
  return launch(forward_kernel<kD>, dim3(static_cast<unsigned>(p.B * p.H * tiles)), kThreads, kShared<kD>, q,
                k, v, p, tiles);
}

}  // namespace sm90_attention

}  // namespace
}  // namespace cuda
}  // namespace roots
