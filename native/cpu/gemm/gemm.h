// C = A B, by the five loops of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication",
// 2008): blocks of N, of K, of M, and inside a chunk the tiles. A and B are packed so that the innermost loop
// reads both in order. Any strides; float and double by the same code. The order of additions depends on K
// alone, so results have the same bits for every number of threads.
#pragma once

#include "core/check.h"
#include "core/context.h"
#include "core/product.h"
#include "core/status.h"
#include "cpu/gemm/tile_size.h"
#include "cpu/gemm/transpose.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// What happens to a finished piece of C, as LinearEnd has it.
template <class T>
struct Epilogue {
  const T* bias = nullptr;                       // (N)
  const T *gate = nullptr, *residual = nullptr;  // like C
  T* slope = nullptr;                            // like C
  Activation activation = Activation::none;
  bool accumulate = false;  // C += A B

  Epilogue() = default;
  explicit Epilogue(const LinearEnd& end)
      : bias(data<const T>(end.bias)),
        gate(data<const T>(end.gate)),
        residual(data<const T>(end.residual)),
        slope(data<T>(end.slope)),
        activation(static_cast<Activation>(end.activation)) {}

  ROOTS_INLINE bool only_adds() const { return !gate && !slope && activation == Activation::none; }
  ROOTS_INLINE bool empty() const { return !bias && !residual && only_adds(); }

  // for the columns of C from `column` on
  ROOTS_INLINE Epilogue from(int64_t column) const {
    Epilogue part = *this;
    const T** const inputs[] = {&part.bias, &part.gate, &part.residual};
    for (const T** p : inputs)
      if (*p) *p += column;
    if (slope) part.slope += column;
    return part;
  }

  // m finished sums from `column` on, at `at` in the whole matrix, when there is no slope
  ROOTS_INLINE Vec<T> finish(Vec<T> x, int64_t at, int64_t column, int64_t m) const {
    if (bias) x = x + Vec<T>::load_partial(bias + column, m);
    return combine(activate(activation, x), gate, residual, at, m);
  }
  // the same, where F is the formula of the activation
  template <class F>
  ROOTS_INLINE Vec<T> finish_with(Vec<T> x, int64_t at, int64_t column, int64_t m) const {
    if (bias) x = x + Vec<T>::load_partial(bias + column, m);
    return combine(F::forward(x), gate, residual, at, m);
  }

  // columns [column, column + n) of rows of C, ldc apart; `at` is the offset of c in the whole matrix
  void apply(T* c, int64_t ldc, int64_t at, int64_t column, int64_t rows, int64_t n) const {
    with_activation(activation, [&](auto f) {
      using F = decltype(f);
      slope ? apply_with<F, true>(c, ldc, at, column, rows, n)
            : apply_with<F, false>(c, ldc, at, column, rows, n);
    });
  }

 private:
  template <class F, bool Slope>
  ROOTS_INLINE void apply_with(T* c, int64_t ldc, int64_t at, int64_t column, int64_t rows, int64_t n) const {
    using V = Vec<T>;
    // copies: stores to C might change what `this` points to, as far as the compiler knows
    const T *const by = gate, *const plus = residual;
    T* const slopes = slope;
    const T* const offsets = bias ? bias + column : nullptr;
    for (int64_t r = 0; r < rows; ++r) {
      T* row = c + r * ldc;
      const int64_t start = at + r * ldc;
      const auto one = [&](int64_t j, int64_t m) ROOTS_INLINED {
        V x = V::load_partial(row + j, m);
        if (offsets) x = x + V::load_partial(offsets + j, m);
        if constexpr (Slope) F::derivative(x).store_partial(slopes + start + j, m);
        combine(F::forward(x), by, plus, start + j, m).store_partial(row + j, m);
      };
      int64_t j = 0;
      for (; j + V::kWidth <= n; j += V::kWidth) one(j, V::kWidth);
      if (j < n) one(j, n - j);
    }
  }
  static ROOTS_INLINE Vec<T> combine(Vec<T> y, const T* by, const T* plus, int64_t at, int64_t m) {
    if (by) y = y * Vec<T>::load_partial(by + at, m);
    if (plus) y = y + Vec<T>::load_partial(plus + at, m);
    return y;
  }
};

