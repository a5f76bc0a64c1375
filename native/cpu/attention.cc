// Scaled dot-product attention, forward and backward, without materialising the (T, T) matrix of all heads.
//   S = scale Q K^T + mask,  P = softmax(S),  O = P V        (Vaswani et al. 2017)
// Backward with P recomputed from the saved log-sum-exp and delta = rowsum(dO * O) (FlashAttention, arXiv
// 2205.14135): dV = P^T dO, dS = P (dO V^T - delta), dQ = scale dS K, dK = scale dS^T Q.
//
// Shapes: q, out (B, H, Tq, D|Dv); k, v (B, Hkv, Tk, D|Dv); query head h reads key head h / (H / Hkv); lse
// (B, H, Tq). Which keys query i of batch b may see: starts[b] <= j < lengths[b]; causal: j <= i + Tk - Tq;
// window w > 0: j > i + Tk - Tq - w. A query that may see none gives zeros and lse = -infinity.
#include "cpu/attention/decode.h"
#include "cpu/attention/tiles.h"
#include "cpu/declare.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class T>
Status forward(const Context& context, const Operands<T>& x, const Tensor& out, const Tensor& lse) {
  if (x.p.B == 0 || x.p.H == 0 || x.p.Tq == 0) return nullptr;
  return x.p.Tq <= kFewQueries ? forward_few<PlainForm<T>>(context, x, out, lse)
                               : forward_tiles<PlainForm<T>>(context, x, out, lse);
}

}  // namespace

Status attention_forward(const Context& context, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                         OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse, double scale,
                         int64_t causal, int64_t window) {
  Problem p;
  if (const Status status =
          check_attention(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &p))
    return status;
  if (q.dtype == DType::f32) return forward<float>(context, {p, q, k, v, mask}, out, lse);
  return forward<double>(context, {p, q, k, v, mask}, out, lse);
}

Status attention_backward(const Context& context, Tensor dout, Tensor q, Tensor k, Tensor v,
                          OptionalTensor mask, OptionalTensor lengths, OptionalTensor starts, Tensor out,
                          Tensor lse, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dmask, double scale,
                          int64_t causal, int64_t window) {
  Problem p;
  if (const Status status =
          check_attention(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &p))
    return status;
  if (const Status status = check_attention_gradients(dout, q, k, v, mask, out, dq, dk, dv, dmask))
    return status;
  if (q.dtype == DType::f32)
    return backward_tiles<float>(context, {p, q, k, v, mask}, dout, out, lse, dq, dk, dv, dmask);
  return backward_tiles<double>(context, {p, q, k, v, mask}, dout, out, lse, dq, dk, dv, dmask);
}

// Operands may be rounded to bfloat16; here they are not.
Status attention_bf16_backward(const Context& context, Tensor dout, Tensor q, Tensor k, Tensor v,
                               OptionalTensor mask, OptionalTensor lengths, OptionalTensor starts, Tensor out,
                               Tensor lse, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dmask,
                               double scale, int64_t causal, int64_t window) {
  CHECK(q.dtype == DType::f32, "needs float32");
  return ROOTS_ISA::attention_backward(context, dout, q, k, v, mask, lengths, starts, out, lse, dq, dk, dv,
                                       dmask, scale, causal, window);
}

}  // namespace ROOTS_ISA
}  // namespace roots
