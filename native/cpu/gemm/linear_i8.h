// What the products of quantized activations share: every tile of an int8 product, and the linear layer
// around it.
#pragma once

#include "core/check.h"
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/i8.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr Status kOutOfMemory = "out of memory";

// Panels are asked for while the one before is multiplied, a slice with each tile. With fewer tiles than this
// a panel is read once and in order, which the processor foresees by itself.
constexpr int64_t kPrefetchTiles = 4;

// Multiply-adds of a chunk of a large product, and the fewest chunks of one.
#if defined(__AMX_INT8__)
constexpr int64_t kChunkProducts = int64_t{1} << 26, kFewestChunks = 8;
#else
constexpr int64_t kChunkProducts = int64_t{1} << 22, kFewestChunks = 4;
#endif

// Part `slice` of `slices` of the next bytes to read, into the second-level cache.
ROOTS_INLINE void prefetch_slice(const int8_t* data, int64_t bytes, int64_t slice, int64_t slices) {
  const int64_t end = bytes * (slice + 1) / slices;
  for (int64_t i = bytes * slice / slices; i < end; i += 64) __builtin_prefetch(data + i, 0, 2);
}

// Panels as they lie in memory, or widened where many tiles read each; linear_w8a8_24.cc has others.
struct DensePanels {
  const int8_t* data;
  PackedShape shape;
  bool widened = false;
  ROOTS_INLINE DensePanels(const int8_t* d, const PackedShape& s, [[maybe_unused]] int64_t rows)
      : data(d), shape(s) {
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    widened = rows >= 4 * kI8Rows;
#endif
  }
  // What tile() reads, for `row_tiles` calls; nullptr when there is no memory.
  ROOTS_INLINE const int8_t* panel([[maybe_unused]] const Context& context, int64_t p, int64_t) const {
    const int8_t* from = data + p * shape.panel_bytes();
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    if (widened) {
      auto* to = static_cast<int16_t*>(
          context.scratch(context.host, 6, static_cast<size_t>(2 * shape.panel_bytes() + 1)));
      if (to) widen_panel(shape.quads, from, to);
      return reinterpret_cast<const int8_t*>(to);
    }
#endif
    return from;
  }
  ROOTS_INLINE void prefetch(int64_t p, int64_t slice, int64_t slices) const {
    prefetch_slice(data + p * shape.panel_bytes(), shape.panel_bytes(), slice, slices);
  }
  ROOTS_INLINE void tile(int64_t count, int64_t quads, const Activation8* a, int64_t stride,
                         const int8_t* panel, const int32_t* sums, int32_t (*out)[kPanel]) const {
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    if (widened) return i8_tile_dispatch<true>(count, quads, a, stride, panel, sums, out);
#endif
    i8_tile_dispatch(count, quads, a, stride, panel, sums, out);
  }
};

// All tiles of (M, N): finish(first row, rows, first column, columns, sums of the tile), which writes to
// `out`, (M, N) of four bytes each.
template <class Weights, class Finish>
ROOTS_INLINE Status multiply(const Context& context, int64_t M, int64_t N, int64_t K,
                             const Activation8* activations, const Weights& weights, const int32_t* sums,
                             const Tensor& out, const Finish& finish) {
  Status failure = nullptr;
  const PackedShape shape(N, K);
  const ActivationTiles tiles(M, K);
  const int64_t height = tiles.height, row_tiles = tiles.count;
  // as many tiles to a chunk as keep its activations in the second-level cache
  const int64_t in_cache = (int64_t{1} << 19) / (tiles.tile_bytes() + 1) + 1;
  const int64_t row_chunks = ceil_div(row_tiles, in_cache);
  const int64_t tiles_per_chunk = ceil_div(row_tiles, row_chunks);
  // A chunk is at least half a million multiply-adds: less is not worth waking a thread for. Large products
  // are cut into enough panels for 20-50 us.
  const int64_t per_panel = tiles_per_chunk * height * K * kPanel + 1;
  int64_t panels_per_chunk = ceil_div(kChunkProducts, per_panel);
  const int64_t most = ceil_div(shape.panels, kFewestChunks), least = ceil_div(int64_t{1} << 19, per_panel);
  if (panels_per_chunk > most) panels_per_chunk = most > least ? most : least;
  const int64_t panel_chunks = ceil_div(shape.panels, panels_per_chunk);
  context.parallel_for(row_chunks * panel_chunks, [&](int64_t chunk) {
    const int64_t p0 = (chunk / row_chunks) * panels_per_chunk;
    const int64_t p1 = p0 + panels_per_chunk < shape.panels ? p0 + panels_per_chunk : shape.panels;
    const int64_t t0 = (chunk % row_chunks) * tiles_per_chunk;
    const int64_t t1 = t0 + tiles_per_chunk < row_tiles ? t0 + tiles_per_chunk : row_tiles;
    [[maybe_unused]] ActivationTiles::Registers registers;
    for (int64_t p = p0; p < p1; ++p) {
      const int8_t* panel = weights.panel(context, p, t1 - t0);
      if (!panel) {
        __atomic_store_n(&failure, kOutOfMemory, __ATOMIC_RELAXED);
        return;
      }
      for (int64_t t = t0; t < t1; ++t) {
        if (p + 1 < shape.panels && t1 - t0 >= kPrefetchTiles) weights.prefetch(p + 1, t - t0, t1 - t0);
        const int64_t i0 = t * height, count = M - i0 < height ? M - i0 : height;
        const int64_t j0 = p * kPanel, columns = N - j0 < kPanel ? N - j0 : kPanel;
        // the rows of the tile lie far apart: without this the stores wait for memory one after another
        for (int64_t r = 0; r < count; ++r) {
          const float* line = data<float>(out) + (i0 + r) * N + j0;
          __builtin_prefetch(line, 1);
          __builtin_prefetch(line + 16, 1);
        }
        alignas(64) int32_t acc[kI8Rows][kPanel];
        weights.tile(count, shape.quads, activations + t * tiles.tile_size(), tiles.stride(), panel,
                     sums + p * kPanel, acc);
        finish(i0, count, j0, columns, acc);
      }
    }
  });
  return failure;
}

