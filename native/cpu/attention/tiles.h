// Attention over tiles: scores of kTileRows queries x kKeys keys stay in L1 while the softmax is applied
// online (FlashAttention, arXiv 2205.14135; Milakov & Gimelshein, arXiv 1805.02867). Keys are packed once per
// chunk of work, so that the inner loops are those of the GEMM.
#pragma once

#include "cpu/attention/problem.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// Keys per block: scores of 14 queries x 256 keys are 15 KiB.
constexpr int64_t kKeys = 256;
// Distance of score rows: not a multiple of 2 KiB, and room for one more tile of zeros.
constexpr int64_t kScoreStride = kKeys + 16;
// Queries that share a block of keys while it is in L2.
constexpr int64_t kQueryTiles = 4, kQueries = kQueryTiles * kTileRows;
// Multiply-adds per chunk of work: about 10 us.
constexpr int64_t kLeastMultiplyAdds = int64_t{1} << 19;

// C (Rows x kTileColumns) = or += A B of packed elements of the panels P. A: row i, depth k at
// a[i * RowStride + k * DepthStride]; B: rows of kTileColumns, ldb apart. Nothing is partial: buffers are
// padded. The GEMM's tile() would do the same with strides in registers; known to the compiler they are worth
// 5 % at 64 keys and heads of 32 (measured).
template <class P, int Rows, int64_t RowStride, int64_t DepthStride>
void block_tile_rows(int64_t depth, const typename P::Packed* __restrict a,
                     const typename P::Packed* __restrict b, int64_t ldb, typename P::Value* __restrict c,
                     int64_t ldc, bool first) {
  using V = Vec<typename P::Value>;
  constexpr int W = V::kWidth;
  V acc[Rows * kTileVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    decltype(P::load(b)) bk[kTileVectors];
    unrolled<kTileVectors>([&](auto j) ROOTS_INLINED { bk[j] = P::load(b + j * W); });
    unrolled<Rows>([&](auto i) ROOTS_INLINED {
      const auto ai = P::broadcast(a[i * RowStride]);
      unrolled<kTileVectors>([&](auto j) ROOTS_INLINED {
        acc[i * kTileVectors + j] = P::multiply_add(ai, bk[j], acc[i * kTileVectors + j]);
      });
    });
    a += DepthStride;
    b += ldb;
  }
  unrolled<Rows * kTileVectors>([&](auto n) ROOTS_INLINED {
    constexpr int i = decltype(n)::value / kTileVectors, j = decltype(n)::value % kTileVectors;
    typename P::Value* p = c + i * ldc + j * W;
    (first ? acc[n] : acc[n] + V::load(p)).store(p);
  });
}

template <class P, int64_t RowStride, int64_t DepthStride, int Rows = kTileRows>
ROOTS_INLINE void block_tile(int64_t rows, int64_t depth, const typename P::Packed* a,
                             const typename P::Packed* b, int64_t ldb, typename P::Value* c, int64_t ldc,
                             bool first) {
  if constexpr (Rows > 1) {
    if (rows < Rows)
      return block_tile<P, RowStride, DepthStride, Rows - 1>(rows, depth, a, b, ldb, c, ldc, first);
  }
  block_tile_rows<P, Rows, RowStride, DepthStride>(depth, a, b, ldb, c, ldc, first);
}

template <class T>
ROOTS_INLINE int64_t whole_tiles(int64_t n) {
  return ceil_div(n, kTileColumns<T>) * kTileColumns<T>;
}

// `keys` rows of a (keys, depth) operand as panels of kTileColumns rows, k-major.
template <class T>
void pack_keys(const T* rows, int64_t stride, int64_t keys, int64_t depth, T* out) {
  constexpr int64_t C = kTileColumns<T>;
  for (int64_t j = 0; j < keys; j += C)
    pack_b_panel(Matrix<T>{rows, 1, stride}, j, keys - j < C ? keys - j : C, 0, depth, out + j * depth);
}