ROOTS_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many items make a chunk: `least` are worth waking a thread for; where there is work for two threads, so
// few that there are eight chunks, and none waits for long for the last.
ROOTS_INLINE int64_t items_per_chunk(int64_t count, int64_t least) {
  const int64_t eighth = ceil_div(count, 8);
  return count >= 2 * least && eighth < least ? eighth : least;
}

// body(first column, columns) for all N, `step` at a time, in parallel: the first status that is not null.
template <class Body>
ROOTS_INLINE Status for_columns(const Context& context, int64_t N, int64_t step, const Body& body) {
  Status failure = nullptr;
  context.parallel_for(ceil_div(N, step), [&](int64_t chunk) {
    const int64_t j0 = chunk * step;
    const Status status = body(j0, N - j0 < step ? N - j0 : step);
    if (status) __atomic_store_n(&failure, status, __ATOMIC_RELAXED);
  });
  return failure;
}

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
  if (a.row_stride == 1 && rows == kTileRows) {
    const T* from = a.at(i0, k0);
    const int64_t stride = a.column_stride;
    for (int64_t k = 0; k < depth; ++k, from += stride, out += kTileRows)
      __builtin_memcpy(out, from, kTileRows * sizeof(T));
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

// Row tiles and column tiles of a chunk.
struct ChunkGrid {
  int64_t rows, columns;
};

// What panels share that the tiles below multiply.
struct VectorPanels {
  static constexpr int64_t kRows = kTileRows;       // of a panel of A
  static constexpr int64_t kDepth = kBlockK;        // packed elements along k at most
  static constexpr int64_t kAtOnce = kPackedBytes;  // bytes of panels before the first is multiplied
  static constexpr bool kEqualHeights = true;       // a small last panel would take as long as a whole one
  static constexpr bool kOwnTile = false;           // or tile() multiplies, and Registers live around it
  static constexpr int64_t padded(int64_t depth) { return depth; }  // of a panel of A
  struct Registers {};
  // Thirty-two chunks and more where each is still worth waking a thread for: with fewer, one thread waits
  // for the other's last chunk.
  static ROOTS_INLINE ChunkGrid chunks(int64_t m_panels, int64_t n_panels, int64_t tile_flops) {
    const int64_t least = ceil_div(kLeastChunkFlops, tile_flops);
    int64_t tiles = ceil_div(m_panels * n_panels, 32);
    tiles = tiles < least ? least : tiles;
    tiles = tiles < kChunkRowTiles * kChunkColumnTiles ? tiles : kChunkRowTiles * kChunkColumnTiles;
    int64_t rows = tiles / (n_panels < kChunkColumnTiles ? n_panels : kChunkColumnTiles);
    rows = rows < 1 ? 1 : (rows < kChunkRowTiles ? rows : kChunkRowTiles);
    rows = rows < m_panels ? rows : m_panels;
    const int64_t columns = ceil_div(tiles, rows);
    return {rows, columns < n_panels ? columns : n_panels};
  }
};

// How panels are stored and multiplied: one element of T per k here, a pair of bf16 per lane in gemm/bf16.h.
template <class T>
struct PlainPanels : VectorPanels {
  using Value = T;                  // of C and of the sums
  using Packed = T;                 // an element of a packed panel
  static constexpr int kGroup = 1;  // k per packed element
  static ROOTS_INLINE Vec<T> load(const Packed* p) { return Vec<T>::load(p); }
  static ROOTS_INLINE Vec<T> broadcast(Packed a) { return Vec<T>(a); }
  static ROOTS_INLINE Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> sum) { return fma(a, b, sum); }
};

// Where the rows of a tile of A lie: side by side for each k (a packed panel, or a transposed matrix in
// place), or each along k (a matrix in place).
enum class ARows { side_by_side, along_k };

