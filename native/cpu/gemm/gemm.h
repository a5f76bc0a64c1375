// C = A B, by the five loops of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
// 2008): blocks of N, of K, of M, and inside a chunk the tiles. A and B are packed so that the innermost loop
// reads both in order. Any strides; float and double by the same code. The order of additions depends on K
// alone, so results have the same bits for every number of threads.
#pragma once

#include "core/check.h"
#include "core/context.h"
#include "core/elementwise.h"
#include "core/status.h"
#include "cpu/gemm/tile_size.h"
#include "cpu/gemm/transpose.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

enum class Activation : int64_t { none = 0, gelu_tanh = 1, gelu_erf = 2, silu = 3, relu = 4 };
constexpr int64_t kNumActivations = 5;

template <class V>
ROOTS_INLINE V activate(Activation activation, V x) {
  switch (activation) {
    case Activation::gelu_tanh: return formula::gelu_tanh_formula::forward(x);
    case Activation::gelu_erf: return formula::gelu_erf_formula::forward(x);
    case Activation::silu: return formula::silu_formula::forward(x);
    case Activation::relu: return formula::relu_formula::forward(x);
    default: return x;
  }
}

// What happens to a finished piece of C: y = activation(c + bias); pre, if given, receives c + bias.
template <class T>
struct Epilogue {
  const T* bias = nullptr;  // (N)
  T* pre = nullptr;         // like C
  Activation activation = Activation::none;

  ROOTS_INLINE bool empty() const { return !bias && !pre && activation == Activation::none; }

  // columns [column, column + n) of one row of C; pre_offset is the offset of c in the whole matrix
  ROOTS_INLINE void apply(T* c, int64_t pre_offset, int64_t column, int64_t n) const {
    using V = Vec<T>;
    for (int64_t j = 0; j < n; j += V::kWidth) {
      const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
      V x = V::load_partial(c + j, m);
      if (bias) x = x + V::load_partial(bias + column + j, m);
      if (pre) x.store_partial(pre + pre_offset + j, m);
      activate(activation, x).store_partial(c + j, m);
    }
  }
};

// A read-only matrix: element (i, j) at data[i * rows + j * columns].
template <class T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride;
  ROOTS_INLINE const T* at(int64_t i, int64_t j) const { return data + i * row_stride + j * column_stride; }
};

// A panel: kTileRows rows, k-major. Rows beyond M are zero.
template <class T>
void pack_a_panel(const Matrix<T>& a, int64_t i0, int64_t rows, int64_t k0, int64_t depth, T* out) {
  constexpr int64_t W = Vec<T>::kWidth;
  if (a.column_stride == 1) {
    for (int64_t r = 0; r < kTileRows; r += W) {
      const int64_t left = rows - r < 0 ? 0 : rows - r;
      transpose_block(a.at(i0 + r, k0), a.row_stride, left < W ? left : W, depth, out + r, kTileRows,
                      kTileRows - r < W ? kTileRows - r : W);
    }
    return;
  }
  if (a.row_stride == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < kTileRows; r += W) {
        const int64_t left = rows - r < 0 ? 0 : rows - r;
        Vec<T>::load_partial(a.at(i0 + r, k0 + k), left < W ? left : W)
            .store_partial(out + k * kTileRows + r, kTileRows - r < W ? kTileRows - r : W);
      }
    return;
  }
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t r = 0; r < kTileRows; ++r) out[k * kTileRows + r] = r < rows ? *a.at(i0 + r, k0 + k) : T(0);
}

// B panel: kTileColumns columns, k-major. Columns beyond N are zero.
template <class T>
void pack_b_panel(const Matrix<T>& b, int64_t j0, int64_t columns, int64_t k0, int64_t depth, T* out) {
  constexpr int64_t kColumns = kTileColumns<T>, W = Vec<T>::kWidth;
  if (b.row_stride == 1) {
    for (int64_t c = 0; c < kColumns; c += W) {
      const int64_t left = columns - c < 0 ? 0 : columns - c;
      transpose_block(b.at(k0, j0 + c), b.column_stride, left < W ? left : W, depth, out + c, kColumns, W);
    }
    return;
  }
  if (b.column_stride == 1) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t c = 0; c < kColumns; c += W) {
        const int64_t left = columns - c < 0 ? 0 : columns - c;
        Vec<T>::load_partial(b.at(k0 + k, j0 + c), left < W ? left : W).store(out + k * kColumns + c);
      }
    return;
  }
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t c = 0; c < kColumns; ++c) out[k * kColumns + c] = c < columns ? *b.at(k0 + k, j0 + c) : T(0);
}