// Rows of queries for block_tile: pieces of kKeys columns, kScoreStride apart.
template <class T>
void pack_queries(const T* from, int64_t stride, int64_t rows, int64_t depth, T* out) {
  for (int64_t d = 0; d < depth; d += kKeys) {
    move_rows(from + d, stride, rows, depth - d < kKeys ? depth - d : kKeys, out, kScoreStride);
    out += kTileRows * kScoreStride;
  }
}
template <class T>
ROOTS_INLINE int64_t packed_queries(int64_t depth) {
  return ceil_div(depth, kKeys) * kTileRows * kScoreStride;
}

// Products of packed queries with `columns` (whole tiles) packed keys: scores, kScoreStride apart.
template <class P>
void multiply_keys(int64_t rows, int64_t columns, int64_t depth, const typename P::Packed* queries,
                   const typename P::Packed* keys, typename P::Value* scores) {
  constexpr int64_t C = kTileColumns<typename P::Value>, stride = kScoreStride / P::kGroup,
                    piece = kKeys / P::kGroup;
  const int64_t groups = ceil_div(depth, P::kGroup);
  for (int64_t j = 0; j < columns; j += C) {
    const typename P::Packed* q = queries;
    for (int64_t d = 0; d < groups; d += piece, q += kTileRows * stride)
      block_tile<P, stride, 1>(rows, groups - d < piece ? groups - d : piece, q, keys + j * groups + d * C, C,
                               scores + j, kScoreStride, d == 0);
  }
}

// Runs one(item) for items [0, count), several per chunk where one is little work.
template <class One>
ROOTS_INLINE void each_item(const Context& context, int64_t count, int64_t work, const One& one) {
  const int64_t least = work >= kLeastMultiplyAdds ? 1 : kLeastMultiplyAdds / (work + 1) + 1;
  const int64_t per_chunk = items_per_chunk(count, least);
  context.parallel_for(ceil_div(count, per_chunk), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < count ? (chunk + 1) * per_chunk : count;
    for (int64_t item = chunk * per_chunk; item < end; ++item) one(item);
  });
}

// How a forward stores what it multiplies. This one keeps operands as they are; attention/bf16.h rounds them.
template <class T>
struct PlainForm {
  using Value = T;
  using Panels = PlainPanels<T>;
  using Packed = T;
  static constexpr bool kScaledRows = false;  // of keys and values
  static ROOTS_INLINE void pack_keys(const Tensor& k, int64_t b, int64_t g, int64_t count, int64_t depth,
                                     T* out) {
    ROOTS_ISA::pack_keys(head<T>(k, b, g, 0), k.strides[2], count, depth, out);
  }
  static ROOTS_INLINE void pack_values(const Tensor& v, int64_t b, int64_t g, int64_t count, int64_t depth,
                                       T* out) {
    copy_rows(head<T>(v, b, g, 0), v.strides[2], count, depth, out, whole_tiles<T>(depth));
  }
  static ROOTS_INLINE void pack_queries(const Tensor& q, int64_t b, int64_t h, int64_t i0, int64_t rows,
                                        int64_t depth, T* out) {
    ROOTS_ISA::pack_queries(head<T>(q, b, h, i0), q.strides[2], rows, depth, out);
  }
  // where the weights of scores go
  static ROOTS_INLINE T* weights(T* scores, Packed*) { return scores; }
  static ROOTS_INLINE void store_weights(const T*, int64_t, Packed*) {}
  static ROOTS_INLINE void store(Vec<T> x, const Tensor& out, int64_t b, int64_t h, int64_t i, int64_t d,
                                 int64_t n) {
    x.store_partial(head<T>(out, b, h, i) + d, n);
  }
  // what attention/decode.h reads in place: n elements from d of a row, and rows from i on as
  // row(j, d, n)
  static ROOTS_INLINE Vec<T> load(const Tensor& t, int64_t b, int64_t h, int64_t i, int64_t d, int64_t n) {
    return Vec<T>::load_partial(head<T>(t, b, h, i) + d, n);
  }
  template <class Use>
  static ROOTS_INLINE void with_rows(const Tensor& t, int64_t b, int64_t h, int64_t i, const Use& use) {
    const T* rows = head<T>(t, b, h, i);
    const int64_t stride = t.strides[2];
    use([=](int64_t j, int64_t d, int64_t n) { return Vec<T>::load_partial(rows + j * stride + d, n); });
  }
};

