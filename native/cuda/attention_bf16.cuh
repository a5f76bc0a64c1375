// What attention from operands rounded to bfloat16 shares, forward and backward: rows of heads as tensor
// cores want them, and the two products of mma.sync that both are made of. A warp owns 16 rows (queries, or
// keys for their gradients), whose sums stay in its registers; the eight warps of a block share tiles of 64
// rows of two operands in shared memory, loaded one tile ahead. Sums come out of one product as the next
// takes its left operand, so scores never leave the registers (FlashAttention-2, arXiv 2307.08691).
#pragma once

#include "cuda/attention.cuh"
#include "cuda/gemm/mma.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kMmaWarps = 8, kMmaThreads = kMmaWarps * kWarp, kRowsPerWarp = 16;
constexpr int kRowsPerBlock = kMmaWarps * kRowsPerWarp, kTileRows = 64;
constexpr float kLog2e = 1.44269504f, kLn2 = 0.69314718f;
// Wider heads go to the general kernels of attention.cuh.
constexpr int64_t kWidestHead = 128;
// Positions are counted in 32 bits.
constexpr int64_t kLongest = int64_t{1} << 30;

ROOTS_DEVICE float exp2_of(float x) {
#if defined(ROOTS_CUDA_EMULATED)
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// --- operands
// ---------------------------------------------------------------------------------------------------

// A tensor (B, H, T, head) as dense rows of bfloat16 of a fixed width, zeros behind the head's elements;
// rows are 16-byte aligned. Strides in elements.
struct HeadRows {
  const uint16_t* data;
  int64_t batch, head, row;
  ROOTS_DEVICE const uint16_t* at(int64_t b, int64_t h, int64_t i) const {
    return data + b * batch + h * head + i * row;
  }
};

// Two elements of a float32 row by one load.
struct alignas(8) FloatPair {
  float low, high;
};

// One thread: 8 elements of a row.
template <bool kPairs>
__global__ void round_rows_kernel(Tensor x, int64_t width, uint16_t* to, int64_t chunks) {
  const int64_t H = x.shape[1], T = x.shape[2], D = x.shape[3];
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < chunks;
       c += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t d = c % (width / 8) * 8, row = c / (width / 8);
    const int64_t i = row % T, h = row / T % H, b = row / T / H;
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int64_t at = d + 2 * w;
      if constexpr (kPairs) {
        words[w] = 0;
        if (at < D) {
          const auto two = reinterpret_cast<const FloatPair*>(row_of<float>(x, b, h, i))[at / 2];
          words[w] = bf16_pair(two.low, two.high);
        }
      } else {
        words[w] = bf16_pair(at < D ? value_at<float>(x, b, h, i, at) : 0.0f,
                             at + 1 < D ? value_at<float>(x, b, h, i, at + 1) : 0.0f);
      }
    }
    struct alignas(16) Chunk {
      uint32_t words[4];
    };
    reinterpret_cast<Chunk*>(to)[c] = {{words[0], words[1], words[2], words[3]}};
  }
}

// x itself when it is such rows, else a copy in workspace `slot`.
inline Status head_rows(const Tensor& x, int64_t width, int slot, HeadRows* rows) {
  const auto steps_by = [&](int64_t n) {
    return x.strides[0] % n == 0 && x.strides[1] % n == 0 && x.strides[2] % n == 0;
  };
  const auto address = reinterpret_cast<uintptr_t>(x.data);
  if (x.dtype == DType::bf16 && x.shape[3] == width && address % 16 == 0 && steps_by(8)) {
    *rows = {data<const uint16_t>(x), x.strides[0], x.strides[1], x.strides[2]};
    return nullptr;
  }
  const int64_t H = x.shape[1], T = x.shape[2], chunks = x.shape[0] * H * T * (width / 8);
  auto* to = static_cast<uint16_t*>(workspace(slot, static_cast<size_t>(chunks) * 16));
  CHECK(to != nullptr, kOutOfMemory);
  *rows = {to, H * T * width, T * width, width};
  if (chunks == 0) return nullptr;
  const bool pairs = x.dtype == DType::f32 && x.shape[3] % 2 == 0 && address % 8 == 0 && steps_by(2);
  return launch(pairs ? round_rows_kernel<true> : round_rows_kernel<false>, grid_for(ceil_div(chunks, 256)),
                256, 0, x, width, to, chunks);
}

