// Products on tensor cores with mma.sync, for compute capability 8.0 and later: 16-bit floats and
// TF32 with float32 sums, int8 with exact int32 sums. Operands may be float32 (rounded on the way), the 16-bit
// float or int8, of any strides.
//
// A block of eight warps computes 128 x 128, a warp 64 x 32. Tiles of 64 bytes of K pass through two buffers
// of shared memory; the next tile is on its way from global memory, in registers, while the current one is
// multiplied. Rows of a buffer are 20 words apart: eight of them, 16 bytes each, touch all banks.
#pragma once

#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/mma.cuh"

namespace roots {
namespace cuda {
namespace sm80 {

constexpr int kTileM = 128, kTileN = 128, kThreads = 256;
constexpr int kWords = 16;          // of K per tile and row
constexpr int kPitch = kWords + 4;  // words between rows in shared memory
constexpr int kPerThread = kTileM * kWords / kThreads;
static_assert(kTileM == kTileN, "one loader serves both operands");
constexpr int kStageRows = 32, kStagePitch = 33;  // of a warp's results on their way out
static_assert(4 * kStageRows * kStagePitch <= 2 * kTileM * kPitch, "four warps share one operand's buffers");

enum class Source : int32_t { f32, half, i8 };  // half: bfloat16 or float16, as the product says

// rows along M or N, columns along K; strides in elements
struct Operand {
  const void* data;
  Source source;
  int64_t row_stride, column_stride;
  bool whole_words = false;  // set by gemm(): the elements of a word are neighbours, aligned for one load
};

template <class Half>
ROOTS_DEVICE uint32_t element(const Operand& x, int64_t at, HalfProduct<Half> p) {
  if (x.source == Source::f32) return p.pair(static_cast<const float*>(x.data)[at], 0.0f);
  return static_cast<const uint16_t*>(x.data)[at];
}

// The elements of one word, by one load.
struct alignas(8) TwoFloats {
  float first, second;
};
template <class Half>
ROOTS_DEVICE uint32_t word_at(const Operand& x, int64_t at, HalfProduct<Half> p) {
  if (x.source == Source::f32) {
    const TwoFloats two = static_cast<const TwoFloats*>(x.data)[at / 2];
    return p.pair(two.first, two.second);
  }
  return static_cast<const uint32_t*>(x.data)[at / 2];
}
// Half away from zero; infinities stay, and so do NaNs as the processor makes them.
ROOTS_DEVICE uint32_t element(const Operand& x, int64_t at, Tf32Product) {
  return (static_cast<const uint32_t*>(x.data)[at] + 0x1000u) & ~0x1fffu;
}
ROOTS_DEVICE uint32_t word_at(const Operand& x, int64_t at, Tf32Product p) { return element(x, at, p); }
ROOTS_DEVICE uint32_t word_at(const Operand& x, int64_t at, I8Product) {
  return static_cast<const uint32_t*>(x.data)[at / 4];
}

// Which word of the tile thread t loads in its j-th turn: neighbouring threads read neighbouring memory.
ROOTS_BOTH int tile_row(int t, int j, bool along_k) {
  return along_k ? (t + j * kThreads) / kWords : (t + j * kThreads) % kTileM;
}
ROOTS_BOTH int tile_word(int t, int j, bool along_k) {
  return along_k ? (t + j * kThreads) % kWords : (t + j * kThreads) / kTileM;
}

template <class P>
ROOTS_DEVICE void fetch(const Operand& x, int64_t offset, int64_t first, int64_t rows, int64_t k0, int64_t K,
                        uint32_t (&words)[kPerThread]) {
  const int t = static_cast<int>(threadIdx.x);
  const bool along_k = P::kWholeWords || x.column_stride == 1;
  if (P::kWholeWords || x.whole_words) {
    // one address that steps from row to row
    const int64_t k = k0 + t % kWords * P::kPerWord;
    int left = static_cast<int>(rows - first < kTileM ? rows - first : kTileM) - t / kWords;
    if (k >= K) left = 0;
    int64_t at = offset + (first + t / kWords) * x.row_stride + k;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      words[j] = j * (kThreads / kWords) < left ? word_at(x, at, P{}) : 0;
      at += kThreads / kWords * x.row_stride;
    }
  } else if constexpr (!P::kWholeWords) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int64_t row = first + tile_row(t, j, along_k), k = k0 + tile_word(t, j, along_k) * P::kPerWord;
      uint32_t word = 0;
      if (row < rows) {
        const int64_t at = offset + row * x.row_stride + k * x.column_stride;
#pragma unroll 1
        for (int e = 0; e < P::kPerWord; ++e)
          if (k + e < K) word |= element(x, at + e * x.column_stride, P{}) << (e * 32 / P::kPerWord);
      }
      words[j] = word;
    }
  }
}

ROOTS_DEVICE void put(const uint32_t (&words)[kPerThread], bool along_k, uint32_t (&tile)[kTileM][kPitch]) {
  const int t = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) tile[tile_row(t, j, along_k)][tile_word(t, j, along_k)] = words[j];
}