// One tile of C = onto + bias + A B, each where there is one: Rows x kTileColumns, depth in packed elements.
// onto lies as C does, and may be C. lda is the distance of neighbouring k (side_by_side) or rows (along_k);
// ldb that of neighbouring k.
template <class P, ARows Layout, int Rows>
ROOTS_INLINE void tile(int64_t depth, const typename P::Packed* __restrict a, int64_t lda,
                       const typename P::Packed* __restrict b, int64_t ldb, typename P::Value* c, int64_t ldc,
                       int64_t columns, const typename P::Value* onto, const typename P::Value* bias) {
  using V = Vec<typename P::Value>;
  using Packed = typename P::Packed;
  constexpr int W = V::kWidth;
  // the sums start at the bias
  V start[kTileVectors], acc[Rows * kTileVectors];
  unrolled<kTileVectors>([&](auto j) ROOTS_INLINED {
    const int64_t left = columns - j * W;
    start[j] = bias && left > 0 ? V::load_partial(bias + j * W, left < W ? left : W) : V();
  });
  unrolled<Rows>([&](auto i) ROOTS_INLINED {
    unrolled<kTileVectors>([&](auto j) ROOTS_INLINED { acc[i * kTileVectors + j] = start[j]; });
  });
  // C is asked for before it is needed, and what it is added to
  unrolled<Rows>([&](auto i) ROOTS_INLINED {
    __builtin_prefetch(c + i * ldc, 1);
    __builtin_prefetch(c + i * ldc + W, 1);
  });
  if (onto && onto != c)
    unrolled<Rows>([&](auto i) ROOTS_INLINED {
      __builtin_prefetch(onto + i * ldc);
      __builtin_prefetch(onto + i * ldc + W);
    });
  auto multiply = [&](const auto& element) ROOTS_INLINED {
    decltype(P::load(b)) bk[kTileVectors];
    unrolled<kTileVectors>([&](auto j) ROOTS_INLINED { bk[j] = P::load(b + j * W); });
    unrolled<Rows>([&](auto i) ROOTS_INLINED {
      const auto ai = P::broadcast(element(i));
      unrolled<kTileVectors>([&](auto j) ROOTS_INLINED {
        acc[i * kTileVectors + j] = P::multiply_add(ai, bk[j], acc[i * kTileVectors + j]);
      });
    });
    b += ldb;
  };
  if constexpr (Layout == ARows::side_by_side) {
    for (int64_t k = 0; k < depth; ++k, a += lda) multiply([&](auto i) ROOTS_INLINED { return a[i]; });
  } else {
    // A pointer to every third row: with lda in a register, rows in between are addresses of one instruction.
    constexpr int kBases = (Rows + 2) / 3;
    const Packed* base[kBases];
    unrolled<kBases>([&](auto q) ROOTS_INLINED { base[q] = a + 3 * q * lda; });
    for (int64_t k = 0; k < depth; ++k) {
      multiply([&](auto i) ROOTS_INLINED { return base[i / 3][(i % 3) * lda]; });
      // kept as pointers: the compiler would make one for every row and spill them
      unrolled<kBases>([&](auto q) ROOTS_INLINED {
        ++base[q];
        __asm__("" : "+r"(base[q]));
      });
    }
  }
  unrolled<Rows * kTileVectors>([&](auto n) ROOTS_INLINED {
    constexpr int i = decltype(n)::value / kTileVectors, j = decltype(n)::value % kTileVectors;
    const int64_t at = i * ldc + j * W, left = columns - j * W;
    if (left >= W) {
      (onto ? acc[n] + V::load(onto + at) : acc[n]).store(c + at);
    } else if (left > 0) {
      (onto ? acc[n] + V::load_partial(onto + at, left) : acc[n]).store_partial(c + at, left);
    }
  });
}

template <class P, ARows Layout, int Rows>
void tile_rows(int64_t depth, const typename P::Packed* a, int64_t lda, const typename P::Packed* b,
               int64_t ldb, typename P::Value* c, int64_t ldc, int64_t columns, const typename P::Value* onto,
               const typename P::Value* bias) {
  tile<P, Layout, Rows>(depth, a, lda, b, ldb, c, ldc, columns, onto, bias);
}

template <class P, ARows Layout, int Rows = kTileRows>
ROOTS_INLINE void tile_dispatch(int64_t rows, int64_t depth, const typename P::Packed* a, int64_t lda,
                                const typename P::Packed* b, int64_t ldb, typename P::Value* c, int64_t ldc,
                                int64_t columns, const typename P::Value* onto,
                                const typename P::Value* bias) {
  if constexpr (Rows > 1) {
    if (rows < Rows)
      return tile_dispatch<P, Layout, Rows - 1>(rows, depth, a, lda, b, ldb, c, ldc, columns, onto, bias);
  }
  tile_rows<P, Layout, Rows>(depth, a, lda, b, ldb, c, ldc, columns, onto, bias);
}