template <class F>
struct ForwardBuffers {
  using T = typename F::Value;
  using Packed = typename F::Packed;
  static constexpr int64_t kGroup = F::Panels::kGroup;
  // packed elements of a tile of queries
  static ROOTS_INLINE int64_t per_tile(int64_t depth) {
    return ceil_div(depth, kKeys) * kTileRows * kScoreStride / kGroup;
  }
  Packed *keys, *values, *queries, *weights;
  T *scores, *sums;
  ROOTS_INLINE ForwardBuffers(Carver& c, const Problem& p) {
    keys = c.take<Packed>(whole_tiles<T>(p.Tk) * ceil_div(p.D, kGroup));
    values = c.take<Packed>(ceil_div(p.Tk, kGroup) * whole_tiles<T>(p.Dv));
    queries = c.take<Packed>(kQueryTiles * per_tile(p.D));
    scores = c.take<T>(kTileRows * kScoreStride);
    weights = F::weights(scores, c.take<Packed>(kGroup > 1 ? kTileRows * kScoreStride / kGroup : 0));
    sums = c.take<T>(kQueries * whole_tiles<T>(p.Dv));
  }
};

// The largest score so far, this row of scores included.
template <class T>
ROOTS_INLINE T largest_score(const T* row, int64_t padded, T top) {
  using V = Vec<T>;
  V best0(top), best1(top);
  int64_t j = 0;
  for (; j + 2 * V::kWidth <= padded; j += 2 * V::kWidth) {
    best0 = larger(best0, V::load(row + j));
    best1 = larger(best1, V::load(row + j + V::kWidth));
  }
  if (j < padded) best0 = larger(best0, V::load(row + j));
  return reduce_larger(larger(best0, best1));
}

