// Quantized matrix products: matmul_i8 (exact int8 x int8 -> int32), linear_w8a8 (dynamic activation
// quantization, int8 product, float epilogue) and the packing of int8 weights. The arithmetic is in
// gemm/i8.h.
#include "cpu/declare.h"
#include "cpu/gemm/linear_i8.h"

namespace roots {
#if defined(__AMX_INT8__)
namespace avx512_vnni {
decltype(ROOTS_ISA::linear_w8a8) linear_w8a8;  // for few rows
}
#endif
namespace ROOTS_ISA {
namespace {

// One panel of weights and its 32 sums from a strided (N, K) view.
ROOTS_INLINE void pack_panel(const int8_t* w, int64_t n, int64_t k, int64_t row_stride, int64_t column_stride,
                             int64_t panel, int8_t* out, int32_t* sums) {
  const int64_t quads = (k + kQuad - 1) / kQuad;
  const int64_t columns = n - panel * kPanel < kPanel ? n - panel * kPanel : kPanel;
  for (int64_t c = 0; c < kPanel; ++c) sums[c] = 0;
  if (row_stride == 1 && columns == kPanel) {
    // neighbouring outputs are dense: four rows of k interleaved
    for (int64_t q = 0; q < quads; ++q) {
      static const int8_t zeros[kPanel] = {};
      const int8_t* rows[kQuad];
      for (int64_t e = 0; e < kQuad; ++e)
        rows[e] = q * kQuad + e < k ? w + panel * kPanel + (q * kQuad + e) * column_stride : zeros;
      const int8_t *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
      int8_t* __restrict to = out + q * kPanel * kQuad;
      for (int64_t c = 0; c < kPanel; ++c) {
        to[c * 4] = r0[c];
        to[c * 4 + 1] = r1[c];
        to[c * 4 + 2] = r2[c];
        to[c * 4 + 3] = r3[c];
      }
      for (int64_t c = 0; c < kPanel; ++c) sums[c] += r0[c] + r1[c] + r2[c] + r3[c];
    }
    return;
  }
  // whole quads of dense rows four bytes at a time; the rest element by element
  const int64_t whole = column_stride == 1 ? k / kQuad : 0;
  for (int64_t c = 0; c < kPanel; ++c) {
    const int8_t* row = w + (panel * kPanel + c) * row_stride;
    int8_t* to = out + c * kQuad;
    int32_t sum = 0;
    for (int64_t q = 0; q < quads; ++q, to += kPanel * kQuad) {
      int8_t quad[kQuad] = {};
      if (c < columns) {
        if (q < whole) {
          __builtin_memcpy(quad, row + q * kQuad, kQuad);
        } else {
          for (int64_t e = 0; e < kQuad && q * kQuad + e < k; ++e)
            quad[e] = row[(q * kQuad + e) * column_stride];
        }
      }
      __builtin_memcpy(to, quad, kQuad);
      sum += quad[0] + quad[1] + quad[2] + quad[3];
    }
    sums[c] = sum;
  }
}

}  // namespace

// a (M, K) times b (K, N), any strides, exact.
Status matmul_i8(const Context& context, Tensor a, Tensor b, Tensor out) {
  CHECK(a.rank == 2 && b.rank == 2 && out.rank == 2, "needs matrices");
  CHECK(a.dtype == DType::i8 && b.dtype == DType::i8 && out.dtype == DType::i32,
        "needs int8 inputs, int32 out");
  CHECK(a.shape[1] == b.shape[0] && out.shape[0] == a.shape[0] && out.shape[1] == b.shape[1],
        "shapes differ");
  CHECK(is_contiguous(out), "out must be contiguous");
  const int64_t M = a.shape[0], N = b.shape[1], K = a.shape[1];
  CHECK(K <= 65536, "inner dimension above 65536 could overflow int32");
  if (M == 0 || N == 0) return nullptr;
  const PackedShape shape(N, K);
  const ActivationTiles tiles(M, K);
  auto* packed =
      static_cast<int8_t*>(context.workspace(context.host, 0, static_cast<size_t>(shape.total_bytes())));
  auto* activations =
      static_cast<Activation8*>(context.workspace(context.host, 1, static_cast<size_t>(tiles.bytes() + 64)));
  CHECK(packed && activations, "out of memory");
  auto* sums = reinterpret_cast<int32_t*>(packed + shape.weight_bytes());
  context.parallel_for(shape.panels, [&](int64_t p) {
    pack_panel(data<int8_t>(b), N, K, b.strides[1], b.strides[0], p, packed + p * shape.panel_bytes(),
               sums + p * kPanel);
  });
  const uint8_t flip = kUnsignedActivations ? 128 : 0;
  context.parallel_for(ceil_div(M, 64), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * 64 < M ? (chunk + 1) * 64 : M;
    for (int64_t i = chunk * 64; i < end; ++i) {
      const int8_t* from = data<int8_t>(a) + i * a.strides[0];
      const int64_t whole =
          a.strides[1] == 1 ? tiles.put_dense(activations, i, from, K, flip * 0x01010101u) : 0;
      for (int64_t q = whole; q < tiles.quads; ++q) {
        uint8_t quad[kQuad];
        for (int64_t e = 0; e < kQuad; ++e)
          quad[e] = flip ^ (q * kQuad + e < K ? static_cast<uint8_t>(from[(q * kQuad + e) * a.strides[1]])
                                              : uint8_t{0});
        uint32_t word;
        __builtin_memcpy(&word, quad, kQuad);
        tiles.put_quad(tiles.at(activations, i, q), word);
      }
    }
  });
  return multiply(context, M, N, K, activations, DensePanels{packed, shape, M}, sums, out,
                  [&](int64_t i0, int64_t count, int64_t j, int64_t n, const int32_t(*acc)[kPanel]) {
                    using V = Vec<int32_t>;
                    for (int64_t r = 0; r < count; ++r)
                      for (int64_t c = 0; c < n; c += V::kWidth)
                        V::load(acc[r] + c)
                            .store_partial(data<int32_t>(out) + (i0 + r) * N + j + c,
                                           n - c < V::kWidth ? n - c : V::kWidth);
                  });
}

// x (..., K) float32 -> q (..., K) int8, scale (...): x ~ q * scale. Rows are dense, leading axes of any
// strides.
Status quantize_rows_i8(const Context& context, Tensor x, Tensor q, Tensor scale) {
  if (const Status status = check_quantize_rows(x, q, scale)) return status;
  const int64_t K = x.shape[x.rank - 1], M = numel(scale), per_chunk = kChunkElements / (K + 1) + 1;
  context.parallel_for(ceil_div(M, per_chunk), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < M ? (chunk + 1) * per_chunk : M;
    for (int64_t i = chunk * per_chunk; i < end; ++i)
      data<float>(scale)[row_offset(scale, x, i)] = quantize_row(
          data<float>(x) + row_offset(x, x, i), K, K, data<uint8_t>(q) + row_offset(q, x, i), false);
  });
  return nullptr;
}

