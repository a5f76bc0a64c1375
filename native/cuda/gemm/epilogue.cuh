// What happens to an element of a product before it is stored, and what products require of their operands.
#pragma once

#include "core/elementwise.h"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {

// The numbers of lib/ops/matmul.ts and native/cpu/gemm/gemm.h.
enum class Activation : int64_t { none = 0, gelu_tanh = 1, gelu_erf = 2, silu = 3, relu = 4 };
constexpr int64_t kNumActivations = 5;

template <class T>
ROOTS_DEVICE_CALL T activate(Activation activation, T x) {
  const Number<T> v(x);
  switch (activation) {
    case Activation::gelu_tanh: return formula::gelu_tanh_formula::forward(v).v;
    case Activation::gelu_erf: return formula::gelu_erf_formula::forward(v).v;
    case Activation::silu: return formula::silu_formula::forward(v).v;
    case Activation::relu: return formula::relu_formula::forward(v).v;
    default: return x;
  }
}

// out (M, N), dense rows, one batch after the other. `column_scale` and `row_scale` multiply first: the
// scales of int8 operands.
template <class T>
struct Epilogue {
  T* out = nullptr;
  T* pre = nullptr;
  const T* bias = nullptr;
  const T* row_scale = nullptr;
  const T* column_scale = nullptr;
  Activation activation = Activation::none;
  bool accumulate = false;

  // `base`: elements of out in the batches before
  ROOTS_DEVICE void store(int64_t base, int64_t row, int64_t column, int64_t N, T value) const {
    const int64_t at = base + row * N + column;
    if (column_scale)
      value = value * (row_scale ? row_scale[row] * column_scale[column] : column_scale[column]);
    if (bias) value = value + bias[column];
    if (pre) pre[at] = value;
    if (activation != Activation::none) value = activate(activation, value);
    out[at] = accumulate ? out[at] + value : value;
  }
};

inline Status check_product(const Tensor& a, const Tensor& b, const Tensor& out) {
  const int32_t r = out.rank;
  CHECK(r >= 2 && a.rank == r && b.rank == r, "ranks differ");
  CHECK(a.shape[r - 1] == b.shape[r - 2], "inner dimensions differ");
  CHECK(a.shape[r - 2] == out.shape[r - 2] && b.shape[r - 1] == out.shape[r - 1], "shapes differ");
  for (int32_t i = 0; i < r - 2; ++i)
    CHECK(a.shape[i] == out.shape[i] && b.shape[i] == out.shape[i], "batch axes differ");
  CHECK(is_contiguous(out), "out must be contiguous");
  return nullptr;
}

inline Status check_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
                           const Tensor& pre, int64_t activation) {
  CHECK(x.rank == 2 && weight.rank == 2 && out.rank == 2, "needs matrices");
  CHECK(x.shape[1] == weight.shape[1], "inner dimensions differ");
  CHECK(out.shape[0] == x.shape[0] && out.shape[1] == weight.shape[0] && is_contiguous(out),
        "out has the wrong shape");
  CHECK(!bias.data || (bias.rank == 1 && bias.dtype == out.dtype && is_contiguous(bias) &&
                       bias.shape[0] == weight.shape[0]),
        "bias must be contiguous, one per output");
  CHECK(!pre.data || (pre.dtype == out.dtype && same_shape(pre, out) && is_contiguous(pre)),
        "pre must be like out");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  return nullptr;
}

// The products of one call: leading axes of a and b, of any strides, and a dense out.
struct Batches {
  int32_t rank = 0;
  int64_t count = 1;
  int64_t shape[kMaxRank] = {}, a[kMaxRank] = {}, b[kMaxRank] = {};

  Batches() = default;
  Batches(const Tensor& ta, const Tensor& tb, const Tensor& out) {
    rank = out.rank - 2;
    for (int32_t i = 0; i < rank; ++i) {
      shape[i] = out.shape[i];
      a[i] = ta.strides[i];
      b[i] = tb.strides[i];
      count *= shape[i];
    }
  }
  ROOTS_DEVICE void offsets(int64_t index, int64_t* in_a, int64_t* in_b) const {
    *in_a = *in_b = 0;
    for (int32_t i = rank - 1; i >= 0; --i) {
      const int64_t at = index % shape[i];
      index /= shape[i];
      *in_a += at * a[i];
      *in_b += at * b[i];
    }
  }
};

constexpr int64_t kMostBatches = 65535;  // of a grid's z axis; blocks stride over the rest

inline dim3 grid_of(int64_t M, int64_t N, int64_t tile_m, int64_t tile_n, int64_t batches) {
  // rows on x: its limit is 2^31 - 1, that of y 65535
  return dim3(static_cast<unsigned>(ceil_div(M, tile_m)), static_cast<unsigned>(ceil_div(N, tile_n)),
              static_cast<unsigned>(batches < kMostBatches ? batches : kMostBatches));
}

}  // namespace cuda
}  // namespace roots
