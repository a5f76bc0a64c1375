// y = gate * activation(x W^T + b) + residual with W kept in the form that the tiles of the GEMM read: panels
// as wide as a tile, inputs one after the other (float32) or in neighbouring pairs (bf16), padded with zeros.
// A product then packs nothing, and reads weights from beginning to end. With C columns in a tile:
//   float32: output n, input k at [n / C, k, n % C]; bf16: at [n / C, k / 2, 2 (n % C) + k % 2]
// The tensor is (ceil(N / 32), K, 32) or (ceil(N / 32), ceil(K / 2), 64) for every C, which divides 32.
#include "cpu/declare.h"
#include "cpu/gemm/bf16.h"

namespace roots {
#if defined(__AMX_BF16__)
namespace avx512_bf16 {
decltype(ROOTS_ISA::linear_packed) linear_packed;  // for few rows
}
#endif
namespace ROOTS_ISA {
namespace {

constexpr int64_t kPadded = 32;                        // outputs are padded to a multiple of this
constexpr int64_t kKeptColumns = kTileColumns<float>;  // of one panel
static_assert(kPadded % kKeptColumns == 0, "panels fill the padding");

Status check_packed(const Tensor& packed, int64_t outputs, int64_t inputs) {
  const bool half = packed.dtype == DType::bf16;
  CHECK(packed.rank == 3 && is_contiguous(packed) && (half || packed.dtype == DType::f32),
        "packed must be contiguous float32 or bfloat16 of rank 3");
  CHECK(packed.shape[0] == ceil_div(outputs, kPadded) &&
            packed.shape[1] == (half ? ceil_div(inputs, 2) : inputs) &&
            packed.shape[2] == (half ? 2 : 1) * kPadded,
        "packed has the wrong shape");
  return nullptr;
}

struct KeptColumns {
  static constexpr bool kInPlace = true;
  const float* data;
  int64_t inputs;
  ROOTS_INLINE InPlace<float> in_place(int64_t, int64_t, int64_t) const {
    return {data, kKeptColumns, 1, kKeptColumns, ARows::side_by_side, inputs * kKeptColumns};
  }
  void operator()(int64_t, int64_t, int64_t, int64_t, float*) const {}
};

#if defined(__AVX512BF16__)
struct KeptPairs {
  static constexpr bool kInPlace = true;
  const uint32_t* data;
  int64_t pairs;
  ROOTS_INLINE InPlace<uint32_t> in_place(int64_t, int64_t, int64_t) const {
    return {data, kKeptColumns, 1, kKeptColumns, ARows::side_by_side, pairs * kKeptColumns};
  }
  void operator()(int64_t, int64_t, int64_t, int64_t, uint32_t*) const {}
};
#else
// The first or the second numbers of neighbouring pairs.
template <int Second>
ROOTS_INLINE Vec<float> half_of_pairs(const uint32_t* p) {
  Vec<float>::Mask both;
  __builtin_memcpy(&both, p, sizeof both);
  const Vec<float>::Mask bits = Second ? both & static_cast<int32_t>(0xffff0000u) : both << 16;
  return Vec<float>((Vec<float>::Raw)bits);
}

// Without products of bf16, pairs are widened on their way into the float tile.
struct KeptPairs {
  static constexpr bool kInPlace = false;
  const uint32_t* data;
  int64_t pairs;
  ROOTS_INLINE void operator()(int64_t j0, int64_t, int64_t k0, int64_t depth, float* out) const {
    const uint32_t* panel = data + j0 * pairs;
    const int64_t end = k0 + depth;
    const auto one = [&](int64_t k, auto second) ROOTS_INLINED {
      unrolled<kTileVectors>([&](auto v) ROOTS_INLINED {
        constexpr int64_t at = v * Vec<float>::kWidth;
        half_of_pairs<second>(panel + k / 2 * kKeptColumns + at).store(out + (k - k0) * kKeptColumns + at);
      });
    };
    int64_t k = k0;
    if (k % 2 == 1) one(k++, Index<1>{});
    for (; k + 2 <= end; k += 2) {
      one(k, Index<0>{});
      one(k + 1, Index<1>{});
    }
    if (k < end) one(k, Index<0>{});
  }
};
#endif

#if !defined(__AMX_BF16__)
// How few_rows() reads x: kRows rows at a time, whose sums fill the registers or are one tile of eight. With
// small tiles a panel comes from L2 as fast as it is multiplied, and C is written once, which is faster than
// blocks of K as long as x, of kLargestX bytes, stays in L3.
constexpr bool kSmallTiles = kTileRows < 8;

struct PlainRows : PlainPanels<float> {
  using Row = Packed;
  static constexpr int64_t kRows = kSmallTiles ? kTileRows : 8, kLargestX = kSmallTiles ? 8 << 20 : 0;
};

#if !defined(__AVX512BF16__)
// Pairs as they are kept, widened in registers: for few rows, which are bound by reading them.
struct PairsInRegisters {
  using Packed = uint32_t;
  struct Row {  // two of a row of x, rounded
    float first, second;
  };
  // two registers more for each vector of weights; widened again for every group of rows
  static constexpr int64_t kRows = kSmallTiles ? 4 : 8, kLargestX = kSmallTiles ? 256 << 10 : 0;
  using V = Vec<float>;
  struct Pair {
    V first, second;
  };
  static ROOTS_INLINE Pair broadcast(const Row& pair) { return {V(pair.first), V(pair.second)}; }
  static ROOTS_INLINE Pair load(const Packed* p) { return {half_of_pairs<0>(p), half_of_pairs<1>(p)}; }
  static ROOTS_INLINE V multiply_add(const Pair& a, const Pair& b, V sum) {
    return fma(a.second, b.second, fma(a.first, b.first, sum));
  }
};
using FewPairs = PairsInRegisters;

// n elements of x from `offset` on, rounded; what is beyond is zero.
ROOTS_INLINE void round_row(const HalfMatrix& x, int64_t offset, int64_t n, FewPairs::Row* out) {
  constexpr int64_t W = Vec<float>::kWidth;
  auto* to = reinterpret_cast<float*>(out);
  for (int64_t k = 0; k < n; k += W)
    rounded_to_bf16(load_widened(x, offset + k, n - k < W ? n - k : W)).store(to + k);
}
#else
struct FewPairs : PairPanels {
  using Row = Packed;
  static constexpr int64_t kRows = 8, kLargestX = 0;
};

// n elements of x from `offset` on, rounded; what is beyond is zero.
ROOTS_INLINE void round_row(const HalfMatrix& x, int64_t offset, int64_t n, FewPairs::Row* out) {
  for (int64_t k = 0; k < n; k += 32)
    _mm512_storeu_si512(out + k / 2, load_bf16(x, offset + k, n - k < 32 ? n - k : 32));
}
#endif

template <class P>
ROOTS_INLINE bool wants_few_rows(int64_t M, int64_t K) {
  return M <= P::kRows || M * K * static_cast<int64_t>(sizeof(float)) <= P::kLargestX;
}

// Rows of packed elements x, ldx apart, against one panel. With few rows, several steps of k at a time, so
// that a sum waits for none of the others.
template <class P, int Rows>
void few_rows(const typename P::Row* x, int64_t ldx, int64_t depth, const typename P::Packed* b,
              int64_t columns, float* c, int64_t ldc) {
  using V = Vec<float>;
  constexpr int64_t W = V::kWidth;
  constexpr int kVectors = kTileVectors, kSums = Rows * kVectors, kSteps = kSums < 8 ? 8 / kSums : 1;
  V acc[kSteps * kSums] = {};
  const auto step = [&](int64_t k, auto s) ROOTS_INLINED {
    decltype(P::load(b)) bk[kVectors];
    unrolled<kVectors>([&](auto v) ROOTS_INLINED { bk[v] = P::load(b + k * kKeptColumns + v * W); });
    unrolled<Rows>([&](auto r) ROOTS_INLINED {
      const auto a = P::broadcast(x[r * ldx + k]);
      unrolled<kVectors>([&](auto v) ROOTS_INLINED {
        V& sum = acc[s * kSums + r * kVectors + v];
        sum = P::multiply_add(a, bk[v], sum);
      });
    });
  };
  int64_t k = 0;
  for (; k + kSteps <= depth; k += kSteps) unrolled<kSteps>([&](auto s) ROOTS_INLINED { step(k + s, s); });
  for (; k < depth; ++k) step(k, Index<0>{});
  unrolled<kSums>([&](auto n) ROOTS_INLINED {
    V sum = acc[n];
    for (int s = 1; s < kSteps; ++s) sum = sum + acc[s * kSums + n];
    constexpr int r = decltype(n)::value / kVectors, v = decltype(n)::value % kVectors;
    const int64_t left = columns - v * W;
    if (left > 0) sum.store_partial(c + r * ldc + v * W, left < W ? left : W);
  });
}

template <class P, int Rows = P::kRows>
void few_rows_of(int64_t rows, const typename P::Row* x, int64_t ldx, int64_t depth,
                 const typename P::Packed* b, int64_t columns, float* c, int64_t ldc) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return few_rows_of<P, Rows - 1>(rows, x, ldx, depth, b, columns, c, ldc);
  }
  few_rows<P, Rows>(x, ldx, depth, b, columns, c, ldc);
}

// M rows against all panels, each read from beginning to end.
template <class P>
Status few_rows(const Context& context, int64_t M, const typename P::Row* x, int64_t ldx, int64_t depth,
                const typename P::Packed* panels, int64_t outputs, float* c,
                const Epilogue<float>& epilogue) {
  const int64_t count = ceil_div(outputs, kKeptColumns), words = depth * kKeptColumns;
  int64_t per_chunk = items_per_chunk(count, words * M < 131072 ? 131072 / (words * M) : 1);
  // the epilogue goes along rows of a chunk: eight panels wide where there are chunks enough
  const int64_t wide = count / 16 < 8 ? count / 16 : 8;
  if (!epilogue.empty() && per_chunk < wide) per_chunk = wide;
  const int64_t rows = ceil_div(M, ceil_div(M, P::kRows));  // groups of equal height
  context.parallel_for(ceil_div(count, per_chunk), [&](int64_t chunk) {
    const int64_t p0 = chunk * per_chunk, p1 = p0 + per_chunk < count ? p0 + per_chunk : count;
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t j0 = p * kKeptColumns, left = outputs - j0;
      for (int64_t i = 0; i < M; i += rows)
        few_rows_of<P>(M - i < rows ? M - i : rows, x + i * ldx, ldx, depth, panels + p * words,
                       left < kKeptColumns ? left : kKeptColumns, c + i * outputs + j0, outputs);
    }
    const int64_t j0 = p0 * kKeptColumns, j1 = p1 * kKeptColumns < outputs ? p1 * kKeptColumns : outputs;
    if (!epilogue.empty()) epilogue.apply(c + j0, outputs, j0, j0, M, j1 - j0);
  });
  return nullptr;
}