// An operand that the tiles can read where it is.
template <class T>
struct InPlace {
  const T* data = nullptr;  // null: it has to be packed
  int64_t row_stride = 0, column_stride = 0, ld = 0;
  ARows layout = ARows::side_by_side;
  // not 0: columns lie in panels as wide as a tile, padded with zeros, and j begins one
  int64_t panel_stride = 0;
  ROOTS_INLINE const T* at(int64_t i, int64_t j) const {
    if (panel_stride) return data + j / kTileColumns<float> * panel_stride + i * row_stride;
    return data + i * row_stride + j * column_stride;
  }
};

// Rows of A and columns of B both lie along k, as in x W^T.
template <class T>
ROOTS_INLINE bool dense_along_k(const Matrix<T>& a, const Matrix<T>& b) {
  return a.column_stride == 1 && b.row_stride == 1;
}

// kWidth dot products at once, of Rows rows of A with kWidth / Rows columns of B, all dense along k: every
// vector of both is loaded once, and one transpose adds up all sums.
template <class D, int Rows>
ROOTS_INLINE void dot_tile(const typename D::Row* const* rows, const typename D::Column* const* columns,
                           int64_t depth, typename D::Value* sums) {
  using V = Vec<typename D::Value>;
  constexpr int W = V::kWidth, kColumns = W / Rows;
  V acc[W] = {};
  auto step = [&](int64_t k, int64_t n) {
    decltype(D::load(rows[0], 0)) x[Rows];
    unrolled<Rows>([&](auto i) ROOTS_INLINED { x[i] = D::load(rows[i] + k, n); });
    unrolled<kColumns>([&](auto j) ROOTS_INLINED {
      const auto y = D::load(columns[j] + k, n);
      unrolled<Rows>([&](auto i) ROOTS_INLINED {
        acc[i * kColumns + j] = D::multiply_add(x[i], y, acc[i * kColumns + j]);
      });
    });
  };
  int64_t k = 0;
  for (; k + D::kStep <= depth; k += D::kStep) step(k, D::kStep);
  if (k < depth) step(k, depth - k);
  transpose_square(acc);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) acc[i] = acc[i] + acc[i + half];
  acc[0].store(sums);
}

// Dot products of plain numbers; gemm/bf16.h has others.
template <class T>
struct PlainDots {
  using Value = T;
  using Row = T;
  using Column = T;
  static constexpr int64_t kStep = Vec<T>::kWidth;  // elements of a row at a time
  static ROOTS_INLINE Vec<T> load(const T* p, int64_t n) { return Vec<T>::load_partial(p, n); }
  static ROOTS_INLINE Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> sum) { return fma(a, b, sum); }
};

// All rows of A (lda apart) against columns [j0, j1) of B (ldb apart), both dense along k.
template <class D, int Rows>
void dot_rows(const typename D::Row* a, int64_t lda, const typename D::Column* b, int64_t ldb, int64_t M,
              int64_t depth, int64_t j0, int64_t j1, typename D::Value* c, int64_t ldc) {
  constexpr int W = Vec<typename D::Value>::kWidth, kColumns = W / Rows;
  for (int64_t j = j0; j < j1; j += kColumns) {
    const typename D::Column* columns[kColumns];
    // beyond the end: the last one again, not stored
    for (int q = 0; q < kColumns; ++q) columns[q] = b + (j + q < j1 ? j + q : j1 - 1) * ldb;
    const int64_t n = j1 - j < kColumns ? j1 - j : kColumns;
    for (int64_t i = 0; i < M; i += Rows) {
      const typename D::Row* rows[Rows];
      for (int r = 0; r < Rows; ++r) rows[r] = a + (i + r < M ? i + r : M - 1) * lda;
      typename D::Value sums[W];
      dot_tile<D, Rows>(rows, columns, depth, sums);
      for (int64_t r = 0; r < Rows && i + r < M; ++r)
        for (int64_t q = 0; q < n; ++q) c[(i + r) * ldc + j + q] = sums[r * kColumns + q];
    }
  }
}