// --- tiles
// ------------------------------------------------------------------------------------------------------

template <int kD, int kRows = kTileRows>
constexpr int kTileBytes = kRows * kD * 2;

// Where 8 elements of a row lie in a tile: chunks of eight rows are swizzled, so that eight rows of one
// column of chunks touch all banks. Chunk c XOR n is n * 16 bytes XOR those of chunk c: one address serves
// all chunks of a row.
template <int kD>
ROOTS_BOTH int chunk_at(int row, int chunk) {
  return row * kD * 2 + ((chunk ^ (row & 7)) << 4);
}

// Rows [first, first + kRows) of a head on their way into a tile; zeros beyond `rows`.
template <int kD, int kRows = kTileRows>
ROOTS_DEVICE void load_tile(unsigned char* tile, const uint16_t* head, int64_t row_stride, int64_t first,
                            int64_t rows) {
  constexpr int kChunks = kD / 8;
#pragma unroll
  for (int turn = 0; turn < kRows * kChunks / kMmaThreads; ++turn) {
    const int at = static_cast<int>(threadIdx.x) + turn * kMmaThreads, r = at / kChunks, c = at % kChunks;
    const bool valid = first + r < rows;
    copy_16(tile + chunk_at<kD>(r, c), head + (valid ? first + r : 0) * row_stride + c * 8, valid);
  }
}

// 16 rows of a head as left operands of products along the head, 16 elements of it at a time: kept in
// registers, zeros beyond `rows`,
template <int kD>
struct LeftInRegisters {
  static constexpr int kUnroll = kD / 16;  // of the loop over s: registers have no addresses
  uint32_t words[kD / 16][4];

  ROOTS_DEVICE LeftInRegisters(const uint16_t* head, int64_t row_stride, int64_t first, int64_t rows) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = first + lane / 4 + r * 8;
      const auto* from = reinterpret_cast<const uint32_t*>(head + (row < rows ? row : 0) * row_stride);
#pragma unroll
      for (int s = 0; s < kD / 16; ++s)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          words[s][r + 2 * half] = row < rows ? from[s * 8 + lane % 4 + half * 4] : 0;
    }
  }
  ROOTS_DEVICE void get(int s, uint32_t (&left)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) left[i] = words[s][i];
  }
};
// or read from rows [row, row + 16) of a tile every time.
template <int kD>
struct LeftInTile {
  static constexpr int kUnroll = 2;  // more, and the loads ahead take more registers than there are
  const unsigned char* tile;
  int row;
  ROOTS_DEVICE void get(int s, uint32_t (&left)[4]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices(left, tile + (chunk_at<kD>(row + lane % 16, lane / 16) ^ s * 32));
  }
};

// sums (16, 8 kN) = left (16, kD) times the transpose of rows [row, row + 8 kN) of a tile.
template <int kD, int kN, class Left>
ROOTS_DEVICE void times_rows(float (&sums)[kN][4], const Left& left_rows, const unsigned char* tile,
                             int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int at = chunk_at<kD>(row + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0.0f;
#pragma unroll(Left::kUnroll)
  for (int s = 0; s < kD / 16; ++s) {
    uint32_t left[4];
    left_rows.get(s, left);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t words[4];
      load_matrices(words, tile + (at ^ s * 32) + n * 8 * kD * 2);
      const uint32_t first[2] = {words[0], words[1]}, second[2] = {words[2], words[3]};
      mma<Bf16Product>(sums[n], left, first);
      mma<Bf16Product>(sums[n + 1], left, second);
    }
  }
}

// sums (16, kD) += left (16, 16) times rows [row, row + 16) of a tile.
template <int kD>
ROOTS_DEVICE void add_product(float (&sums)[kD / 8][4], const uint32_t (&left)[4], const unsigned char* tile,
                              int row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int at = chunk_at<kD>(row + lane % 16, lane / 16);
#pragma unroll
  for (int n = 0; n < kD / 8; n += 2) {
    uint32_t words[4];
    load_matrices_transposed(words, tile + (at ^ n * 16));
    const uint32_t first[2] = {words[0], words[1]}, second[2] = {words[2], words[3]};
    mma<Bf16Product>(sums[n], left, first);
    mma<Bf16Product>(sums[n + 1], left, second);
  }
}