// y = gate * activation(x W^T + b) + residual, x quantized per row on the fly.
template <class Weights>
Status linear_i8(const Context& context, const Tensor& x, const Weights& weights, const int32_t* sums,
                 const Tensor& scale, const Tensor& out, const LinearEnd& end) {
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  if (M == 0 || N == 0) return nullptr;
  const ActivationTiles tiles(M, K);
  auto* activations =
      static_cast<Activation8*>(context.workspace(context.host, 0, static_cast<size_t>(tiles.bytes() + 64)));
  auto* row_scale = static_cast<float*>(context.workspace(context.host, 1, static_cast<size_t>(M) * 4));
  CHECK(activations && row_scale, "out of memory");
  // about 16 Ki elements per chunk, so that a few rows are quantized without waking a thread
  const int64_t rows = 16384 / (K > 0 ? K : 1) + 1;
  Status failure = nullptr;
  context.parallel_for(ceil_div(M, rows), [&](int64_t chunk) {
    const int64_t padded = tiles.quads * kQuad;
    auto* row = static_cast<uint8_t*>(context.scratch(context.host, 5, static_cast<size_t>(padded)));
    if (!row) {
      __atomic_store_n(&failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    const int64_t end = (chunk + 1) * rows < M ? (chunk + 1) * rows : M;
    for (int64_t i = chunk * rows; i < end; ++i) {
      row_scale[i] = quantize_row(data<float>(x) + i * K, K, padded, row, kUnsignedActivations);
      tiles.put(activations, i, row);
    }
  });
  if (failure) return failure;
  const Epilogue<float> all(end);
  return multiply(
      context, M, N, K, activations, weights, sums, out,
      [&](int64_t i0, int64_t count, int64_t j, int64_t n, const int32_t(*acc)[kPanel]) {
        using V = Vec<float>;
        const Epilogue<float> epilogue = all;  // a copy: stores to y cannot change it
        const float* s = data<float>(scale) + j;
        const float* scales = row_scale + i0;
        with_activation(epilogue.activation, [&](auto f) ROOTS_INLINED {
          for (int64_t r = 0; r < count; ++r) {
            const int64_t at = (i0 + r) * N + j;
            float* y = data<float>(out) + at;
            const V row(scales[r]);
            const auto one = [&](int64_t c, int64_t m) ROOTS_INLINED {
              const V sum(__builtin_convertvector(Vec<int32_t>::load(acc[r] + c).v, V::Raw));
              const V product = sum * (row * V::load_partial(s + c, m));
              epilogue.finish_with<decltype(f)>(product, at + c, j + c, m).store_partial(y + c, m);
            };
            int64_t c = 0;
            for (; c + V::kWidth <= n; c += V::kWidth) one(c, V::kWidth);
            if (c < n) one(c, n - c);
          }
        });
      });
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