// One tile of C: Rows x kTileColumns. first: C = A B, otherwise C += A B.
template <class T, int Rows>
ROOTS_INLINE void tile(int64_t depth, const T* __restrict a, const T* __restrict b, T* __restrict c,
                       int64_t ldc, int64_t columns, bool first) {
  using V = Vec<T>;
  constexpr int W = V::kWidth;
  V acc[Rows * kTileVectors];
  for (int64_t k = 0; k < depth; ++k) {
    V bk[kTileVectors];
    unrolled<kTileVectors>([&](auto j) { bk[j] = V::load(b + k * kTileColumns<T> + j * W); });
    unrolled<Rows>([&](auto i) {
      const V ai(a[k * kTileRows + i]);
      unrolled<kTileVectors>(
          [&](auto j) { acc[i * kTileVectors + j] = fma(ai, bk[j], acc[i * kTileVectors + j]); });
    });
  }
  unrolled<Rows * kTileVectors>([&](auto n) {
    constexpr int i = decltype(n)::value / kTileVectors, j = decltype(n)::value % kTileVectors;
    T* p = c + i * ldc + j * W;
    const int64_t left = columns - j * W;
    if (left >= W) {
      (first ? acc[n] : acc[n] + V::load(p)).store(p);
    } else if (left > 0) {
      (first ? acc[n] : acc[n] + V::load_partial(p, left)).store_partial(p, left);
    }
  });
}

template <class T, int Rows>
void tile_rows(int64_t depth, const T* a, const T* b, T* c, int64_t ldc, int64_t columns, bool first) {
  tile<T, Rows>(depth, a, b, c, ldc, columns, first);
}

template <class T, int Rows = kTileRows>
ROOTS_INLINE void tile_dispatch(int64_t rows, int64_t depth, const T* a, const T* b, T* c, int64_t ldc,
                                int64_t columns, bool first) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return tile_dispatch<T, Rows - 1>(rows, depth, a, b, c, ldc, columns, first);
  }
  tile_rows<T, Rows>(depth, a, b, c, ldc, columns, first);
}

// Up to kSkinnyRows rows of A against columns [j0, j1) of B, B read in place.
template <class T>
void skinny(const Matrix<T>& a, const Matrix<T>& b, int64_t rows, int64_t depth, int64_t j0, int64_t j1, T* c,
            int64_t ldc) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  if (b.row_stride == 1) {
    // column j of B is dense along k: dot products, two vectors of independent sums per row
    for (int64_t j = j0; j < j1; ++j) {
      const T* column = b.at(0, j);
      for (int64_t i = 0; i < rows; ++i) {
        const T* row = a.at(i, 0);
        V acc0, acc1, acc2, acc3;
        int64_t k = 0;
        if (a.column_stride == 1) {
          for (; k + 4 * W <= depth; k += 4 * W) {
            acc0 = fma(V::load(row + k), V::load(column + k), acc0);
            acc1 = fma(V::load(row + k + W), V::load(column + k + W), acc1);
            acc2 = fma(V::load(row + k + 2 * W), V::load(column + k + 2 * W), acc2);
            acc3 = fma(V::load(row + k + 3 * W), V::load(column + k + 3 * W), acc3);
          }
          for (; k < depth; k += W) {
            const int64_t n = depth - k < W ? depth - k : W;
            acc0 = fma(V::load_partial(row + k, n), V::load_partial(column + k, n), acc0);
          }
          c[i * ldc + j] = horizontal_sum((acc0 + acc1) + (acc2 + acc3));
        } else {
          T total = T(0);
          for (; k < depth; ++k) total += row[k * a.column_stride] * column[k];
          c[i * ldc + j] = total;
        }
      }
    }
    return;
  }
  // rows of B are dense (or nothing is): up to four vectors of C at a time over all k
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = j0; j < j1;) {
      T* out = c + i * ldc + j;
      if (b.column_stride == 1 && j + 4 * W <= j1) {
        V acc[4];
        for (int64_t k = 0; k < depth; ++k) {
          const V x(*a.at(i, k));
          const T* row = b.at(k, j);
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) acc[q] = fma(x, V::load(row + q * W), acc[q]);
        }
        for (int q = 0; q < 4; ++q) acc[q].store(out + q * W);
        j += 4 * W;
      } else if (b.column_stride == 1) {
        const int64_t n = j1 - j < W ? j1 - j : W;
        V acc;
        for (int64_t k = 0; k < depth; ++k) acc = fma(V(*a.at(i, k)), V::load_partial(b.at(k, j), n), acc);
        acc.store_partial(out, n);
        j += n;
      } else {
        T total = T(0);
        for (int64_t k = 0; k < depth; ++k) total += *a.at(i, k) * *b.at(k, j);
        *out = total;
        ++j;
      }
    }
  }
}

