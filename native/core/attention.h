// What one attention call computes: sizes, scale, and which keys a query may see; and what the kernels
// require of their operands. Formulas and shapes are in cpu/attention.cc.
#pragma once

#include "core/check.h"
#include "core/portable.h"
#include "core/shape.h"
#include "core/status.h"

namespace roots {
namespace {

struct AttentionProblem {
  int64_t B, H, Hkv, Tq, Tk, D, Dv;
  double scale;
  bool causal;
  int64_t window;
  const int64_t *starts, *lengths;

  ROOTS_PORTABLE int64_t first_key(int64_t b, int64_t i) const {
    int64_t first = starts ? starts[b] : 0;
    if (window > 0 && i + Tk - Tq - window + 1 > first) first = i + Tk - Tq - window + 1;
    return first < 0 ? 0 : first;
  }
  ROOTS_PORTABLE int64_t last_key(int64_t b, int64_t i) const {  // one past
    int64_t last = lengths ? lengths[b] : Tk;
    if (causal && i + Tk - Tq + 1 < last) last = i + Tk - Tq + 1;
    return last > Tk ? Tk : last < 0 ? 0 : last;
  }
};

// Everything but dtypes.
inline Status check_attention_shapes(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const OptionalTensor& mask, const OptionalTensor& lengths,
                                     const OptionalTensor& starts, const Tensor& out, const Tensor& lse,
                                     double scale, int64_t causal, int64_t window, AttentionProblem* p) {
  CHECK(q.rank == 4 && k.rank == 4 && v.rank == 4 && out.rank == 4 && lse.rank == 3, "needs rank 4");
  *p = {q.shape[0],
        q.shape[1],
        k.shape[1],
        q.shape[2],
        k.shape[2],
        q.shape[3],
        v.shape[3],
        scale,
        causal != 0,
        window,
        data<const int64_t>(starts),
        data<const int64_t>(lengths)};
  CHECK(k.shape[0] == p->B && v.shape[0] == p->B && k.shape[3] == p->D, "k does not match q");
  CHECK(v.shape[1] == p->Hkv && v.shape[2] == p->Tk, "v does not match k");
  CHECK(p->Hkv > 0 && p->H % p->Hkv == 0, "query heads must be a multiple of key heads");
  CHECK(out.shape[0] == p->B && out.shape[1] == p->H && out.shape[2] == p->Tq && out.shape[3] == p->Dv,
        "out has the wrong shape");
  CHECK(lse.shape[0] == p->B && lse.shape[1] == p->H && lse.shape[2] == p->Tq && is_contiguous(lse),
        "lse has the wrong shape");
  CHECK(q.strides[3] == 1 && k.strides[3] == 1 && v.strides[3] == 1 && out.strides[3] == 1,
        "rows must be dense");
  if (mask.data) {
    CHECK(mask.rank == 4, "mask must have rank 4");
    CHECK(mask.shape[0] == p->B && mask.shape[1] == p->H && mask.shape[2] == p->Tq && mask.shape[3] == p->Tk,
          "mask has the wrong shape");
  }
  const OptionalTensor* const limits[] = {&lengths, &starts};
  for (const OptionalTensor* t : limits)
    CHECK(!t->data || (t->rank == 1 && t->shape[0] == p->B && t->dtype == DType::i64 && is_contiguous(*t)),
          "lengths and starts are int64, one per batch");
  return nullptr;
}

// All in one dtype.
inline Status check_attention(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
                              const OptionalTensor& lengths, const OptionalTensor& starts, const Tensor& out,
                              const Tensor& lse, double scale, int64_t causal, int64_t window,
                              AttentionProblem* p) {
  CHECK(q.dtype == k.dtype && q.dtype == v.dtype && q.dtype == out.dtype && q.dtype == lse.dtype,
        "dtypes differ");
  CHECK(q.dtype == DType::f32 || q.dtype == DType::f64, "needs float32 or float64");
  CHECK(!mask.data || mask.dtype == q.dtype, "mask must have the dtype of q");
  return check_attention_shapes(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, p);
}

// q, k, v and out float32 or bfloat16, each.
inline Status check_attention_bf16(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const OptionalTensor& mask, const OptionalTensor& lengths,
                                   const OptionalTensor& starts, const Tensor& out, const Tensor& lse,
                                   double scale, int64_t causal, int64_t window, AttentionProblem* p) {
  const auto fits = [](const Tensor& t) { return t.dtype == DType::f32 || t.dtype == DType::bf16; };
  CHECK(fits(q) && fits(k) && fits(v) && fits(out), "needs float32 or bfloat16");
  CHECK(lse.dtype == DType::f32 && (!mask.data || mask.dtype == DType::f32), "lse and mask are float32");
  return check_attention_shapes(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, p);
}

// q and out float32; k and v int8 with a float32 scale per row, (B, Hkv, Tk), rows of scales dense.
inline Status check_attention_i8(const Tensor& q, const Tensor& k, const Tensor& k_scale, const Tensor& v,
                                 const Tensor& v_scale, const OptionalTensor& mask,
                                 const OptionalTensor& lengths, const OptionalTensor& starts,
                                 const Tensor& out, const Tensor& lse, double scale, int64_t causal,
                                 int64_t window, AttentionProblem* p) {
  CHECK(q.dtype == DType::f32 && out.dtype == DType::f32 && lse.dtype == DType::f32, "needs float32");
  CHECK(k.dtype == DType::i8 && v.dtype == DType::i8, "k and v must be int8");
  CHECK(!mask.data || mask.dtype == DType::f32, "mask must be float32");
  if (const Status status =
          check_attention_shapes(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, p))
    return status;
  const Tensor* const scales[] = {&k_scale, &v_scale};
  for (const Tensor* s : scales)
    CHECK(s->rank == 3 && s->dtype == DType::f32 && s->shape[0] == p->B && s->shape[1] == p->Hkv &&
              s->shape[2] == p->Tk && (s->strides[2] == 1 || p->Tk <= 1),
          "one scale per key and value");
  return nullptr;
}

// Beside check_attention().
inline Status check_attention_gradients(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                                        const OptionalTensor& mask, const Tensor& out, const Tensor& dq,
                                        const Tensor& dk, const Tensor& dv, const OptionalTensor& dmask) {
  CHECK(same_shape(dout, out) && dout.strides[3] == 1 && dout.dtype == q.dtype, "dout must be like out");
  CHECK(same_shape(dq, q) && same_shape(dk, k) && same_shape(dv, v),
        "gradients must have the shapes of their inputs");
  CHECK(dq.strides[3] == 1 && dk.strides[3] == 1 && dv.strides[3] == 1, "rows of gradients must be dense");
  CHECK(dq.dtype == q.dtype && dk.dtype == q.dtype && dv.dtype == q.dtype, "dtypes differ");
  CHECK(
      !dmask.data || (mask.data && same_shape(dmask, mask) && is_contiguous(dmask) && dmask.dtype == q.dtype),
      "dmask must be contiguous, like mask");
  return nullptr;
}

}  // namespace
}  // namespace roots
