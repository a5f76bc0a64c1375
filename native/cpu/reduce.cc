// Reductions. x is a view whose first axes are kept and whose last axes are reduced; out holds the kept axes.
// Two shapes of loop: along a row (vector lanes are elements of one sum) and across rows (lanes are different
// sums, as for a bias gradient). Long reductions are cut into blocks of fixed size whose partial results are
// combined in order, so the bits do not depend on the number of threads.
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kBlock = 32768;  // elements of one partial result along a row
constexpr int64_t kRowBlock = 64;  // rows added before a partial sum joins the total
constexpr int64_t kColumns = 512;  // columns per chunk at most when reducing across rows

struct Sum {
  template <class T>
  static ROOTS_INLINE T identity() {
    return T(0);
  }
  template <class V>
  static ROOTS_INLINE V combine(V a, V b) {
    return a + b;
  }
};
template <class T>
ROOTS_INLINE T highest() {
  if constexpr (static_cast<T>(0.5) != T(0))
    return T(__builtin_inf());
  else
    return static_cast<T>(~(1ull << (sizeof(T) * 8 - 1)));
}
template <class T>
ROOTS_INLINE T lowest() {
  if constexpr (static_cast<T>(0.5) != T(0))
    return T(-__builtin_inf());
  else
    return static_cast<T>(1ull << (sizeof(T) * 8 - 1));
}
struct Max {
  template <class T>
  static ROOTS_INLINE T identity() {
    return lowest<T>();
  }
  template <class V>
  static ROOTS_INLINE V combine(V a, V b) {
    return max(a, b);
  }
};
struct Min {
  template <class T>
  static ROOTS_INLINE T identity() {
    return highest<T>();
  }
  template <class V>
  static ROOTS_INLINE V combine(V a, V b) {
    return min(a, b);
  }
};

// Offset of the index-th element of axes [begin, end) of a view.
ROOTS_INLINE int64_t offset_of(const Tensor& x, int32_t begin, int32_t end, int64_t index) {
  int64_t offset = 0;
  for (int32_t i = end - 1; i >= begin; --i) {
    offset += (index % x.shape[i]) * x.strides[i];
    index /= x.shape[i];
  }
  return offset;
}

template <class T, class Op>
ROOTS_INLINE T combine_scalar(T a, T b) {
  return Op::combine(Vec<T>(a), Vec<T>(b)).v[0];
}

// n elements at a stride, four accumulators.
template <class T, class Op>
ROOTS_INLINE T reduce_run(const T* p, int64_t n, int64_t stride) {
  using V = Vec<T>;
  if (stride != 1) {
    T total = Op::template identity<T>();
    for (int64_t i = 0; i < n; ++i) total = combine_scalar<T, Op>(total, p[i * stride]);
    return total;
  }
  constexpr int64_t kWidth = V::kWidth;
  V acc[4] = {};
  for (V& a : acc) a = V(Op::template identity<T>());
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int k = 0; k < 4; ++k) acc[k] = Op::combine(acc[k], V::load(p + i + k * kWidth));
  for (; i + kWidth <= n; i += kWidth) acc[0] = Op::combine(acc[0], V::load(p + i));
  V all = Op::combine(Op::combine(acc[0], acc[1]), Op::combine(acc[2], acc[3]));
  T lanes[kWidth];
  all.store(lanes);
  T total = Op::template identity<T>();
  for (int64_t step = kWidth / 2; step > 0; step /= 2)
    for (int64_t k = 0; k < step; ++k) lanes[k] = combine_scalar<T, Op>(lanes[k], lanes[k + step]);
  total = combine_scalar<T, Op>(total, lanes[0]);
  for (; i < n; ++i) total = combine_scalar<T, Op>(total, p[i]);
  return total;
}