// One row of A: bound by reading B, so each column is read to its end before the next, as one stream.
template <class D>
void dot_row(const typename D::Row* a, const typename D::Column* b, int64_t ldb, int64_t depth, int64_t j0,
             int64_t j1, typename D::Value* c) {
  using V = Vec<typename D::Value>;
  constexpr int W = V::kWidth, kSums = 8;
  constexpr int64_t kStep = D::kStep;
  for (int64_t j = j0; j < j1; j += W) {
    const int64_t n = j1 - j < W ? j1 - j : W;
    V total[W] = {};
    for (int64_t q = 0; q < n; ++q) {
      const typename D::Column* column = b + (j + q) * ldb;
      V acc[kSums] = {};
      int64_t k = 0;
      for (; k + kSums * kStep <= depth; k += kSums * kStep)
        unrolled<kSums>([&](auto u) ROOTS_INLINED {
          acc[u] = D::multiply_add(D::load(a + k + u * kStep, kStep), D::load(column + k + u * kStep, kStep),
                                   acc[u]);
        });
      for (; k < depth; k += kStep) {
        const int64_t m = depth - k < kStep ? depth - k : kStep;
        acc[0] = D::multiply_add(D::load(a + k, m), D::load(column + k, m), acc[0]);
      }
      for (int half = kSums / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) acc[i] = acc[i] + acc[i + half];
      total[q] = acc[0];
    }
    transpose_square(total);
    for (int half = W / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) total[i] = total[i] + total[i + half];
    total[0].store_partial(c + j, n);
  }
}

template <class D>
ROOTS_INLINE void dots(const typename D::Row* a, int64_t lda, const typename D::Column* b, int64_t ldb,
                       int64_t M, int64_t depth, int64_t j0, int64_t j1, typename D::Value* c, int64_t ldc) {
  constexpr int W = Vec<typename D::Value>::kWidth;
  if (M == 1) return dot_row<D>(a, b, ldb, depth, j0, j1, c);
  if (M == 2) return dot_rows<D, 2>(a, lda, b, ldb, M, depth, j0, j1, c, ldc);
  return dot_rows < D, W<4 ? 2 : 4>(a, lda, b, ldb, M, depth, j0, j1, c, ldc);
}

// Columns of B per chunk of such a product: 10-20 us of reading B, or with more rows of arithmetic.
ROOTS_INLINE int64_t dot_columns(int64_t M, int64_t N, int64_t K) {
  const int64_t groups = 131072 / ceil_div(M, 8) / K / 16;  // of 16 columns
  return items_per_chunk(ceil_div(N, 16), groups < 1 ? 1 : groups) * 16;
}

