// Gradients of attention from operands rounded to bfloat16 on Hopper: as attention_sm90.cuh, with one kernel
// for both directions. A warp group owns 64 rows of two operands that stay in shared memory, and walks over
// tiles of 64 rows of two others, copied three ahead:
//
//             own rows    tiles     x              y               sums
//   queries   Q, dO       K, V      S = Q K^T      dP = dO V^T     dQ += dS K
//   keys      K, V        Q, dO     S^T = K Q^T    dP^T = V dO^T   dK += dS^T Q, dV += P^T dO
//
// with P = exp(S - lse) and dS = P (dP - delta), which go from registers into the next product. Nothing is
// added by two groups: the bits are the same on every run. Masks take the kernels of mma.sync: their
// addresses want registers that are not there.
#pragma once

#include "cuda/attention_gradients.cuh"
#include "cuda/attention_sm90.cuh"

namespace roots {
namespace cuda {
namespace {

namespace sm90_attention {

constexpr int kTile = 64, kTileStages = 3;
constexpr int kSmallBox = kTile * hopper::kSwizzledRow;  // bytes of 64 rows and columns

enum class Own { queries, keys };

template <int kD>
struct Backward {
  static constexpr int kOperand = kD / 64 * kSmallBox;  // bytes of 64 rows of an operand
  static constexpr int kResident = 2 * kConsumers * kOperand, kStage = 2 * kOperand;
  static constexpr int kNumbers = 2 * kTile * static_cast<int>(sizeof(float));  // lse and delta of a tile
  static constexpr int kBarriers = 2 * kTileStages + 1;
  // Whether there are registers for the operands of one tile's sums beside the next tile's x and y. Without,
  // tensor cores are kept at work by the other group alone.
  template <Own kOwn>
  static constexpr bool kOverlaps = kOwn == Own::queries || kD == 64;
  static constexpr size_t kShared =
      hopper::kAlignment + kResident + static_cast<size_t>(kTileStages * (kStage + kNumbers)) + kBarriers * 8;
};
static_assert(Backward<128>::kShared <= 232448, "the shared memory of a block");

// The four operands as (first, second) of the own rows and of the tiles.
struct Maps {
  hopper::TensorMap own[2], tiles[2];
};

template <int kD>
ROOTS_DEVICE void load_rows(const hopper::TensorMap* map, hopper::Barrier* full, unsigned char* to, int row,
                            int head, int batch) {
#pragma unroll
  for (int box = 0; box < kD / 64; ++box)
    hopper::copy_head(map, full, to + box * kSmallBox, box * 64, row, head, batch);
}

template <int kD, Own kOwn>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const __grid_constant__ Maps maps, Problem p, Queries queries, Tensor first_out,
                    Tensor second_out, int64_t tiles) {
#if defined(ROOTS_CUDA_EMULATED) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using P = Bf16Product;
  using Plan = Backward<kD>;
  constexpr bool kKeys = kOwn == Own::keys;
  ROOTS_DYNAMIC_SHARED(raw);
  unsigned char* const resident =
      raw + (hopper::kAlignment - hopper::shared_address(raw) % hopper::kAlignment) % hopper::kAlignment;
  unsigned char* const stages = resident + Plan::kResident;
  auto* const numbers = reinterpret_cast<float*>(stages + kTileStages * Plan::kStage);
  auto* const full = reinterpret_cast<hopper::Barrier*>(numbers + kTileStages * 2 * kTile);
  hopper::Barrier *const empty = full + kTileStages, *const own_full = empty + kTileStages;
  const int thread = static_cast<int>(threadIdx.x), group = thread / hopper::kWarpGroup;
  if (thread == 0) {
    for (int s = 0; s < kTileStages; ++s) {
      hopper::barrier_init(full + s, 1);
      hopper::barrier_init(empty + s, kConsumers * 4);
    }
    hopper::barrier_init(own_full, 1);
    hopper::barrier_fence();
  }
  __syncthreads();
  // those who see the most start first: the last queries, the first keys
  const int64_t job = blockIdx.x, heads = kKeys ? p.Hkv : p.H;
  const int b = static_cast<int>(job / tiles / heads), own_head = static_cast<int>(job / tiles % heads);
  const int block_first =
      static_cast<int>(kKeys ? job % tiles : tiles - 1 - job % tiles) * kConsumers * kTile;
  const int shared_by = static_cast<int>(p.H / p.Hkv);
  const Range block = kKeys ? queries_of(p, b, block_first, kConsumers * kTile)
                            : keys_of(p, b, block_first, kConsumers * kTile);
  // tiles of queries start where their numbers are aligned; keys are walked once for each query head
  const int first = kKeys ? block.first / kTile * kTile : block.first;
  const int per_head = tiles_in(block.last - first, kTile), count = per_head * (kKeys ? shared_by : 1);
  const auto head_of = [&](int t) {
    return kKeys ? own_head * shared_by + t / per_head : own_head / shared_by;
  };
  const auto row_of_tile = [&](int t) { return first + t % per_head * kTile; };
  if (group == 0) {
    hopper::fewer_registers<kLoaderRegisters>();
    if (thread == 0) {
      hopper::barrier_arrive_expect(own_full, Plan::kResident);
#pragma unroll 1
      for (int g = 0; g < kConsumers; ++g)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          load_rows<kD>(&maps.own[i], own_full, resident + (g * 2 + i) * Plan::kOperand,
                        block_first + g * kTile, own_head, b);
#pragma unroll 1
      for (int t = 0; t < count; ++t) {
        const int s = hopper::place_of(t, kTileStages);
        hopper::barrier_wait(empty + s, hopper::empty_phase(t, kTileStages));
        hopper::barrier_arrive_expect(full + s, Plan::kStage + (kKeys ? Plan::kNumbers : 0));
        const int head = head_of(t), row = row_of_tile(t);
#pragma unroll
        for (int i = 0; i < 2; ++i)
          load_rows<kD>(&maps.tiles[i], full + s, stages + s * Plan::kStage + i * Plan::kOperand, row, head,
                        b);
        if constexpr (kKeys) {
          float* const to = numbers + s * 2 * kTile;
          const int64_t at = queries.at(p, b, head, row);
          hopper::copy_bytes(full + s, to, queries.lse + at, Plan::kNumbers / 2);
          hopper::copy_bytes(full + s, to + kTile, queries.delta + at, Plan::kNumbers / 2);
        }
      }
    }
    return;
  }
  hopper::more_registers<kMultiplierRegisters>();
  const int lane = thread % kWarp, own_first = block_first + (group - 1) * kTile;
  const int i0 = own_first + thread % hopper::kWarpGroup / kWarp * 16;
  const int rows[2] = {i0 + lane / 4, i0 + lane / 4 + 8};
  const float scale = static_cast<float>(p.scale) * kLog2e;
  const Range own = kKeys ? queries_of(p, b, own_first, kTile) : keys_of(p, b, own_first, kTile);
  const uint32_t left = hopper::shared_address(resident + (group - 1) * 2 * Plan::kOperand),
                 right = hopper::shared_address(stages);
  float own_lse[2] = {}, own_delta[2] = {};
  if constexpr (!kKeys) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool real = rows[r] < p.Tq;
      own_lse[r] = real ? queries.lse[queries.at(p, b, own_head, rows[r])] : infinity(0.0f);
      own_delta[r] = real ? queries.delta[queries.at(p, b, own_head, rows[r])] : 0.0f;
    }
  }
  float first_sums[kD / 8][4] = {}, second_sums[kKeys ? kD / 8 : 1][4] = {};
  float x[kTile / 8][4], y[kTile / 8][4];
  uint32_t weights[kKeys ? kTile / 16 : 1][4], slopes[kTile / 16][4];
  const auto multiply = [&](int t) {
    const int s = hopper::place_of(t, kTileStages);
    hopper::barrier_wait(full + s, hopper::full_phase(t, kTileStages));
    const uint32_t tile = right + static_cast<uint32_t>(s * Plan::kStage);
    hopper::products_begin();
#pragma unroll
    for (int step = 0; step < kD / 16; ++step)
      hopper::multiply<P, false, false>(x, along_head(left, 0, step, kSmallBox),
                                        along_head(tile, 0, step, kSmallBox), step > 0);
#pragma unroll
    for (int step = 0; step < kD / 16; ++step)
      hopper::multiply<P, false, false>(y, along_head(left + Plan::kOperand, 0, step, kSmallBox),
                                        along_head(tile + Plan::kOperand, 0, step, kSmallBox), step > 0);
    hopper::products_commit<P>();
  };
  const auto add = [&](int t) {
    const uint32_t tile = right + static_cast<uint32_t>(hopper::place_of(t, kTileStages) * Plan::kStage);
    hopper::products_begin();
    if constexpr (kKeys) {
#pragma unroll
      for (int step = 0; step < kTile / 16; ++step)
        hopper::multiply_left<P, true>(second_sums, weights[step],
                                       along_rows(tile + Plan::kOperand, step, kSmallBox), true);
    }
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step)
      hopper::multiply_left<P, true>(first_sums, slopes[step], along_rows(tile, step, kSmallBox), true);
    hopper::products_commit<P>();
  };
  const auto sums_done = [&] {
    hopper::products_wait<P, 0>();
    hopper::products_done<P>(first_sums);
    if constexpr (kKeys) hopper::products_done<P>(second_sums);
  };
  // x becomes P, and y dS
  const auto weigh = [&](int t) {
    hopper::products_done<P>(x);
    hopper::products_done<P>(y);
    const int column = row_of_tile(t);
    multiply_all(x, scale);
    if (own.limits(column, kTile)) {
      if constexpr (kKeys)
        limit_queries<false>(p, b, head_of(t), rows, column, x);
      else
        limit_keys<false>(p, b, own_head, rows, column, x);
    }
    const float* const lse = numbers + hopper::place_of(t, kTileStages) * 2 * kTile + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kTile / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int at = n * 8 + e % 2;
        x[n][e] = exp2_of(x[n][e] - (kKeys ? lse[at] : own_lse[e / 2]));
        y[n][e] = x[n][e] * (y[n][e] - (kKeys ? lse[kTile + at] : own_delta[e / 2]));
      }
  };
  const auto round = [&] {
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      if constexpr (kKeys) as_left(x[2 * step], x[2 * step + 1], weights[step]);
      as_left(y[2 * step], y[2 * step + 1], slopes[step]);
    }
  };
  hopper::barrier_wait(own_full, 0);
  if constexpr (!Plan::template kOverlaps<kOwn>) {
#pragma unroll 1
    for (int t = 0; t < count; ++t) {
      multiply(t);
      hopper::products_wait<P, 0>();
      weigh(t);
      round();
      add(t);
      sums_done();
      if (lane == 0) hopper::barrier_arrive(empty + hopper::place_of(t, kTileStages));
    }
  } else if (count > 0) {
    multiply(0);
    hopper::products_wait<P, 0>();
    weigh(0);
    round();
#pragma unroll 1
    for (int t = 1; t < count; ++t) {
      multiply(t);
      add(t - 1);
      hopper::products_wait<P, 1>();
      weigh(t);
      sums_done();
      if (lane == 0) hopper::barrier_arrive(empty + hopper::place_of(t - 1, kTileStages));
      round();
    }
    add(count - 1);
    sums_done();
  }
  store_rows<kD>(first_out, b, own_head, rows, first_sums, static_cast<float>(p.scale));
  if constexpr (kKeys) store_rows<kD>(second_out, b, own_head, rows, second_sums, 1.0f);
#endif
}

template <int kD, Own kOwn>
Status backward(const Problem& p, const Maps& maps, const Queries& queries, const Tensor& first_out,
                const Tensor& second_out) {
  const bool keys = kOwn == Own::keys;
  const int64_t tiles = ceil_div(keys ? p.Tk : p.Tq, kConsumers * kTile),
                jobs = p.B * (keys ? p.Hkv : p.H) * tiles;
  return launch(backward_kernel<kD, kOwn>, dim3(static_cast<unsigned>(jobs)), kThreads, Backward<kD>::kShared,
                maps, p, queries, first_out, second_out, tiles);
}

}  // namespace sm90_attention

}  // namespace
}  // namespace cuda
}  // namespace roots