// Two neighbouring blocks of sums (16, 8) as a left operand (16, 16).
ROOTS_DEVICE void as_left(const float (&a)[4], const float (&b)[4], uint32_t (&left)[4]) {
  left[0] = bf16_pair(a[0], a[1]);
  left[1] = bf16_pair(a[2], a[3]);
  left[2] = bf16_pair(b[0], b[1]);
  left[3] = bf16_pair(b[2], b[3]);
}

// sums (16, kD) += weights (16, 8 kN), rounded, times rows [row, row + 8 kN) of a tile.
template <int kD, int kN>
ROOTS_DEVICE void add_products(float (&sums)[kD / 8][4], const float (&weights)[kN][4],
                               const unsigned char* tile, int row) {
#pragma unroll
  for (int s = 0; s < kN / 2; ++s) {
    uint32_t left[4];
    as_left(weights[2 * s], weights[2 * s + 1], left);
    add_product<kD>(sums, left, tile, row + s * 16);
  }
}

template <int kN>
ROOTS_DEVICE void multiply_all(float (&x)[kN][4], float factor) {
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) x[n][e] *= factor;
}
// Each of a lane's two rows by its own factor.
template <int kN>
ROOTS_DEVICE void multiply_rows(float (&x)[kN][4], const float (&factors)[2]) {
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) x[n][e] *= factors[e / 2];
}

// Two tiles of two operands in turn: while one pair is worked on, the next is on its way. body(pair of tiles,
// index) for `count` of them; load(tiles, index) starts the copies of one.
template <int kPairBytes, class Load, class Body>
ROOTS_DEVICE void for_tiles(unsigned char* shared, int count, const Load& load, const Body& body) {
  __syncthreads();  // the tiles of the job before have been read
  if (count > 0) load(shared, 0);
  copies_commit();
#pragma unroll 1
  for (int t = 0; t < count; ++t) {
    copies_wait<0>();
    // everybody's copies have arrived, and everybody has read the tiles that the next ones replace
    __syncthreads();
    if (t + 1 < count) load(shared + (t + 1) % 2 * kPairBytes, t + 1);
    copies_commit();
    body(shared + t % 2 * kPairBytes, t);
  }
  copies_wait<0>();
}

template <int kD, int kRows = kTileRows>
constexpr int kPairBytes = 2 * kTileBytes<kD, kRows>;

inline bool fits_tiles(const Problem& p) {
  return p.D <= kWidestHead && p.Dv <= kWidestHead && p.Tq <= kLongest && p.Tk <= kLongest;
}
// Rows of 128 elements, or of 64.
inline bool wide_rows(const Problem& p) { return p.D > 64 || p.Dv > 64; }

ROOTS_DEVICE int tiles_in(int64_t rows, int tile_rows) {
  return rows > 0 ? static_cast<int>((rows + tile_rows - 1) / tile_rows) : 0;
}

// Of some rows: the columns that any sees, and those that all see.
struct Range {
  int first, last, all_first, all_last;
  ROOTS_DEVICE bool touches(int from, int count) const { return from < last && from + count > first; }
  ROOTS_DEVICE bool limits(int from, int count) const { return from < all_first || from + count > all_last; }
};
ROOTS_DEVICE Range range_of(int64_t first, int64_t last, int64_t all_first, int64_t all_last) {
  return {static_cast<int>(first), static_cast<int>(last), static_cast<int>(all_first),
          static_cast<int>(all_last)};
}
// The keys of `count` queries from i0 on. Both ends grow with the query.
ROOTS_DEVICE Range keys_of(const Problem& p, int64_t b, int64_t i0, int64_t count) {
  if (i0 >= p.Tq) return {0, 0, 0, 0};
  const int64_t i1 = i0 + count < p.Tq ? i0 + count : p.Tq;
  return range_of(p.first_key(b, i0), p.last_key(b, i1 - 1), p.first_key(b, i1 - 1), p.last_key(b, i0));
}