// Few rows of A against columns [j0, j1) of B, B read in place.
template <class T>
void skinny(const Matrix<T>& a, const Matrix<T>& b, int64_t rows, int64_t depth, int64_t j0, int64_t j1, T* c,
            int64_t ldc) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  if (dense_along_k(a, b))
    return dots<PlainDots<T>>(a.data, a.row_stride, b.data, b.column_stride, rows, depth, j0, j1, c, ldc);
  // rows of B are dense (or nothing is): up to four vectors of C at a time over all k
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = j0; j < j1;) {
      T* out = c + i * ldc + j;
      if (b.column_stride == 1 && j + 4 * W <= j1) {
        V acc[4] = {};
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
        V acc{};
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

// Packs rows [i0, i0 + rows) of A, or columns [j0, j0 + columns) of B, and depth [k0, k0 + depth) into one
// panel; others do the same where the operand is not a plain matrix (int8 weights are widened, floats rounded
// to bf16).
template <class T>
struct PackRows {
  static constexpr bool kInPlace = true;
  Matrix<T> a;
  // Rows along k are read in place unless they would fall on the same few lines of the L1 cache; rows side by
  // side when few columns of B pass by.
  ROOTS_INLINE InPlace<T> in_place(int64_t N) const {
    if (a.column_stride == 1 && (a.row_stride * static_cast<int64_t>(sizeof(T))) % 4096 != 0)
      return {a.data, a.row_stride, 1, a.row_stride, ARows::along_k};
    if (a.row_stride == 1 && N <= kFewColumns) return {a.data, 1, a.column_stride, a.column_stride};
    return {};
  }
  ROOTS_INLINE void operator()(int64_t i0, int64_t rows, int64_t k0, int64_t depth, T* out) const {
    pack_a_panel(a, i0, rows, k0, depth, out);
  }
};
template <class T>
struct PackColumns {
  static constexpr bool kInPlace = true;
  Matrix<T> b;
  // Rows of B are read in place when they stay in the L2 cache, or too few rows of A pass by to pay for
  // packing.
  ROOTS_INLINE InPlace<T> in_place(int64_t M, int64_t N, int64_t K) const {
    if (b.column_stride == 1 && (M <= kFewRows || K * N * static_cast<int64_t>(sizeof(T)) <= kInPlaceBytes))
      return {b.data, b.row_stride, 1, b.row_stride};
    return {};
  }
  ROOTS_INLINE void operator()(int64_t j0, int64_t columns, int64_t k0, int64_t depth, T* out) const {
    pack_b_panel(b, j0, columns, k0, depth, out);
  }
};

// C (M, N), rows ldc apart, contiguous columns. Serial: everything on the calling thread, for use inside a
// chunk.
template <class P, bool Serial, class PackA, class PackB>
Status gemm_packed(const Context& context, int64_t M, int64_t N, int64_t K, const PackA& pack_a,
                   const PackB& pack_b, typename P::Value* c, int64_t ldc,
                   const Epilogue<typename P::Value>& epilogue) {
  using Packed = typename P::Packed;
  constexpr int64_t kColumns = kTileColumns<typename P::Value>, kGroup = P::kGroup,
                    kMaxDepth = P::kDepth * kGroup, kRows = P::kRows;
  auto buffer = Serial ? context.scratch : context.workspace;
  auto run = [&](int64_t chunks, const auto& body) {
    if constexpr (Serial) {
      for (int64_t i = 0; i < chunks; ++i) body(i);
    } else {
      context.parallel_for(chunks, body);
    }
  };
  // equal pieces of at most kMaxDepth, whole groups
  const int64_t k_blocks = ceil_div(K, kMaxDepth),
                k_step = P::padded(ceil_div(ceil_div(K, k_blocks), kGroup)) * kGroup;
  const int64_t m_tiles = ceil_div(M < kBlockM ? M : kBlockM, kRows);
  const int64_t n_tiles = ceil_div(N < kBlockN ? N : kBlockN, kColumns);
  InPlace<Packed> a_place, b_place;
  if constexpr (PackA::kInPlace) a_place = pack_a.in_place(N);
  if constexpr (PackB::kInPlace) b_place = pack_b.in_place(M, N, K);
  const int64_t a_panels = a_place.data ? 0 : m_tiles, b_panels = b_place.data ? 1 : n_tiles;
  // All blocks of K are packed, and then multiplied, at once where they stay in L3: each time all threads
  // wait for the slowest.
  const int64_t panel_step = k_step / kGroup, a_block = a_panels * kRows * panel_step,
                b_block = b_panels * kColumns * panel_step;
  int64_t at_once = P::kAtOnce / (static_cast<int64_t>(sizeof(Packed)) * (a_block + b_block) + 1);
  at_once = at_once < 1 ? 1 : at_once < k_blocks ? at_once : k_blocks;
  auto* a_pack = static_cast<Packed*>(
      buffer(context.host, 0, static_cast<size_t>(a_block * at_once + 1) * sizeof(Packed)));
  auto* b_pack =
      static_cast<Packed*>(buffer(context.host, 1, static_cast<size_t>(b_block * at_once) * sizeof(Packed)));
  CHECK(a_pack && b_pack, "out of memory");

  const int64_t lda = a_place.data ? a_place.ld : kRows;
  // Tiles begin with the bias, and with the residual if nothing happens in between and its rows do not fall
  // on the same few lines of the L1 cache as those of C, unless they add to what is there.
  const bool apart = (ldc * static_cast<int64_t>(sizeof(typename P::Value))) % 4096 != 0;
  const typename P::Value* starts = epilogue.accumulate ? nullptr : epilogue.bias;
  const typename P::Value* residual =
      !epilogue.accumulate && epilogue.only_adds() && apart ? epilogue.residual : nullptr;
  auto rest = epilogue;
  if (starts) rest.bias = nullptr;
  if (residual) rest.residual = nullptr;
  auto multiply = [&](int64_t rows, int64_t depth, const Packed* a, const Packed* b, int64_t ldb,
                      typename P::Value* to, int64_t columns, const typename P::Value* onto,
                      const typename P::Value* bias) {
    if constexpr (PackA::kInPlace) {
      if (a_place.layout == ARows::along_k)
        return tile_dispatch<P, ARows::along_k>(rows, depth, a, lda, b, ldb, to, ldc, columns, onto, bias);
    }
    if constexpr (P::kOwnTile)
      P::tile(rows, depth, a, b, to, ldc, columns, onto, bias);
    else
      tile_dispatch<P, ARows::side_by_side>(rows, depth, a, lda, b, ldb, to, ldc, columns, onto, bias);
  };

  for (int64_t jc = 0; jc < N; jc += kBlockN) {
    const int64_t nc = N - jc < kBlockN ? N - jc : kBlockN, n_panels = ceil_div(nc, kColumns);
    for (int64_t k0 = 0; k0 < K; k0 += k_step * at_once) {
      const int64_t k_end = k0 + k_step * at_once < K ? k0 + k_step * at_once : K;
      const int64_t blocks = ceil_div(k_end - k0, k_step);
      for (int64_t ic = 0; ic < M; ic += kBlockM) {
        const int64_t mc = M - ic < kBlockM ? M - ic : kBlockM, m_panels = ceil_div(mc, kRows);
        const int64_t height = P::kEqualHeights ? ceil_div(mc, m_panels) : kRows;
        // Pack: A panels, and B panels the first time round; of a B read in place only a last one that is
        // partial.
        const int64_t b_first = b_place.panel_stride ? n_panels
                                : b_place.data       ? nc / kColumns
                                                     : 0,
                      b_end = ic == 0 ? n_panels : b_first;
        const int64_t group = 4;  // panels per chunk
        const int64_t a_chunks = a_place.data ? 0 : ceil_div(m_panels, group),
                      b_chunks = ceil_div(b_end - b_first, group);
        run((a_chunks + b_chunks) * blocks, [&](int64_t part) {
          const int64_t block = part / (a_chunks + b_chunks), chunk = part % (a_chunks + b_chunks);
          const int64_t kc = k0 + block * k_step, depth = k_end - kc < k_step ? k_end - kc : k_step,
                        groups = ceil_div(depth, kGroup);
          for (int64_t g = 0; g < group; ++g) {
            if (chunk < a_chunks) {
              const int64_t p = chunk * group + g, i0 = p * height;
              if (i0 >= mc) break;
              pack_a(ic + i0, mc - i0 < height ? mc - i0 : height, kc, depth,
                     a_pack + block * a_block + p * kRows * P::padded(groups));
            } else {
              const int64_t p = b_first + (chunk - a_chunks) * group + g, j0 = p * kColumns;
              if (p >= b_end) break;
              pack_b(jc + j0, nc - j0 < kColumns ? nc - j0 : kColumns, kc, depth,
                     b_pack + block * b_block + (p - b_first) * kColumns * groups);
            }
          }
        });
        // multiply
        const ChunkGrid grid = P::chunks(m_panels, n_panels, int64_t{2} * kRows * kColumns * (k_end - k0));
        const int64_t row_group = grid.rows, columns_per_chunk = grid.columns;
        const int64_t row_chunks = ceil_div(m_panels, row_group),
                      column_chunks = ceil_div(n_panels, columns_per_chunk);
        run(row_chunks * column_chunks, [&](int64_t chunk) {
          // a thread takes neighbouring chunks: a share of the longer side, so that its cache needs to hold
          // but that
          const int64_t p0 = (mc >= nc ? chunk / column_chunks : chunk % row_chunks) * row_group;
          const int64_t q0 = (mc >= nc ? chunk % column_chunks : chunk / row_chunks) * columns_per_chunk;
          const int64_t p1 = p0 + row_group < m_panels ? p0 + row_group : m_panels;
          const int64_t q1 = q0 + columns_per_chunk < n_panels ? q0 + columns_per_chunk : n_panels;
          [[maybe_unused]] typename P::Registers registers;
          for (int64_t block = 0; block < blocks; ++block) {
            const int64_t kc = k0 + block * k_step, depth = k_end - kc < k_step ? k_end - kc : k_step,
                          groups = ceil_div(depth, kGroup);
            const bool first = kc == 0 && !epilogue.accumulate;
            const Packed *a_panel = a_pack + block * a_block, *b_panel = b_pack + block * b_block;
            const auto one = [&](int64_t p, int64_t q) {
              const int64_t i0 = p * height, rows = mc - i0 < height ? mc - i0 : height;
              if (rows <= 0) return;
              const Packed* a =
                  a_place.data ? a_place.at(ic + i0, kc) : a_panel + p * kRows * P::padded(groups);
              const int64_t j0 = q * kColumns, columns = nc - j0 < kColumns ? nc - j0 : kColumns;
              const int64_t at = (ic + i0) * ldc + jc + j0;
              const Packed* b = q < b_first ? b_place.at(kc / kGroup, jc + j0)
                                            : b_panel + (q - b_first) * kColumns * groups;
              const int64_t ldb = q < b_first ? b_place.ld : kColumns;
              multiply(rows, groups, a, b, ldb, c + at, columns,
                       !first     ? c + at
                       : residual ? residual + at
                                  : nullptr,
                       starts && first ? starts + jc + j0 : nullptr);
            };
            // the panel of the outer loop stays in L1 while the others of the chunk stream from L2
            if constexpr (kColumnsStay) {
              for (int64_t q = q0; q < q1; ++q)
                for (int64_t p = p0; p < p1; ++p) one(p, q);
            } else {
              for (int64_t p = p0; p < p1; ++p)
                for (int64_t q = q0; q < q1; ++q) one(p, q);
            }
          }
          // along rows of the whole chunk, which L2 holds: tile by tile, rows of operands and of C lie far
          // apart
          if (k_end == K && !rest.empty()) {
            const int64_t i0 = ic + p0 * height, i1 = p1 * height < mc ? ic + p1 * height : ic + mc;
            const int64_t j0 = jc + q0 * kColumns, j1 = q1 * kColumns < nc ? jc + q1 * kColumns : jc + nc;
            if (i1 > i0) rest.apply(c + i0 * ldc + j0, ldc, i0 * ldc + j0, j0, i1 - i0, j1 - j0);
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
      if (!epilogue.accumulate)
        for (int64_t j = 0; j < N; ++j) c[i * ldc + j] = T(0);
    }
    if (!epilogue.empty()) epilogue.apply(c, ldc, 0, 0, M, N);
    return nullptr;
  }
  if (M <= (dense_along_k(a, b) ? kDotRows : kSkinnyRows) && !epilogue.accumulate) {
    int64_t columns = 262144 / K / 64 * 64;
    columns = dense_along_k(a, b) ? dot_columns(M, N, K) : columns < 64 ? 64 : columns;
    const int64_t chunks = ceil_div(N, columns);
    auto body = [&](int64_t chunk) {
      const int64_t j0 = chunk * columns, j1 = j0 + columns < N ? j0 + columns : N;
      skinny(a, b, M, K, j0, j1, c, ldc);
      if (!epilogue.empty()) epilogue.apply(c + j0, ldc, j0, j0, M, j1 - j0);
    };
    if constexpr (Serial) {
      for (int64_t i = 0; i < chunks; ++i) body(i);
    } else {
      context.parallel_for(chunks, body);
    }
    return nullptr;
  }
  return gemm_packed<PlainPanels<T>, Serial>(context, M, N, K, PackRows<T>{a}, PackColumns<T>{b}, c, ldc,
                                             epilogue);
}

// one(batch, a offset, b offset, serial) for every product of a batch. Many small products: several per
// chunk, each serial. Few large ones: each in parallel. Depends on shapes alone.
template <bool Value>
struct Constant {
  static constexpr bool value = Value;
};
template <class One>
ROOTS_INLINE Status each_product(const Context& context, const Tensor& a, const Tensor& b, const Tensor& out,
                                 const One& one) {
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1], K = a.shape[r - 1];
  int64_t batches = 1;
  for (int32_t i = 0; i < r - 2; ++i) batches *= out.shape[i];
  auto run = [&](int64_t batch, auto serial) {
    int64_t rest = batch, ao = 0, bo = 0;
    for (int32_t i = r - 3; i >= 0; --i) {
      const int64_t index = rest % out.shape[i];
      rest /= out.shape[i];
      ao += index * a.strides[i];
      bo += index * b.strides[i];
    }
    return one(batch, ao, bo, serial);
  };
  if (batches > 1 && M * N * K < (int64_t{1} << 24)) {
    // the only failure is memory, the same for all
    Status failure = nullptr;
    const int64_t work = M * N * K > 0 ? M * N * K : 1;
    const int64_t per_chunk = work > 4000000 ? 1 : 4000000 / work;
    context.parallel_for(ceil_div(batches, per_chunk), [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * per_chunk < batches ? (chunk + 1) * per_chunk : batches;
      for (int64_t i = chunk * per_chunk; i < end; ++i) {
        const Status status = run(i, Constant<true>{});
        if (status) __atomic_store_n(&failure, status, __ATOMIC_RELAXED);
      }
    });
    return failure;
  }
  for (int64_t i = 0; i < batches; ++i) {
    const Status status = run(i, Constant<false>{});
    if (status) return status;
  }
  return nullptr;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