#endif

}  // namespace

// packed = panels of weight (N, K), any strides; with unpack, weight = what packed holds.
Status linear_pack(const Context& context, Tensor weight, Tensor packed, int64_t unpack) {
  CHECK(weight.rank == 2 && weight.dtype == packed.dtype, "needs a matrix of the dtype of packed");
  const int64_t outputs = weight.shape[0], inputs = weight.shape[1];
  if (const Status status = check_packed(packed, outputs, inputs)) return status;
  const int64_t groups = packed.shape[1], panels = packed.shape[0] * (kPadded / kKeptColumns);
  const int64_t across = weight.strides[0], along = weight.strides[1];
  const bool half = packed.dtype == DType::bf16;
  // pairs that lie together move as one number of 32 bits
  const bool whole_pairs = half && along == 1 && across % 2 == 0 && inputs % 2 == 0;
  if (!unpack && (!half || whole_pairs)) {
    const Matrix<float> columns = half ? Matrix<float>{data<const float>(weight), 1, across / 2}
                                       : Matrix<float>{data<const float>(weight), along, across};
    context.parallel_for(panels, [&](int64_t p) {
      pack_b_panel(columns, p * kKeptColumns, outputs - p * kKeptColumns, 0, groups,
                   data<float>(packed) + p * groups * kKeptColumns);
    });
    return nullptr;
  }
  const auto each = [&](auto type, int64_t group) {
    using T = decltype(type);
    const int64_t wide = group * kKeptColumns;
    context.parallel_for(panels, [&](int64_t p) {
      T* panel = data<T>(packed) + p * groups * wide;
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t c = 0; c < kKeptColumns; ++c)
          for (int64_t e = 0; e < group; ++e) {
            const int64_t n = p * kKeptColumns + c, k = g * group + e;
            T& to = panel[g * wide + c * group + e];
            if (n < outputs && k < inputs) {
              T& from = data<T>(weight)[n * across + k * along];
              (unpack ? from : to) = unpack ? to : from;
            } else if (!unpack) {
              to = T(0);
            }
          }
    });
  };
  half ? each(uint16_t{}, 2) : each(float{}, 1);
  return nullptr;
}