// Packs columns [j0, j0 + columns) and depth [k0, k0 + depth) of B into one panel; replaced where B is not a
// plain matrix (int8 weights are widened here).
template <class T>
struct PackMatrix {
  Matrix<T> b;
  ROOTS_INLINE void operator()(int64_t j0, int64_t columns, int64_t k0, int64_t depth, T* out) const {
    pack_b_panel(b, j0, columns, k0, depth, out);
  }
};

ROOTS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// C (M, N), rows ldc apart, contiguous columns. Serial: everything on the calling thread, for use inside a
// chunk.
template <class T, bool Serial, class PackB>
Status gemm_packed(const Context& context, int64_t M, int64_t N, int64_t K, const Matrix<T>& a,
                   const PackB& pack_b, T* c, int64_t ldc, const Epilogue<T>& epilogue) {
  constexpr int64_t kColumns = kTileColumns<T>;
  auto buffer = Serial ? context.scratch : context.workspace;
  auto run = [&](int64_t chunks, const auto& body) {
    if constexpr (Serial) {
      for (int64_t i = 0; i < chunks; ++i) body(i);
    } else {
      context.parallel_for(chunks, body);
    }
  };
  const int64_t max_depth = K < kBlockK ? K : kBlockK;
  const int64_t m_tiles = ceil_div(M < kBlockM ? M : kBlockM, kTileRows);
  const int64_t n_tiles = ceil_div(N < kBlockN ? N : kBlockN, kColumns);
  T* a_pack = static_cast<T*>(
      buffer(context.host, 0, static_cast<size_t>(m_tiles * kTileRows * max_depth) * sizeof(T)));
  T* b_pack = static_cast<T*>(
      buffer(context.host, 1, static_cast<size_t>(n_tiles * kColumns * max_depth) * sizeof(T)));
  CHECK(a_pack && b_pack, "out of memory");

  const int64_t k_blocks = ceil_div(K, kBlockK),
                k_step = ceil_div(K, k_blocks);  // equal pieces of at most kBlockK
  for (int64_t jc = 0; jc < N; jc += kBlockN) {
    const int64_t nc = N - jc < kBlockN ? N - jc : kBlockN, n_panels = ceil_div(nc, kColumns);
    for (int64_t kc = 0; kc < K; kc += k_step) {
      const int64_t depth = K - kc < k_step ? K - kc : k_step;
      const bool first = kc == 0, last = kc + depth == K;
      for (int64_t ic = 0; ic < M; ic += kBlockM) {
        const int64_t mc = M - ic < kBlockM ? M - ic : kBlockM, m_panels = ceil_div(mc, kTileRows);
        // Pack: A panels, and B panels the first time round.
        const int64_t b_panels = ic == 0 ? n_panels : 0;
        const int64_t group = 4;  // panels per chunk
        const int64_t a_chunks = ceil_div(m_panels, group), b_chunks = ceil_div(b_panels, group);
        run(a_chunks + b_chunks, [&](int64_t chunk) {
          for (int64_t g = 0; g < group; ++g) {
            if (chunk < a_chunks) {
              const int64_t p = chunk * group + g, i0 = p * kTileRows;
              if (p >= m_panels) break;
              pack_a_panel(a, ic + i0, mc - i0 < kTileRows ? mc - i0 : kTileRows, kc, depth,
                           a_pack + p * kTileRows * depth);
            } else {
              const int64_t p = (chunk - a_chunks) * group + g, j0 = p * kColumns;
              if (p >= b_panels) break;
              pack_b(jc + j0, nc - j0 < kColumns ? nc - j0 : kColumns, kc, depth,
                     b_pack + p * kColumns * depth);
            }
          }
        });
        // Multiply. Short matrices take fewer row tiles per chunk, so that both threads find work.
        const int64_t row_group = m_panels < kChunkRowTiles ? m_panels : kChunkRowTiles;
        const int64_t column_group = kChunkColumnTiles * kChunkRowTiles / row_group;
        const int64_t columns_per_chunk = n_panels < column_group ? ceil_div(n_panels, 2) : column_group;
        const int64_t row_chunks = ceil_div(m_panels, row_group),
                      column_chunks = ceil_div(n_panels, columns_per_chunk);
        run(row_chunks * column_chunks, [&](int64_t chunk) {
          const int64_t p0 = (chunk % row_chunks) * row_group, q0 = (chunk / row_chunks) * columns_per_chunk;
          const int64_t p1 = p0 + row_group < m_panels ? p0 + row_group : m_panels;
          const int64_t q1 = q0 + columns_per_chunk < n_panels ? q0 + columns_per_chunk : n_panels;
          // one A panel stays in L1 while the B panels of the chunk stream from L2
          for (int64_t p = p0; p < p1; ++p) {
            const int64_t i0 = p * kTileRows, rows = mc - i0 < kTileRows ? mc - i0 : kTileRows;
            for (int64_t q = q0; q < q1; ++q) {
              const int64_t j0 = q * kColumns, columns = nc - j0 < kColumns ? nc - j0 : kColumns;
              const int64_t at = (ic + i0) * ldc + jc + j0;
              tile_dispatch<T>(rows, depth, a_pack + p * kTileRows * depth, b_pack + q * kColumns * depth,
                               c + at, ldc, columns, first);
              if (last && !epilogue.empty())
                for (int64_t r = 0; r < rows; ++r)
                  epilogue.apply(c + at + r * ldc, at + r * ldc, jc + j0, columns);
            }
          }
        });
      }
    }
  }
  return nullptr;
}

