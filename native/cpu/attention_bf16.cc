// Scaled dot-product attention from operands rounded to bf16; see attention.cc for the formula and the
// shapes. q, k, v and out are float32 or bf16, each; scores, softmax, sums, mask and lse are float32.
#include "cpu/attention/bf16.h"
#include "cpu/declare.h"

namespace roots {
namespace ROOTS_ISA {

Status attention_bf16_forward(const Context& context, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                              OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse,
                              double scale, int64_t causal, int64_t window) {
  Problem p;
  if (const Status status =
          check_attention_bf16(q, k, v, mask, lengths, starts, out, lse, scale, causal, window, &p))
    return status;
  if (p.B == 0 || p.H == 0 || p.Tq == 0) return nullptr;
  const Operands<float> x{p, q, k, v, mask};
  return p.Tq <= kFewQueries ? forward_few<HalfForm>(context, x, out, lse)
                             : forward_tiles<HalfForm>(context, x, out, lse);
}

}  // namespace ROOTS_ISA
}  // namespace roots