// x (M, K) float32 with dense rows, bias (N) float32, out (M, N) float32.
Status linear_packed(const Context& context, Tensor x, Tensor packed, OptionalTensor bias,
                     OptionalTensor gate, OptionalTensor residual, Tensor out, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  CHECK(x.rank == 2 && out.rank == 2 && x.dtype == DType::f32 && out.dtype == DType::f32,
        "needs float32 matrices");
  const int64_t M = x.shape[0], K = x.shape[1], N = out.shape[1];
  CHECK(out.shape[0] == M && is_contiguous(out), "out has the wrong shape");
  CHECK(x.strides[1] == 1 || K <= 1, "rows of x must be dense");
  if (const Status status = check_linear_end(end, out)) return status;
  if (const Status status = check_packed(packed, N, K)) return status;
  const Epilogue<float> epilogue(end);
  auto* c = data<float>(out);
  if (M == 0 || N == 0) return nullptr;
  if (K == 0) return gemm<float, false>(context, M, N, 0, {nullptr, 0, 0}, {nullptr, 0, 0}, c, N, epilogue);
#if defined(__AMX_BF16__)
  // a tile computes sixteen rows however few there are
  constexpr int64_t kVectorRows = 2;
  if (packed.dtype == DType::f32 || M <= kVectorRows)
    return avx512_bf16::linear_packed(context, x, packed, bias, gate, residual, out, activation);
#else
  if (packed.dtype == DType::f32) {
    const auto* panels = data<float>(packed);
    if (wants_few_rows<PlainRows>(M, K))
      return few_rows<PlainRows>(context, M, data<float>(x), x.strides[0], K, panels, N, c, epilogue);
    const Matrix<float> a{data<float>(x), x.strides[0], 1};
    return gemm_packed<PlainPanels<float>, false>(context, M, N, K, PackRows<float>{a},
                                                  KeptColumns{panels, K}, c, N, epilogue);
  }
#endif
  const auto* panels = data<uint32_t>(packed);
  const int64_t pairs = ceil_div(K, 2);
  const HalfMatrix a{x.data, false, x.strides[0], 1};
#if !defined(__AMX_BF16__)
  if (wants_few_rows<FewPairs>(M, K)) {
    using Row = FewPairs::Row;
    const int64_t ld = pairs + 16;
    auto* rows =
        static_cast<Row*>(context.workspace(context.host, 0, static_cast<size_t>(M * ld) * sizeof(Row)));
    CHECK(rows, "out of memory");
    context.parallel_for(ceil_div(M, 16), [&](int64_t chunk) {
      for (int64_t i = chunk * 16; i < M && i < chunk * 16 + 16; ++i)
        round_row(a, i * x.strides[0], K, rows + i * ld);
    });
    return few_rows<FewPairs>(context, M, rows, ld, pairs, panels, N, c, epilogue);
  }
#endif
  return gemm_packed<HalfPanels, false>(context, M, N, K, PackHalfRows{a}, KeptPairs{panels, pairs}, c, N,
                                        epilogue);
}

}  // namespace ROOTS_ISA
}  // namespace roots