template <class T, bool Serial>
ROOTS_INLINE Status gemm(const Context& context, int64_t M, int64_t N, int64_t K, const Matrix<T>& a,
                         const Matrix<T>& b, T* c, int64_t ldc, const Epilogue<T>& epilogue = {}) {
  if (M == 0 || N == 0) return nullptr;
  if (K == 0) {
    for (int64_t i = 0; i < M; ++i) {
      for (int64_t j = 0; j < N; ++j) c[i * ldc + j] = T(0);
      if (!epilogue.empty()) epilogue.apply(c + i * ldc, i * ldc, 0, N);
    }
    return nullptr;
  }
  if (M <= kSkinnyRows) {
    // 64 KiB of B per chunk and more: memory-bound, so few chunks of whole cache lines
    int64_t columns = 262144 / (K > 0 ? K : 1);
    columns = columns < 64 ? 64 : columns / 64 * 64;
    const int64_t chunks = ceil_div(N, columns);
    auto body = [&](int64_t chunk) {
      const int64_t j0 = chunk * columns, j1 = j0 + columns < N ? j0 + columns : N;
      skinny(a, b, M, K, j0, j1, c, ldc);
      if (!epilogue.empty())
        for (int64_t i = 0; i < M; ++i) epilogue.apply(c + i * ldc + j0, i * ldc + j0, j0, j1 - j0);
    };
    if constexpr (Serial) {
      for (int64_t i = 0; i < chunks; ++i) body(i);
    } else {
      context.parallel_for(chunks, body);
    }
    return nullptr;
  }
  return gemm_packed<T, Serial>(context, M, N, K, a, PackMatrix<T>{b}, c, ldc, epilogue);
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
