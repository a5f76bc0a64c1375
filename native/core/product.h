// What matrix products and linear layers require of their operands, and the activations that linear layers
// apply on the way out.
#pragma once

#include "core/check.h"
#include "core/elementwise.h"
#include "core/packed_i4.h"
#include "core/shape.h"
#include "core/status.h"

namespace roots {
namespace {

// The numbers of lib/ops/matmul.ts.
enum class Activation : int64_t { none = 0, gelu_tanh = 1, gelu_erf = 2, silu = 3, relu = 4 };
constexpr int64_t kNumActivations = 5;

// use(formula of the activation, x...): the one list of them. Arguments are passed by value: nvcc keeps what
// a reference names on the stack.
template <class Use, class... X>
ROOTS_PORTABLE auto with_activation(Activation activation, Use use, X... x) {
  switch (activation) {
    case Activation::gelu_tanh: return use(formula::gelu_tanh_formula{}, x...);
    case Activation::gelu_erf: return use(formula::gelu_erf_formula{}, x...);
    case Activation::silu: return use(formula::silu_formula{}, x...);
    case Activation::relu: return use(formula::relu_formula{}, x...);
    default: return use(formula::identity_formula{}, x...);
  }
}
template <class V>
ROOTS_PORTABLE V activate(Activation activation, V x) {
  return with_activation(activation, [](auto f, V value) { return decltype(f)::forward(value); }, x);
}
template <class V>
ROOTS_PORTABLE V activation_slope(Activation activation, V x) {
  return with_activation(activation, [](auto f, V value) { return decltype(f)::derivative(value); }, x);
}

// What a linear layer does with its sums: y = gate * activation(sum + bias) + residual. slope receives
// activation'(sum + bias), which the backward pass multiplies by.
struct LinearEnd {
  OptionalTensor bias, gate, residual, slope;
  int64_t activation;
};

// a (…, M, K), b (…, K, N), out (…, M, N) with the same leading axes.
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

// bias (N), gate, residual and slope (M, N), like out.
inline Status check_linear_end(const LinearEnd& end, const Tensor& out) {
  const Tensor& bias = end.bias;
  CHECK(!bias.data || (bias.rank == 1 && bias.dtype == out.dtype && is_contiguous(bias) &&
                       bias.shape[0] == out.shape[1]),
        "bias must be contiguous, one per output");
  const Tensor* const full[] = {&end.gate, &end.residual, &end.slope};
  for (const Tensor* t : full) CHECK(absent_or_like(*t, out), "gate, residual and slope must be like out");
  CHECK(end.activation >= 0 && end.activation < kNumActivations, "unknown activation");
  return nullptr;
}

// x (M, K), weight (N, K), out (M, N).
inline Status check_linear(const Tensor& x, const Tensor& weight, const Tensor& out, const LinearEnd& end) {
  CHECK(x.rank == 2 && weight.rank == 2 && out.rank == 2, "needs matrices");
  CHECK(x.shape[1] == weight.shape[1], "inner dimensions differ");
  CHECK(out.shape[0] == x.shape[0] && out.shape[1] == weight.shape[0] && is_contiguous(out),
        "out has the wrong shape");
  return check_linear_end(end, out);
}

// Of weights that are quantized and packed: x (M, K) and out (M, N), dense float32.
inline Status check_linear_packed(const Tensor& x, const Tensor& out, const LinearEnd& end) {
  CHECK(x.rank == 2 && out.rank == 2 && x.shape[0] == out.shape[0], "needs matrices");
  CHECK(x.dtype == DType::f32 && out.dtype == DType::f32, "needs float32");
  CHECK(is_contiguous(x) && is_contiguous(out), "needs contiguous tensors");
  return check_linear_end(end, out);
}

// int8 weights in `bytes` bytes, scale (N). exact: sums are int32.
inline Status check_linear_i8(const Tensor& x, const Tensor& packed, int64_t bytes, const Tensor& scale,
                              const Tensor& out, const LinearEnd& end, bool exact) {
  if (const Status status = check_linear_packed(x, out, end)) return status;
  CHECK(packed.dtype == DType::i8 && packed.rank == 1 && packed.shape[0] == bytes,
        "packed has the wrong size");
  CHECK(scale.dtype == DType::f32 && numel(scale) == out.shape[1] && is_contiguous(scale),
        "one scale per output");
  // 255 * 127 * K stays below 2^31: processors take activations without a sign
  CHECK(!exact || x.shape[1] <= 65536, "inner dimension above 65536 could overflow int32");
  return nullptr;
}

// weight (N, K) int8 and its packed form of `bytes` bytes.
inline Status check_i8_pack(const Tensor& weight, const Tensor& packed, int64_t bytes) {
  CHECK(packed.rank == 1 && packed.dtype == DType::i8 && is_contiguous(packed), "packed must be int8 bytes");
  CHECK(weight.rank == 2 && weight.dtype == DType::i8 && is_contiguous(weight),
        "weight must be a contiguous int8 matrix");
  CHECK(packed.shape[0] == bytes, "packed has the wrong size");
  return nullptr;
}

inline Status check_i4_packed(const Tensor& packed, const PackedI4& layout) {
  CHECK(packed.dtype == DType::u8 && is_contiguous(packed) && numel(packed) == layout.total_bytes(),
        "packed has the wrong size");
  return nullptr;
}
inline Status check_group(int64_t group) {
  CHECK(group > 0 && group % PackedI4::kBlock == 0, "group must be a multiple of 32");
  return nullptr;
}
inline Status check_linear_i4(const Tensor& x, const Tensor& packed, const Tensor& out, const LinearEnd& end,
                              int64_t group) {
  if (const Status status = check_linear_packed(x, out, end)) return status;
  if (const Status status = check_group(group)) return status;
  return check_i4_packed(packed, PackedI4(out.shape[1], x.shape[1], group));
}
// x (…, K) float32 with dense rows and any leading axes, q like it, scale (…): a view of up to four axes.
inline Status check_quantize_rows(const Tensor& x, const Tensor& q, const Tensor& scale) {
  CHECK(x.rank >= 1 && x.rank <= 4 && x.dtype == DType::f32, "x must be float32 with 1 to 4 axes");
  CHECK(q.dtype == DType::i8 && same_shape(x, q), "q must be int8, like x");
  const int32_t last = x.rank - 1;
  CHECK((x.strides[last] == 1 && q.strides[last] == 1) || x.shape[last] <= 1, "rows must be dense");
  CHECK(scale.dtype == DType::f32 && scale.rank == last, "one scale per row");
  for (int32_t i = 0; i < last; ++i) CHECK(scale.shape[i] == x.shape[i], "one scale per row");
  return nullptr;
}
// Where row `r` of the leading axes lies.
ROOTS_PORTABLE int64_t row_offset(const Tensor& t, const Tensor& rows, int64_t r) {
  int64_t at = 0;
  for (int32_t i = rows.rank - 2; i >= 0; --i) {
    at += r % rows.shape[i] * t.strides[i];
    r /= rows.shape[i];
  }
  return at;
}
// Rows of an int8 table: a matrix (rows, width), or a packed vector, whose size is the backend's to check.
inline Status check_embedding_i8(const Tensor& ids, const Tensor& weight, const Tensor& scale,
                                 const Tensor& out) {
  CHECK(weight.dtype == DType::i8 && is_contiguous(weight) && (weight.rank == 1 || weight.rank == 2),
        "weight must be an int8 matrix, or packed");
  CHECK(scale.dtype == DType::f32 && is_contiguous(scale), "one scale per row");
  CHECK(out.rank >= 1 && out.dtype == DType::f32 && is_contiguous(out) &&
            numel(out) == numel(ids) * out.shape[out.rank - 1],
        "out has the wrong shape");
  if (weight.rank == 2)
    CHECK(weight.shape[0] == numel(scale) && weight.shape[1] == out.shape[out.rank - 1], "shapes differ");
  return nullptr;
}
// Rows of a packed table (rows, width): out (…, width), ids (…) of any shape.
inline Status check_embedding_i4(const Tensor& ids, const Tensor& packed, const Tensor& out, int64_t rows,
                                 int64_t group) {
  if (const Status status = check_group(group)) return status;
  CHECK(out.rank >= 1 && out.dtype == DType::f32 && is_contiguous(out) &&
            numel(out) == numel(ids) * out.shape[out.rank - 1],
        "out has the wrong shape");
  return check_i4_packed(packed, PackedI4(rows, out.shape[out.rank - 1], group));
}
// q (N, K) int8, scale (N, groups) float32.
inline Status check_i4_pack(const Tensor& q, const Tensor& scale, const Tensor& packed, int64_t group) {
  CHECK(q.rank == 2 && q.dtype == DType::i8 && is_contiguous(q), "q must be a contiguous int8 matrix");
  if (const Status status = check_group(group)) return status;
  const PackedI4 layout(q.shape[0], q.shape[1], group);
  CHECK(scale.rank == 2 && scale.dtype == DType::f32 && is_contiguous(scale) &&
            scale.shape[0] == q.shape[0] && scale.shape[1] == layout.groups,
        "one scale per output and group");
  return check_i4_packed(packed, layout);
}

}  // namespace
}  // namespace roots