// The queries of a job. The last ones see the most keys: they start first.
struct QueryBlock {
  int64_t b, h, kv;
  int first;
};
ROOTS_DEVICE QueryBlock query_block(const Problem& p, int64_t job, int64_t tiles) {
  const int64_t h = job / tiles % p.H;
  return {job / tiles / p.H, h, h / (p.H / p.Hkv), static_cast<int>(tiles - 1 - job % tiles) * kRowsPerBlock};
}

// Of one row: columns of a tile.
struct Columns {
  int first, last;
  ROOTS_DEVICE bool has(int column) const { return column >= first && column < last; }
};
ROOTS_DEVICE Columns columns_of(int64_t first, int64_t last, int64_t from) {
  const auto within = [](int64_t n) { return static_cast<int>(n < 0 ? 0 : n > kLongest ? kLongest : n); };
  return {within(first - from), within(last - from)};
}

// Row r of the two that a lane has in the scores (in powers of two) of 8 kN columns: the mask, if there is
// one, is added, and what is not seen becomes minus infinity. mask: of this row and the first column.
template <int kN>
ROOTS_DEVICE void limit(float (&scores)[kN][4], int r, const Columns& seen, const float* mask,
                        int64_t mask_step) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& score = scores[n][2 * r + e];
      const bool visible = seen.has(n * 8 + column + e);
      if (mask && visible) score = fmaf(mask[(n * 8 + column + e) * mask_step], kLog2e, score);
      if (!visible) score = -infinity(0.0f);
    }
}
// The same of queries as rows and keys from j0 on as columns; kMask: there may be a mask.
template <bool kMask, int kN>
ROOTS_DEVICE void limit_keys(const Problem& p, int64_t b, int64_t h, const int (&rows)[2], int64_t j0,
                             float (&scores)[kN][4]) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (rows[r] < p.Tq)
      limit(scores, r, columns_of(p.first_key(b, rows[r]), p.last_key(b, rows[r]), j0),
            kMask && p.mask.data ? row_of<float>(p.mask, b, h, rows[r]) + j0 * p.mask.strides[3] : nullptr,
            p.mask.strides[3]);
}

// One number per row from the four lanes that share it.
template <class Join>
ROOTS_DEVICE float of_row(float x, const Join& join) {
  x = join(x, __shfl_xor_sync(kAllLanes, x, 1));
  return join(x, __shfl_xor_sync(kAllLanes, x, 2));
}

// What a lane knows of the softmax of its two rows.
struct Running {
  float top[2] = {-infinity(0.0f), -infinity(0.0f)};
  float total[2] = {0.0f, 0.0f};  // of the lane's own columns
  float keep[2];                  // what the sums before count for, relative to the new maximum

  // Scores in powers of two become weights.
  template <int kN>
  ROOTS_DEVICE void weigh(float (&scores)[kN][4]) {
    float best[2] = {top[0], top[1]}, shift[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) best[e / 2] = fmaxf(best[e / 2], scores[n][e]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      best[r] = of_row(best[r], [](float x, float y) { return fmaxf(x, y); });
      shift[r] = best[r] == -infinity(0.0f) ? 0.0f : best[r];
      keep[r] = exp2_of(top[r] - shift[r]);
      top[r] = best[r];
    }
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2_of(scores[n][e] - shift[e / 2]);
        sum[e / 2] += scores[n][e];
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) total[r] = total[r] * keep[r] + sum[r];
  }
};

// The end of the forward pass of two rows of a lane.
template <int kD>
ROOTS_DEVICE void store_attention(const Problem& p, int64_t b, int64_t h, const int (&rows)[2],
                                  const float (&sums)[kD / 8][4], const Running& softmax) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float all = of_row(softmax.total[r], [](float x, float y) { return x + y; });
    if (rows[r] >= p.Tq) continue;
    const float inverse = all == 0.0f ? 0.0f : 1.0f / all;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = n * 8 + lane % 4 * 2 + e;
        if (d < p.Dv) store_at<float>(p.out, b, h, rows[r], d, sums[n][2 * r + e] * inverse);
      }
    if (lane % 4 == 0)
      static_cast<float*>(p.lse.data)[(b * p.H + h) * p.Tq + rows[r]] =
          all == 0.0f ? -infinity(0.0f) : softmax.top[r] * kLn2 + log_of(all);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace roots