// weight (N, K) int8 <-> packed (bytes of PackedShape). unpack = 1 restores the weights exactly.
Status linear_i8_pack(const Context& context, Tensor weight, Tensor packed, int64_t unpack) {
  const int64_t N = weight.shape[0], K = weight.shape[1];
  const PackedShape shape(N, K);
  if (const Status status = check_i8_pack(weight, packed, shape.total_bytes())) return status;
  int8_t* to = data<int8_t>(packed);
  int32_t* sums = reinterpret_cast<int32_t*>(to + shape.weight_bytes());
  context.parallel_for(shape.panels, [&](int64_t p) {
    if (!unpack) {
      pack_panel(data<int8_t>(weight), N, K, K, 1, p, to + p * shape.panel_bytes(), sums + p * kPanel);
      return;
    }
    for (int64_t c = 0; c < kPanel && p * kPanel + c < N; ++c)
      for (int64_t k = 0; k < K; ++k)
        data<int8_t>(weight)[(p * kPanel + c) * K + k] =
            to[p * shape.panel_bytes() + (k / kQuad) * kPanel * kQuad + c * kQuad + k % kQuad];
  });
  return nullptr;
}

// y = activation(x W^T + b) with W int8 per output row and x quantized per row on the fly.
Status linear_w8a8(const Context& context, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias,
                   OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  const PackedShape shape(out.shape[1], x.shape[1]);
  if (const Status status = check_linear_i8(x, packed, shape.total_bytes(), scale, out, end, true))
    return status;
#if defined(__AMX_INT8__)
  // a tile computes sixteen rows however few there are
  if (x.shape[0] <= kVectorRows)
    return avx512_vnni::linear_w8a8(context, x, packed, scale, bias, gate, residual, out, activation);
#endif
  const auto* weights = data<int8_t>(packed);
  return linear_i8(context, x, DensePanels{weights, shape, x.shape[0]},
                   reinterpret_cast<const int32_t*>(weights + shape.weight_bytes()), scale, out, end);
}

}  // namespace ROOTS_ISA
}  // namespace roots