template <class T, class Op>
Status along_rows(const Context& context, const Tensor& x, const Tensor& out, int64_t outputs,
                  int64_t reduced) {
  const int32_t kept = out.rank;
  const T* base = data<T>(x);
  const int64_t inner = x.rank > kept ? x.shape[x.rank - 1] : 1;
  const int64_t stride = x.rank > kept ? x.strides[x.rank - 1] : 1;
  // the reduced axes are one run when they are dense
  bool dense = true;
  for (int32_t i = kept; i + 1 < x.rank; ++i)
    dense = dense && x.strides[i] == x.strides[i + 1] * x.shape[i + 1];
  const int64_t run = dense ? reduced : inner;
  const int64_t runs = run > 0 ? reduced / run : 0;
  auto partial = [&](const T* p, int64_t begin, int64_t end) {
    T total = Op::template identity<T>();
    if (runs == 1) return reduce_run<T, Op>(p + begin * stride, end - begin, stride);
    for (int64_t r = begin; r < end;) {
      const int64_t row = r / run, from = r % run;
      const int64_t count = run - from < end - r ? run - from : end - r;
      total = combine_scalar<T, Op>(
          total, reduce_run<T, Op>(p + offset_of(x, kept, x.rank - 1, row) + from * stride, count, stride));
      r += count;
    }
    return total;
  };
  const int64_t blocks = (reduced + kBlock - 1) / kBlock;
  T* o = data<T>(out);
  if (blocks <= 1) {
    const int64_t per_chunk = kBlock / (reduced > 0 ? reduced : 1) + 1;
    context.parallel_for((outputs + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * per_chunk < outputs ? (chunk + 1) * per_chunk : outputs;
      for (int64_t i = chunk * per_chunk; i < end; ++i)
        o[i] = partial(base + offset_of(x, 0, kept, i), 0, reduced);
    });
    return nullptr;
  }
  T* parts =
      static_cast<T*>(context.workspace(context.host, 0, static_cast<size_t>(outputs * blocks) * sizeof(T)));
  CHECK(parts != nullptr, "out of memory");
  context.parallel_for(outputs * blocks, [&](int64_t chunk) {
    const int64_t i = chunk / blocks, b = chunk % blocks;
    const int64_t end = (b + 1) * kBlock < reduced ? (b + 1) * kBlock : reduced;
    parts[chunk] = partial(base + offset_of(x, 0, kept, i), b * kBlock, end);
  });
  for (int64_t i = 0; i < outputs; ++i) {
    T total = parts[i * blocks];
    for (int64_t b = 1; b < blocks; ++b) total = combine_scalar<T, Op>(total, parts[i * blocks + b]);
    o[i] = total;
  }
  return nullptr;
}

// `rows` rows from the r0-th on, of `columns` neighbouring columns, several vectors of them at a time.
template <class T, class Op, class RowAt>
ROOTS_INLINE void add_rows(const RowAt& row_at, int64_t r0, int64_t rows, int64_t columns, T* out) {
  using V = Vec<T>;
  constexpr int64_t kWidth = V::kWidth;
  constexpr int kVectors = 4;
  int64_t c = 0;
  for (; c + kVectors * kWidth <= columns; c += kVectors * kWidth) {
    V acc[kVectors];
    unrolled<kVectors>([&](auto k) ROOTS_INLINED { acc[k] = V(Op::template identity<T>()); });
    for (int64_t r = r0; r < r0 + rows; ++r) {
      const T* p = row_at(r) + c;
      unrolled<kVectors>([&](auto k)
                             ROOTS_INLINED { acc[k] = Op::combine(acc[k], V::load(p + k * kWidth)); });
    }
    unrolled<kVectors>([&](auto k) ROOTS_INLINED { acc[k].store(out + c + k * kWidth); });
  }
  for (; c < columns; c += kWidth) {
    const int64_t m = columns - c < kWidth ? columns - c : kWidth;
    V acc(Op::template identity<T>());
    for (int64_t r = r0; r < r0 + rows; ++r) acc = Op::combine(acc, V::load_partial(row_at(r) + c, m));
    acc.store_partial(out + c, m);
  }
}