// finish(row, column, sum) stores one element.
template <class P, class Finish>
__global__ void __launch_bounds__(kThreads)
    gemm_kernel(int64_t M, int64_t N, int64_t K, Operand a, Operand b, Batches batches, Finish finish) {
  alignas(16) __shared__ uint32_t ta[2][kTileM][kPitch], tb[2][kTileN][kPitch];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  // the rows of the tiles that this lane points to (gemm/mma.cuh, load_matrices)
  const int row0 = warp / 4 * 64 + lane % 16, column0 = warp % 4 * 32 + lane / 16 * 8 + lane % 8;
  const int64_t i0 = static_cast<int64_t>(blockIdx.x) * kTileM,
                j0 = static_cast<int64_t>(blockIdx.y) * kTileN;
  constexpr int kDepth = kWords * P::kPerWord;
  for (int64_t batch = blockIdx.z; batch < batches.count; batch += gridDim.z) {
    int64_t ao, bo;
    batches.offsets(batch, &ao, &bo);
    typename P::Accumulator sum[4][4][4] = {};
    uint32_t next_a[kPerThread], next_b[kPerThread];
    fetch<P>(a, ao, i0, M, 0, K, next_a);
    fetch<P>(b, bo, j0, N, 0, K, next_b);
    int buffer = 0;
    for (int64_t k0 = 0; k0 < K; k0 += kDepth, buffer ^= 1) {
      put(next_a, a.column_stride == 1, ta[buffer]);
      put(next_b, b.column_stride == 1, tb[buffer]);
      // One barrier a tile: who writes this buffer again, two tiles on, has passed the next barrier, and
      // everyone who passes that one has read this buffer.
      __syncthreads();
      if (k0 + kDepth < K) {
        fetch<P>(a, ao, i0, M, k0 + kDepth, K, next_a);
        fetch<P>(b, bo, j0, N, k0 + kDepth, K, next_b);
      }
#pragma unroll
      for (int w = 0; w < kWords; w += 8) {
        uint32_t fa[4][4], fb[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) load_matrices(fa[i], &ta[buffer][row0 + 16 * i][w + lane / 16 * 4]);
#pragma unroll
        for (int j = 0; j < 2; ++j) load_matrices(fb[j], &tb[buffer][column0 + 16 * j][w + lane / 8 % 2 * 4]);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const uint32_t column[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
            mma<P>(sum[i][j], fa[i], column);
          }
      }
    }
    // Each warp passes its sums through its own part of the buffers, 32 rows at a time, and stores whole rows
    // of 32: one copy of the epilogue, and dense writes.
    __syncthreads();
    auto* mine = reinterpret_cast<typename P::Accumulator*>(warp < 4 ? &ta[0][0][0] : &tb[0][0][0]) +
                 warp % 4 * (kStageRows * kStagePitch);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int r = 0; r < 4; ++r)
            mine[(lane / 4 + 16 * i + r / 2 * 8) * kStagePitch + 8 * j + lane % 4 * 2 + r % 2] =
                sum[half * 2 + i][j][r];
      __syncwarp();
      const int64_t column = j0 + warp % 4 * 32 + lane;
#pragma unroll 1
      for (int r = 0; r < kStageRows; ++r) {
        const int64_t row = i0 + warp / 4 * 64 + half * 32 + r;
        if (row < M && column < N) finish(batch, row, column, mine[r * kStagePitch + lane]);
      }
      __syncwarp();
    }
    __syncthreads();
  }
}

template <class P>
bool whole_words(const Operand& x, int64_t K, const Batches& batches, const int64_t* strides) {
  const uintptr_t alignment = x.source == Source::f32 ? 4 * P::kPerWord : 4;
  bool whole = x.column_stride == 1 && x.row_stride % P::kPerWord == 0 && K % P::kPerWord == 0 &&
               reinterpret_cast<uintptr_t>(x.data) % alignment == 0;
  for (int32_t i = 0; i < batches.rank; ++i) whole = whole && strides[i] % P::kPerWord == 0;
  return whole;
}

template <class P, class Finish>
Status gemm(int64_t M, int64_t N, int64_t K, Operand a, Operand b, const Batches& batches,
            const Finish& finish) {
  a.whole_words = whole_words<P>(a, K, batches, batches.a);
  b.whole_words = whole_words<P>(b, K, batches, batches.b);
  CHECK(!P::kWholeWords || (a.whole_words && b.whole_words), "operands must be rows of whole words");
  if (M == 0 || N == 0 || batches.count == 0) return nullptr;
  CHECK(ceil_div(N, kTileN) <= kMostBatches, "more than 8 million columns");
  return launch(gemm_kernel<P, Finish>, grid_of(M, N, kTileM, kTileN, batches.count), kThreads, 0, M, N, K, a,
                b, batches, finish);
}

// Float results through an epilogue; sums of int8 products are converted first.
struct StoreFloat {
  Epilogue<float> epilogue;
  int64_t M, N;
  template <class A>
  ROOTS_DEVICE void operator()(int64_t batch, int64_t row, int64_t column, A sum) const {
    epilogue.store(batch * M * N, row, column, N, static_cast<float>(sum));
  }
};

struct StoreInt {
  int32_t* out;
  int64_t N;
  ROOTS_DEVICE void operator()(int64_t, int64_t row, int64_t column, int32_t sum) const {
    out[row * N + column] = sum;
  }
};

}  // namespace sm80
}  // namespace cuda
}  // namespace roots
