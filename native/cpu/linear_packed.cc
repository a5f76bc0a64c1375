// y = gate * activation(x W^T + b) + residual with W kept in the form that the tiles of the GEMM read: panels
// of 32 outputs, inputs one after the other (float32) or in neighbouring pairs (bf16), padded with zeros. A
// product then packs nothing, and reads weights from beginning to end.
//   packed (ceil(N / 32), K, 32) float32: element (n, k) at [n / 32, k, n % 32]
//   packed (ceil(N / 32), ceil(K / 2), 64) bf16: at [n / 32, k / 2, 2 (n % 32) + k % 2]
#include "cpu/declare.h"
#include "cpu/gemm/bf16.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

Status check_packed(const Tensor& packed, int64_t outputs, int64_t inputs) {
  const bool half = packed.dtype == DType::bf16;
  CHECK(packed.rank == 3 && is_contiguous(packed) && (half || packed.dtype == DType::f32),
        "packed must be contiguous float32 or bfloat16 of rank 3");
  CHECK(packed.shape[0] == ceil_div(outputs, kKeptColumns) &&
            packed.shape[1] == (half ? ceil_div(inputs, 2) : inputs) &&
            packed.shape[2] == (half ? 2 : 1) * kKeptColumns,
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
// Without products of bf16, pairs are widened on their way into the float tile.
struct KeptPairs {
  static constexpr bool kInPlace = false;
  const uint32_t* data;
  int64_t pairs;
  ROOTS_INLINE void operator()(int64_t j0, int64_t, int64_t k0, int64_t depth, float* out) const {
    constexpr int64_t C = kTileColumns<float>;
    const uint32_t* panel = data + j0 / kKeptColumns * pairs * kKeptColumns + j0 % kKeptColumns;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t c = 0; c < C; ++c)
        out[k * C + c] =
            bf16_to_f32(static_cast<uint16_t>(panel[(k0 + k) / 2 * kKeptColumns + c] >> ((k0 + k) % 2 * 16)));
  }
};
#endif
static_assert(kKeptColumns % kTileColumns<float> == 0, "a tile lies inside one panel");

#if !defined(__AVX512BF16__)
// Pairs as they are kept, widened in registers: for one row, which is bound by reading them.
struct PairsInRegisters {
  using Packed = uint32_t;
  using V = Vec<float>;
  struct Pair {
    V first, second;
  };
  static ROOTS_INLINE V as_float(V::Mask bits) { return V((V::Raw)bits); }
  static ROOTS_INLINE Pair broadcast(Packed pair) {
    const V::Mask both = static_cast<int32_t>(pair) - V::Mask{};
    return {as_float(both << 16), as_float(both & static_cast<int32_t>(0xffff0000u))};
  }
  static ROOTS_INLINE Pair load(const Packed* p) {
    V::Mask both;
    __builtin_memcpy(&both, p, sizeof both);
    return {as_float(both << 16), as_float(both & static_cast<int32_t>(0xffff0000u))};
  }
  static ROOTS_INLINE V multiply_add(const Pair& a, const Pair& b, V sum) {
    return fma(a.second, b.second, fma(a.first, b.first, sum));
  }
};
#endif

// One row, packed elements x, against panels [p0, p1): bound by reading them. Four steps of k at a time, so
// that a sum waits for none of the others.
template <class P>
void one_row(const typename P::Packed* x, int64_t depth, const typename P::Packed* panels, int64_t p0,
             int64_t p1, int64_t outputs, float* c) {
  using V = Vec<float>;
  constexpr int64_t W = V::kWidth;
  constexpr int kVectors = kKeptColumns / W < 4 ? static_cast<int>(kKeptColumns / W) : 4,
                kSteps = 8 / kVectors;
  for (int64_t p = p0; p < p1; ++p)
    for (int64_t j = 0; j < kKeptColumns; j += kVectors * W) {
      const typename P::Packed* b = panels + p * depth * kKeptColumns + j;
      V acc[kSteps * kVectors] = {};
      int64_t k = 0;
      for (; k + kSteps <= depth; k += kSteps)
        unrolled<kSteps>([&](auto s) {
          const auto a = P::broadcast(x[k + s]);
          unrolled<kVectors>([&](auto v) {
            acc[s * kVectors + v] =
                P::multiply_add(a, P::load(b + (k + s) * kKeptColumns + v * W), acc[s * kVectors + v]);
          });
        });
      for (; k < depth; ++k) {
        const auto a = P::broadcast(x[k]);
        unrolled<kVectors>(
            [&](auto v) { acc[v] = P::multiply_add(a, P::load(b + k * kKeptColumns + v * W), acc[v]); });
      }
      for (int v = 0; v < kVectors; ++v) {
        V sum = acc[v];
        for (int s = 1; s < kSteps; ++s) sum = sum + acc[s * kVectors + v];
        const int64_t at = p * kKeptColumns + j + v * W, left = outputs - at;
        if (left > 0) sum.store_partial(c + at, left < W ? left : W);
      }
    }
}

template <class P>
Status one_row(const Context& context, const typename P::Packed* x, int64_t depth,
               const typename P::Packed* panels, int64_t outputs, float* c, const Epilogue<float>& epilogue) {
  const int64_t count = ceil_div(outputs, kKeptColumns), words = depth * kKeptColumns;
  const int64_t per_chunk = words < 131072 ? 131072 / words : 1;
  context.parallel_for(ceil_div(count, per_chunk), [&](int64_t chunk) {
    const int64_t p0 = chunk * per_chunk, p1 = p0 + per_chunk < count ? p0 + per_chunk : count;
    one_row<P>(x, depth, panels, p0, p1, outputs, c);
    const int64_t j0 = p0 * kKeptColumns, j1 = p1 * kKeptColumns < outputs ? p1 * kKeptColumns : outputs;
    if (!epilogue.empty()) epilogue.apply(c + j0, 0, j0, j0, 1, j1 - j0);
  });
  return nullptr;
}

}  // namespace