// The last kept axis is dense: add whole rows, a block of them at a time, and the sums of the blocks in
// order.
template <class T, class Op>
Status across_rows(const Context& context, const Tensor& x, const Tensor& out, int64_t outputs,
                   int64_t reduced) {
  using V = Vec<T>;
  constexpr int64_t kWidth = V::kWidth;
  const int32_t kept = out.rank;
  const int64_t columns = out.shape[kept - 1], groups = columns > 0 ? outputs / columns : 0;
  const int64_t blocks = reduced > 0 ? (reduced + kRowBlock - 1) / kRowBlock : 1;
  const bool dense = x.rank == kept + 1;
  const int64_t row_stride = x.strides[x.rank - 1];
  T* o = data<T>(out);
  T* parts = o;
  if (blocks > 1)
    parts = static_cast<T*>(
        context.workspace(context.host, 0, static_cast<size_t>(blocks * outputs) * sizeof(T)));
  CHECK(parts != nullptr, "out of memory");
  // a chunk: some blocks of some columns
  const int64_t pieces = (columns + kColumns - 1) / kColumns, width = columns < kColumns ? columns : kColumns;
  const int64_t per_chunk = kBlock / (kRowBlock * (width > 0 ? width : 1)) + 1;
  const int64_t all = groups * blocks;
  context.parallel_for(pieces * ((all + per_chunk - 1) / per_chunk), [&](int64_t chunk) {
    const int64_t c = (chunk % pieces) * kColumns, begin = chunk / pieces * per_chunk;
    const int64_t end = begin + per_chunk < all ? begin + per_chunk : all;
    const int64_t n = columns - c < kColumns ? columns - c : kColumns;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r0 = i % blocks * kRowBlock;
      const T* base = data<T>(x) + offset_of(x, 0, kept, i / blocks * columns) + c;
      const auto row_at = [&](int64_t r) {
        return base + (dense ? r * row_stride : offset_of(x, kept, x.rank, r));
      };
      add_rows<T, Op>(row_at, r0, reduced - r0 < kRowBlock ? reduced - r0 : kRowBlock, n,
                      parts + i * columns + c);
    }
  });
  if (blocks == 1) return nullptr;
  const int64_t least = kBlock / blocks + 1;  // columns of a chunk
  context.parallel_for((outputs + least - 1) / least, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * least < outputs ? (chunk + 1) * least : outputs;
    for (int64_t at = chunk * least; at < end;) {
      const int64_t group = at / columns, c = at % columns;
      int64_t m = columns - c < end - at ? columns - c : end - at;
      m = m < kWidth ? m : kWidth;
      V total(Op::template identity<T>());
      for (int64_t b = 0; b < blocks; ++b)
        total = Op::combine(total, V::load_partial(parts + (group * blocks + b) * columns + c, m));
      total.store_partial(o + at, m);
      at += m;
    }
  });
  return nullptr;
}

template <class Op>
Status reduce(const Context& context, const Tensor& x, const Tensor& out) {
  CHECK(is_contiguous(out) && out.rank <= x.rank, "out must be contiguous and of lower rank");
  for (int32_t i = 0; i < out.rank; ++i) CHECK(out.shape[i] == x.shape[i], "shapes differ");
  CHECK(x.dtype == out.dtype, "dtypes differ");
  int64_t outputs = numel(out), reduced = 1;
  for (int32_t i = out.rank; i < x.rank; ++i) reduced *= x.shape[i];
  if (outputs == 0) return nullptr;
  const bool rows = out.rank > 0 && x.rank > out.rank && x.strides[out.rank - 1] == 1 &&
                    x.strides[x.rank - 1] != 1 && out.shape[out.rank - 1] > 1;
  switch (x.dtype) {
#define ROOTS_CASE(dtype, T)                                            \
  case dtype:                                                           \
    return rows ? across_rows<T, Op>(context, x, out, outputs, reduced) \
                : along_rows<T, Op>(context, x, out, outputs, reduced);
    ROOTS_CASE(DType::f32, float)
    ROOTS_CASE(DType::f64, double)
    ROOTS_CASE(DType::i32, int32_t)
    ROOTS_CASE(DType::i64, int64_t)
#undef ROOTS_CASE
    default: return "needs float32, float64, int32 or int64";
  }
}