// Scores to weights in place: 2^(exponent (score - top)). Returns their sum.
template <class T>
ROOTS_INLINE T weights_of(T* row, int64_t padded, T exponent, T top) {
  using V = Vec<T>;
  const V c(exponent), s(top == T(-__builtin_inf()) ? T(0) : -top * exponent);
  V sum[4] = {};
  int64_t j = 0;
  for (; j + 4 * V::kWidth <= padded; j += 4 * V::kWidth)
    unrolled<4>([&](auto q) ROOTS_INLINED {
      const V e = exp2(fma(V::load(row + j + q * V::kWidth), c, s));
      e.store(row + j + q * V::kWidth);
      sum[q] = sum[q] + e;
    });
  for (; j < padded; j += V::kWidth) {
    const V e = exp2(fma(V::load(row + j), c, s));
    e.store(row + j);
    sum[0] = sum[0] + e;
  }
  return horizontal_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

// Queries [i0, i0 + rows) of one head against keys that are packed already.
template <class F>
void forward_block(const Operands<typename F::Value>& x, int64_t b, int64_t h, int64_t i0, int64_t rows,
                   const ForwardBuffers<F>& m, const Tensor& out, const Tensor& lse) {
  using T = typename F::Value;
  using P = typename F::Panels;
  using V = Vec<T>;
  constexpr int64_t C = kTileColumns<T>, W = V::kWidth, weight_stride = kScoreStride / P::kGroup;
  const Problem& p = x.p;
  const int64_t dv = whole_tiles<T>(p.Dv), per_tile = m.per_tile(p.D), depth = ceil_div(p.D, P::kGroup);
  T top[kQueries], total[kQueries];
  bool started[kQueryTiles] = {};
  for (int64_t r = 0; r < rows; ++r) {
    top[r] = T(-__builtin_inf());
    total[r] = T(0);
  }
  for (int64_t t = 0; t * kTileRows < rows; ++t) {
    const int64_t r0 = t * kTileRows, n = rows - r0 < kTileRows ? rows - r0 : kTileRows;
    F::pack_queries(x.q, b, h, i0 + r0, n, p.D, m.queries + t * per_tile);
  }
  const T exponent = x.exponent();
  const int64_t end = p.last_key(b, i0 + rows - 1);
  for (int64_t j0 = p.first_key(b, i0) / C * C; j0 < end; j0 += kKeys) {
    for (int64_t t = 0; t * kTileRows < rows; ++t) {
      const int64_t r0 = t * kTileRows, tile = rows - r0 < kTileRows ? rows - r0 : kTileRows;
      int64_t n = p.last_key(b, i0 + r0 + tile - 1) - j0;
      n = n < kKeys ? n : kKeys;
      if (n <= 0) continue;
      const int64_t padded = whole_tiles<T>(n);
      multiply_keys<P>(tile, padded, p.D, m.queries + t * per_tile, m.keys + j0 * depth, m.scores);
      // all rows at each stage: their chains of dependent operations overlap
      T before[kTileRows];
      for (int64_t r = 0; r < tile; ++r) {
        T* row = m.scores + r * kScoreStride;
        finish_scores(x, b, h, i0 + r0 + r, j0, n, padded, row);
        before[r] = top[r0 + r];
        top[r0 + r] = largest_score(row, padded, before[r]);
      }
      for (int64_t r = 0; r < tile; ++r) {
        const T now = top[r0 + r];
        const T sum = weights_of(m.scores + r * kScoreStride, padded, exponent, now);
        F::store_weights(m.scores + r * kScoreStride, padded, m.weights + r * weight_stride);
        if (!started[t] || before[r] == now) {
          total[r0 + r] += sum;
          continue;
        }
        // what was summed before is relative to a smaller top
        const V factor = before[r] == T(-__builtin_inf()) ? V() : exp2(V((before[r] - now) * exponent));
        total[r0 + r] = total[r0 + r] * factor.v[0] + sum;
        T* o = m.sums + (r0 + r) * dv;
        for (int64_t d = 0; d < dv; d += W) (V::load(o + d) * factor).store(o + d);
      }
      for (int64_t d = 0; d < dv; d += C)
        block_tile<P, weight_stride, 1>(tile, ceil_div(n, P::kGroup), m.weights,
                                        m.values + j0 / P::kGroup * dv + d, dv, m.sums + r0 * dv + d, dv,
                                        !started[t]);
      started[t] = true;
    }
  }
  const T unit = exponent * static_cast<T>(0.69314718055994530942);
  // copies of its own: what is stored could be any of the originals, as far as the compiler knows
  const Tensor result = out;
  const int64_t columns = p.Dv;
  for (int64_t r = 0; r < rows; ++r) {
    // a query that saw no key has the sum 0; NaN stays NaN
    const bool none = !started[r / kTileRows] || total[r] == T(0);
    const T* o = m.sums + r * dv;
    const V inverse(none ? T(0) : T(1) / total[r]);
    for (int64_t d = 0; d < columns; d += W) {
      const int64_t k = columns - d < W ? columns - d : W;
      F::store(none ? V() : V::load(o + d) * inverse, result, b, h, i0 + r, d, k);
    }
    // of no key: the logarithm of 0
    if (none) top[r] = total[r] = T(0);
  }
  T* l = data<T>(lse) + (b * p.H + h) * p.Tq + i0;
  for (int64_t r = 0; r < rows; r += W) {
    const int64_t n = rows - r < W ? rows - r : W;
    (V::load_partial(top + r, n) * V(unit) + log(V::load_partial(total + r, n))).store_partial(l + r, n);
  }
}

template <class F>
Status forward_tiles(const Context& context, const Operands<typename F::Value>& x, const Tensor& out,
                     const Tensor& lse) {
  const Problem& p = x.p;
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  CHECK(failure != nullptr, "out of memory");
  *failure = nullptr;
  Carver sizes;
  ForwardBuffers<F>(sizes, p);
  // A chunk packs the keys of one head for itself; few heads are cut into parts, each with every parts-th
  // block of queries, so that a causal triangle is shared evenly.
  const int64_t group = p.H / p.Hkv, heads = p.B * p.Hkv, blocks = ceil_div(p.Tq, kQueries) * group;
  int64_t parts = ceil_div(16, heads);
  parts = parts < blocks ? parts : blocks;
  const int64_t work = group * p.Tq * p.Tk * (p.D + p.Dv) / (p.causal ? 2 : 1);
  parts = work / parts < kLeastMultiplyAdds ? ceil_div(work, kLeastMultiplyAdds) : parts;
  parts = parts < 1 ? 1 : parts;
  each_item(context, heads * parts, work / parts, [&](int64_t item) {
    const int64_t part = item % parts, b = item / parts / p.Hkv, g = item / parts % p.Hkv;
    void* memory = context.scratch(context.host, 2, sizes.used());
    if (!memory) {
      __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    Carver carver(memory);
    const ForwardBuffers<F> m(carver, p);
    const int64_t seen = p.last_key(b, p.Tq - 1);
    F::pack_keys(x.k, b, g, seen, p.D, m.keys);
    F::pack_values(x.v, b, g, seen, p.Dv, m.values);
    for (int64_t block = part; block < blocks; block += parts) {
      const int64_t h = g * group + block % group, i0 = block / group * kQueries;
      forward_block(x, b, h, i0, p.Tq - i0 < kQueries ? p.Tq - i0 : kQueries, m, out, lse);
    }
  });
  return *failure;
}

template <class T>
struct BackwardBuffers {
  T *keys, *values, *key_rows, *dk, *dv;            // of one key head
  T *queries, *gradients, *query_rows, *grad_rows;  // of one block of queries
  T *probabilities, *scores, *dq, *delta;
  ROOTS_INLINE BackwardBuffers(Carver& c, const Problem& p) {
    const int64_t d = whole_tiles<T>(p.D), v = whole_tiles<T>(p.Dv), tk = whole_tiles<T>(p.Tk);
    keys = c.take<T>(tk * p.D);
    values = c.take<T>(tk * p.Dv);
    key_rows = c.take<T>(p.Tk * d);
    dk = c.take<T>(p.Tk * d);
    dv = c.take<T>(p.Tk * v);
    queries = c.take<T>(kQueryTiles * packed_queries<T>(p.D));
    gradients = c.take<T>(kQueryTiles * packed_queries<T>(p.Dv));
    query_rows = c.take<T>(kQueries * d);
    grad_rows = c.take<T>(kQueries * v);
    probabilities = c.take<T>(kQueries * kScoreStride);
    scores = c.take<T>(kQueries * kScoreStride);
    dq = c.take<T>(kQueries * d);
    delta = c.take<T>(kQueries);
  }
};

// P and dS = scale P (dP - delta) of one row, in place of S and dP; zeros for another tile behind.
template <class T>
ROOTS_INLINE void backward_row(const Operands<T>& x, T* s, T* ds, int64_t padded, T l, T delta, T* dmask,
                               int64_t n) {
  using V = Vec<T>;
  const T log2e = static_cast<T>(1.44269504088896340736);
  const V c(x.exponent()), shift(l == T(-__builtin_inf()) ? T(0) : -l * log2e), d(delta),
      scale(static_cast<T>(x.p.scale));
  for (int64_t j = 0; j < padded; j += V::kWidth) {
    const V e = exp2(fma(V::load(s + j), c, shift));
    const V g = e * (V::load(ds + j) - d);
    e.store(s + j);
    if (dmask) g.store_partial(dmask + j, n - j < 0 ? 0 : n - j < V::kWidth ? n - j : V::kWidth);
    (g * scale).store(ds + j);
  }
  for (int64_t j = padded; j < padded + kTileRows && j < kScoreStride; ++j) s[j] = ds[j] = T(0);
}

// Adds the gradients of queries [i0, i0 + rows) of one head to m.dk and m.dv, and writes theirs.
template <class T>
void backward_block(const Operands<T>& x, const Tensor& dout, const Tensor& out, const Tensor& lse,
                    const Tensor& dq, const OptionalTensor& dmask, int64_t b, int64_t h, int64_t i0,
                    int64_t rows, const BackwardBuffers<T>& m) {
  using V = Vec<T>;
  constexpr int64_t C = kTileColumns<T>, W = V::kWidth;
  const Problem& p = x.p;
  const int64_t d = whole_tiles<T>(p.D), dv = whole_tiles<T>(p.Dv);
  const int64_t per_query = packed_queries<T>(p.D), per_gradient = packed_queries<T>(p.Dv);
  bool started[kQueryTiles] = {};
  for (int64_t t = 0; t * kTileRows < rows; ++t) {
    const int64_t r0 = t * kTileRows, n = rows - r0 < kTileRows ? rows - r0 : kTileRows;
    pack_queries(head<T>(x.q, b, h, i0 + r0), x.q.strides[2], n, p.D, m.queries + t * per_query);
    pack_queries(head<T>(dout, b, h, i0 + r0), dout.strides[2], n, p.Dv, m.gradients + t * per_gradient);
  }
  copy_rows(head<T>(x.q, b, h, i0), x.q.strides[2], rows, p.D, m.query_rows, d);
  copy_rows(head<T>(dout, b, h, i0), dout.strides[2], rows, p.Dv, m.grad_rows, dv);
  for (int64_t r = 0; r < rows; ++r) {
    const T *o = head<T>(out, b, h, i0 + r), *gradient = m.grad_rows + r * dv;
    const int64_t n = p.Dv;
    V products{};
    int64_t j = 0;
    for (; j + W <= n; j += W) products = fma(V::load(o + j), V::load(gradient + j), products);
    if (j < n) products = fma(V::load_partial(o + j, n - j), V::load(gradient + j), products);
    m.delta[r] = horizontal_sum(products);
    if (dmask.data) {
      T* to = head<T>(dmask, b, h, i0 + r);
      for (int64_t j = 0; j < p.Tk; ++j) to[j] = T(0);
    }
  }
  const int64_t end = p.last_key(b, i0 + rows - 1);
  for (int64_t j0 = p.first_key(b, i0) / C * C; j0 < end; j0 += kKeys) {
    int64_t seen[kQueryTiles] = {}, most = 0;
    for (int64_t t = 0; t * kTileRows < rows; ++t) {
      const int64_t r0 = t * kTileRows, tile = rows - r0 < kTileRows ? rows - r0 : kTileRows;
      int64_t n = p.last_key(b, i0 + r0 + tile - 1) - j0;
      n = n < kKeys ? n : kKeys;
      if (n <= 0) continue;
      seen[t] = n;
      most = n > most ? n : most;
      const int64_t padded = whole_tiles<T>(n);
      T* s = m.probabilities + r0 * kScoreStride;
      T* ds = m.scores + r0 * kScoreStride;
      multiply_keys<PlainPanels<T>>(tile, padded, p.D, m.queries + t * per_query, m.keys + j0 * p.D, s);
      multiply_keys<PlainPanels<T>>(tile, padded, p.Dv, m.gradients + t * per_gradient, m.values + j0 * p.Dv,
                                    ds);
      for (int64_t r = 0; r < tile; ++r) {
        const int64_t i = i0 + r0 + r;
        finish_scores(x, b, h, i, j0, n, padded, s + r * kScoreStride);
        backward_row(x, s + r * kScoreStride, ds + r * kScoreStride, padded,
                     data<T>(lse)[(b * p.H + h) * p.Tq + i], m.delta[r0 + r],
                     dmask.data ? head<T>(dmask, b, h, i) + j0 : nullptr, n);
      }
      for (int64_t c = 0; c < d; c += C)
        block_tile<PlainPanels<T>, kScoreStride, 1>(tile, n, ds, m.key_rows + j0 * d + c, d,
                                                    m.dq + r0 * d + c, d, !started[t]);
      started[t] = true;
    }
    for (int64_t j = 0; j < most; j += kTileRows) {
      // tiles of queries before the first that sees key j contribute nothing
      int64_t t = 0;
      while (seen[t] <= j) ++t;
      const int64_t r0 = t * kTileRows, keys = most - j < kTileRows ? most - j : kTileRows;
      for (int64_t c = 0; c < dv; c += C)
        block_tile<PlainPanels<T>, 1, kScoreStride>(keys, rows - r0, m.probabilities + r0 * kScoreStride + j,
                                                    m.grad_rows + r0 * dv + c, dv, m.dv + (j0 + j) * dv + c,
                                                    dv, false);
      for (int64_t c = 0; c < d; c += C)
        block_tile<PlainPanels<T>, 1, kScoreStride>(keys, rows - r0, m.scores + r0 * kScoreStride + j,
                                                    m.query_rows + r0 * d + c, d, m.dk + (j0 + j) * d + c, d,
                                                    false);
    }
  }
  for (int64_t t = 0; t * kTileRows < rows; ++t) {
    const int64_t r0 = t * kTileRows, n = rows - r0 < kTileRows ? rows - r0 : kTileRows;
    // queries that saw no key
    if (!started[t])
      for (int64_t i = 0; i < n * d; i += W) V().store(m.dq + r0 * d + i);
    move_rows(m.dq + r0 * d, d, n, p.D, head<T>(dq, b, h, i0 + r0), dq.strides[2]);
  }
}

// One item per (batch, key head): dk and dv have one writer, so no atomics and a fixed order.
template <class T>
Status backward_tiles(const Context& context, const Operands<T>& x, const Tensor& dout, const Tensor& out,
                      const Tensor& lse, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                      const OptionalTensor& dmask) {
  using V = Vec<T>;
  const Problem& p = x.p;
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  CHECK(failure != nullptr, "out of memory");
  *failure = nullptr;
  Carver sizes;
  BackwardBuffers<T>(sizes, p);
  const int64_t group = p.H / p.Hkv, d = whole_tiles<T>(p.D), v = whole_tiles<T>(p.Dv);
  each_item(context, p.B * p.Hkv, group * p.Tq * p.Tk * (p.D + p.Dv) * 2, [&](int64_t item) {
    const int64_t b = item / p.Hkv, g = item % p.Hkv;
    void* memory = context.scratch(context.host, 2, sizes.used());
    if (!memory) {
      __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    Carver carver(memory);
    const BackwardBuffers<T> m(carver, p);
    const int64_t seen = p.Tq > 0 ? p.last_key(b, p.Tq - 1) : 0;
    pack_keys(head<T>(x.k, b, g, 0), x.k.strides[2], seen, p.D, m.keys);
    pack_keys(head<T>(x.v, b, g, 0), x.v.strides[2], seen, p.Dv, m.values);
    copy_rows(head<T>(x.k, b, g, 0), x.k.strides[2], seen, p.D, m.key_rows, d);
    for (int64_t i = 0; i < p.Tk * d; i += V::kWidth) V().store(m.dk + i);
    for (int64_t i = 0; i < p.Tk * v; i += V::kWidth) V().store(m.dv + i);
    for (int64_t h = g * group; h < (g + 1) * group; ++h)
      for (int64_t i0 = 0; i0 < p.Tq; i0 += kQueries)
        backward_block(x, dout, out, lse, dq, dmask, b, h, i0, p.Tq - i0 < kQueries ? p.Tq - i0 : kQueries,
                       m);
    move_rows(m.dk, d, p.Tk, p.D, head<T>(dk, b, g, 0), dk.strides[2]);
    move_rows(m.dv, v, p.Tk, p.Dv, head<T>(dv, b, g, 0), dv.strides[2]);
  });
  return *failure;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