// packed = panels of weight (N, K), any strides; with unpack, weight = what packed holds.
Status linear_pack(const Context& context, Tensor weight, Tensor packed, int64_t unpack) {
  CHECK(weight.rank == 2 && weight.dtype == packed.dtype, "needs a matrix of the dtype of packed");
  const int64_t outputs = weight.shape[0], inputs = weight.shape[1];
  if (const Status status = check_packed(packed, outputs, inputs)) return status;
  const int64_t groups = packed.shape[1], wide = packed.shape[2];
  const auto each = [&](auto type, int64_t group) {
    using T = decltype(type);
    context.parallel_for(packed.shape[0], [&](int64_t p) {
      T* panel = data<T>(packed) + p * groups * wide;
      for (int64_t g = 0; g < groups; ++g)
        for (int64_t c = 0; c < kKeptColumns; ++c)
          for (int64_t e = 0; e < group; ++e) {
            const int64_t n = p * kKeptColumns + c, k = g * group + e;
            T& to = panel[g * wide + c * group + e];
            if (n < outputs && k < inputs) {
              T& from = data<T>(weight)[n * weight.strides[0] + k * weight.strides[1]];
              (unpack ? from : to) = unpack ? to : from;
            } else if (!unpack) {
              to = T(0);
            }
          }
    });
  };
  if (packed.dtype == DType::bf16)
    each(uint16_t{}, 2);
  else
    each(float{}, 1);
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
  if (packed.dtype == DType::f32) {
    const auto* panels = data<float>(packed);
    if (M == 1) return one_row<PlainPanels<float>>(context, data<float>(x), K, panels, N, c, epilogue);
    const Matrix<float> a{data<float>(x), x.strides[0], 1};
    return gemm_packed<PlainPanels<float>, false>(context, M, N, K, PackRows<float>{a},
                                                  KeptColumns{panels, K}, c, N, epilogue);
  }
  const auto* panels = data<uint32_t>(packed);
  const int64_t pairs = ceil_div(K, 2);
  const HalfMatrix a{x.data, false, x.strides[0], 1};
  if (M == 1) {
    auto* row =
        static_cast<uint32_t*>(context.workspace(context.host, 0, static_cast<size_t>(pairs + 16) * 4));
    CHECK(row, "out of memory");
#if defined(__AVX512BF16__)
    for (int64_t k = 0; k < K; k += 32)
      _mm512_storeu_si512(row + k / 2, load_bf16(a, k, K - k < 32 ? K - k : 32));
    return one_row<HalfPanels>(context, row, pairs, panels, N, c, epilogue);
#else
    for (int64_t k = 0; k < K; k += 2)
      row[k / 2] = bf16_at(a, k) | static_cast<uint32_t>(k + 1 < K ? bf16_at(a, k + 1) : 0) << 16;
    return one_row<PairsInRegisters>(context, row, pairs, panels, N, c, epilogue);
#endif
  }
  return gemm_packed<HalfPanels, false>(context, M, N, K, PackHalfRows{a}, KeptPairs{panels, pairs}, c, N,
                                        epilogue);
}

}  // namespace ROOTS_ISA
}  // namespace roots