// Index of the largest of n elements; the first one on ties; a NaN wins, as in the reference frameworks.
template <class T>
ROOTS_INLINE int64_t argmax_row(const T* p, int64_t n, int64_t stride) {
  int64_t best = 0;
  T value = p[0];
  for (int64_t i = 1; i < n && value == value; ++i) {
    const T x = p[i * stride];
    if (x > value || x != x) {
      value = x;
      best = i;
    }
  }
  return best;
}

template <class T>
Status argmax_typed(const Context& context, const Tensor& x, const Tensor& out) {
  const int64_t n = x.shape[x.rank - 1], rows = numel(out);
  CHECK(n > 0, "an empty axis has no maximum");
  const int64_t per_chunk = kBlock / n + 1;
  context.parallel_for((rows + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < rows ? (chunk + 1) * per_chunk : rows;
    for (int64_t r = chunk * per_chunk; r < end; ++r)
      data<int64_t>(out)[r] =
          argmax_row(data<T>(x) + offset_of(x, 0, x.rank - 1, r), n, x.strides[x.rank - 1]);
  });
  return nullptr;
}

// The k largest of each row in descending order, the lower index first on ties, by insertion into a sorted
// list: k is small beside the row.
template <class T>
Status topk_typed(const Context& context, const Tensor& x, const Tensor& values, const Tensor& indices) {
  const int64_t n = x.shape[x.rank - 1], k = values.shape[values.rank - 1],
                rows = k > 0 ? numel(values) / k : 0;
  CHECK(k <= n, "k exceeds the axis");
  context.parallel_for(rows, [&](int64_t r) {
    const T* p = data<T>(x) + r * n;
    T* v = data<T>(values) + r * k;
    int64_t* index = data<int64_t>(indices) + r * k;
    int64_t filled = 0;
    for (int64_t i = 0; i < n; ++i) {
      const T value = p[i];
      if (filled == k && !(value > v[k - 1] || (value != value && v[k - 1] == v[k - 1]))) continue;
      int64_t at = filled < k ? filled++ : k - 1;
      while (at > 0 && (value > v[at - 1] || (value != value && v[at - 1] == v[at - 1]))) {
        v[at] = v[at - 1];
        index[at] = index[at - 1];
        --at;
      }
      v[at] = value;
      index[at] = i;
    }
  });
  return nullptr;
}

}  // namespace

Status reduce_sum(const Context& context, Tensor x, Tensor out) { return reduce<Sum>(context, x, out); }
Status reduce_max(const Context& context, Tensor x, Tensor out) { return reduce<Max>(context, x, out); }
Status reduce_min(const Context& context, Tensor x, Tensor out) { return reduce<Min>(context, x, out); }

Status argmax(const Context& context, Tensor x, Tensor out) {
  CHECK(x.rank >= 1 && out.rank == x.rank - 1, "ranks differ");
  for (int32_t i = 0; i < out.rank; ++i) CHECK(out.shape[i] == x.shape[i], "shapes differ");
  CHECK(out.dtype == DType::i64 && is_contiguous(out), "out must be contiguous int64");
  if (x.dtype == DType::f32) return argmax_typed<float>(context, x, out);
  if (x.dtype == DType::f64) return argmax_typed<double>(context, x, out);
  return "needs float32 or float64";
}

Status topk(const Context& context, Tensor x, Tensor values, Tensor indices) {
  CHECK(x.rank >= 1 && values.rank == x.rank && same_shape(values, indices), "shapes differ");
  for (int32_t i = 0; i + 1 < x.rank; ++i) CHECK(values.shape[i] == x.shape[i], "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(values) && is_contiguous(indices), "needs contiguous tensors");
  CHECK(indices.dtype == DType::i64 && values.dtype == x.dtype, "dtypes differ");
  if (x.dtype == DType::f32) return topk_typed<float>(context, x, values, indices);
  if (x.dtype == DType::f64) return topk_typed<double>(context, x, values, indices);
  return "needs float32 or float64";
}

}  // namespace ROOTS_ISA
}  // namespace roots
