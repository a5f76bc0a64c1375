// What happens to an element of a product before it is stored, and the products of a batch.
#pragma once

#include "core/product.h"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {

template <class T>
ROOTS_DEVICE_CALL T activated(Activation activation, T x) {
  return activate(activation, Number<T>(x)).v;
}

// out (M, N), dense rows, one batch after the other. `column_scale` and `row_scale` multiply first: the
// scales of int8 operands.
template <class T>
struct Epilogue {
  T* out = nullptr;
  T* slope = nullptr;  // receives the derivative of the activation, which the backward pass multiplies by
  const T* bias = nullptr;
  const T *gate = nullptr, *residual = nullptr;  // like out
  const T* row_scale = nullptr;
  const T* column_scale = nullptr;
  Activation activation = Activation::none;
  bool accumulate = false;

  // `base`: elements of out in the batches before. Without Slopes: for kernels that are never asked for them,
  // whose registers the derivatives of all activations would exhaust.
  template <bool Slopes = true>
  ROOTS_DEVICE void store(int64_t base, int64_t row, int64_t column, int64_t N, T value) const {
    const int64_t at = base + row * N + column;
    if (column_scale)
      value = value * (row_scale ? row_scale[row] * column_scale[column] : column_scale[column]);
    if (bias) value = value + bias[column];
    if (Slopes && slope) slope[at] = activation_slope(activation, Number<T>(value)).v;
    if (activation != Activation::none) value = activated(activation, value);
    if (gate) value = value * gate[at];
    if (residual) value = value + residual[at];
    out[at] = accumulate ? out[at] + value : value;
  }
};

// Of a product, out = or += a b, and of a linear layer.
template <class T>
Epilogue<T> product_epilogue(const Tensor& out, int64_t accumulate) {
  Epilogue<T> epilogue;
  epilogue.out = data<T>(out);
  epilogue.accumulate = accumulate != 0;
  return epilogue;
}
template <class T>
Epilogue<T> linear_epilogue(const LinearEnd& end, const Tensor& out) {
  Epilogue<T> epilogue;
  epilogue.out = data<T>(out);
  epilogue.slope = data<T>(end.slope);
  epilogue.bias = data<const T>(end.bias);
  epilogue.gate = data<const T>(end.gate);
  epilogue.residual = data<const T>(end.residual);
  epilogue.activation = static_cast<Activation>(end.activation);
  return epilogue;
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
