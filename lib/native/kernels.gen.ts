// Generated from native/kernels.def by scripts/gen_kernels.ts. Do not edit.
import { native } from './load.js';
import type { TensorArg } from './load.js';

type Kernel = (...args: unknown[]) => void;
const table = (): Record<string, Kernel> => native().kernels as Record<string, Kernel>;

export function exp_forward(x: TensorArg, out: TensorArg): void {
  table()['exp_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function exp_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['exp_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function log_forward(x: TensorArg, out: TensorArg): void {
  table()['log_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function log_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['log_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function sqrt_forward(x: TensorArg, out: TensorArg): void {
  table()['sqrt_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function sqrt_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['sqrt_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function rsqrt_forward(x: TensorArg, out: TensorArg): void {
  table()['rsqrt_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function rsqrt_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['rsqrt_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function reciprocal_forward(x: TensorArg, out: TensorArg): void {
  table()['reciprocal_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function reciprocal_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['reciprocal_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function square_forward(x: TensorArg, out: TensorArg): void {
  table()['square_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function square_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['square_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function abs_forward(x: TensorArg, out: TensorArg): void {
  table()['abs_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function abs_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['abs_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function neg_forward(x: TensorArg, out: TensorArg): void {
  table()['neg_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function neg_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['neg_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function tanh_forward(x: TensorArg, out: TensorArg): void {
  table()['tanh_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function tanh_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['tanh_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function sigmoid_forward(x: TensorArg, out: TensorArg): void {
  table()['sigmoid_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function sigmoid_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['sigmoid_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function erf_forward(x: TensorArg, out: TensorArg): void {
  table()['erf_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function erf_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['erf_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function softplus_forward(x: TensorArg, out: TensorArg): void {
  table()['softplus_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function softplus_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['softplus_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function relu_forward(x: TensorArg, out: TensorArg): void {
  table()['relu_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function relu_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['relu_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function silu_forward(x: TensorArg, out: TensorArg): void {
  table()['silu_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function silu_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['silu_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function gelu_erf_forward(x: TensorArg, out: TensorArg): void {
  table()['gelu_erf_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function gelu_erf_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['gelu_erf_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function gelu_tanh_forward(x: TensorArg, out: TensorArg): void {
  table()['gelu_tanh_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function gelu_tanh_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  table()['gelu_tanh_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout);
}
export function add(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['add']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function sub(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['sub']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function mul(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['mul']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function div(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['div']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function maximum(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['maximum']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function minimum(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['minimum']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['equal']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function not_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['not_equal']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function less(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['less']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function less_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['less_equal']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function greater(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['greater']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function greater_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['greater_equal']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function affine(x: TensorArg, out: TensorArg, scale: number, shift: number): void {
  table()['affine']!(x.storage.handle, x.layout, out.storage.handle, out.layout, scale, shift);
}
export function clamp_forward(x: TensorArg, out: TensorArg, low: number, high: number): void {
  table()['clamp_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout, low, high);
}
export function clamp_backward(dy: TensorArg, x: TensorArg, dx: TensorArg, low: number, high: number): void {
  table()['clamp_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, dx.storage.handle, dx.layout, low, high);
}
export function where(condition: TensorArg, a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['where']!(condition.storage.handle, condition.layout, a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function swiglu_forward(gate: TensorArg, up: TensorArg, out: TensorArg): void {
  table()['swiglu_forward']!(gate.storage.handle, gate.layout, up.storage.handle, up.layout, out.storage.handle, out.layout);
}
export function swiglu_backward(dy: TensorArg, gate: TensorArg, up: TensorArg, dgate: TensorArg, dup: TensorArg): void {
  table()['swiglu_backward']!(dy.storage.handle, dy.layout, gate.storage.handle, gate.layout, up.storage.handle, up.layout, dgate.storage.handle, dgate.layout, dup.storage.handle, dup.layout);
}
export function copy(x: TensorArg, out: TensorArg): void {
  table()['copy']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function fill(out: TensorArg, value: number): void {
  table()['fill']!(out.storage.handle, out.layout, value);
}
export function tril(x: TensorArg, out: TensorArg, diagonal: number): void {
  table()['tril']!(x.storage.handle, x.layout, out.storage.handle, out.layout, diagonal);
}
export function random_uniform(out: TensorArg, seed: number, offset: number, low: number, high: number): void {
  table()['random_uniform']!(out.storage.handle, out.layout, seed, offset, low, high);
}
export function random_normal(out: TensorArg, seed: number, offset: number, mean: number, std: number): void {
  table()['random_normal']!(out.storage.handle, out.layout, seed, offset, mean, std);
}
export function dropout(x: TensorArg, out: TensorArg, seed: number, offset: number, p: number): void {
  table()['dropout']!(x.storage.handle, x.layout, out.storage.handle, out.layout, seed, offset, p);
}
export function reduce_sum(x: TensorArg, out: TensorArg): void {
  table()['reduce_sum']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function reduce_max(x: TensorArg, out: TensorArg): void {
  table()['reduce_max']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function reduce_min(x: TensorArg, out: TensorArg): void {
  table()['reduce_min']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function argmax(x: TensorArg, out: TensorArg): void {
  table()['argmax']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function topk(x: TensorArg, values: TensorArg, indices: TensorArg): void {
  table()['topk']!(x.storage.handle, x.layout, values.storage.handle, values.layout, indices.storage.handle, indices.layout);
}
export function embedding_forward(ids: TensorArg, weight: TensorArg, out: TensorArg): void {
  table()['embedding_forward']!(ids.storage.handle, ids.layout, weight.storage.handle, weight.layout, out.storage.handle, out.layout);
}
export function embedding_backward(dy: TensorArg, ids: TensorArg, dweight: TensorArg): void {
  table()['embedding_backward']!(dy.storage.handle, dy.layout, ids.storage.handle, ids.layout, dweight.storage.handle, dweight.layout);
}
export function embedding_i8(ids: TensorArg, weight: TensorArg, scale: TensorArg, out: TensorArg): void {
  table()['embedding_i8']!(ids.storage.handle, ids.layout, weight.storage.handle, weight.layout, scale.storage.handle, scale.layout, out.storage.handle, out.layout);
}
export function gather(x: TensorArg, index: TensorArg, out: TensorArg): void {
  table()['gather']!(x.storage.handle, x.layout, index.storage.handle, index.layout, out.storage.handle, out.layout);
}
export function scatter_add(out: TensorArg, index: TensorArg, source: TensorArg): void {
  table()['scatter_add']!(out.storage.handle, out.layout, index.storage.handle, index.layout, source.storage.handle, source.layout);
}
export function matmul(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  table()['matmul']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout, accumulate);
}
export function matmul_bf16(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  table()['matmul_bf16']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout, accumulate);
}
export function linear(x: TensorArg, weight: TensorArg, bias: TensorArg | null, out: TensorArg, pre: TensorArg | null, activation: number): void {
  table()['linear']!(x.storage.handle, x.layout, weight.storage.handle, weight.layout, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, pre?.storage.handle ?? null, pre?.layout ?? null, activation);
}
export function linear_bf16(x: TensorArg, weight: TensorArg, bias: TensorArg | null, out: TensorArg, pre: TensorArg | null, activation: number): void {
  table()['linear_bf16']!(x.storage.handle, x.layout, weight.storage.handle, weight.layout, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, pre?.storage.handle ?? null, pre?.layout ?? null, activation);
}
export function matmul_i8(a: TensorArg, b: TensorArg, out: TensorArg): void {
  table()['matmul_i8']!(a.storage.handle, a.layout, b.storage.handle, b.layout, out.storage.handle, out.layout);
}
export function quantize_rows_i8(x: TensorArg, q: TensorArg, scale: TensorArg): void {
  table()['quantize_rows_i8']!(x.storage.handle, x.layout, q.storage.handle, q.layout, scale.storage.handle, scale.layout);
}
export function quantize_weight_i8(w: TensorArg, q: TensorArg, scale: TensorArg, steps: number, max_shrink: number): void {
  table()['quantize_weight_i8']!(w.storage.handle, w.layout, q.storage.handle, q.layout, scale.storage.handle, scale.layout, steps, max_shrink);
}
export function linear_i8_pack(weight: TensorArg, packed: TensorArg, unpack: number): void {
  table()['linear_i8_pack']!(weight.storage.handle, weight.layout, packed.storage.handle, packed.layout, unpack);
}
export function linear_w8a8(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, out: TensorArg, activation: number): void {
  table()['linear_w8a8']!(x.storage.handle, x.layout, packed.storage.handle, packed.layout, scale.storage.handle, scale.layout, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, activation);
}
export function linear_w8a16(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, out: TensorArg, activation: number): void {
  table()['linear_w8a16']!(x.storage.handle, x.layout, packed.storage.handle, packed.layout, scale.storage.handle, scale.layout, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, activation);
}
export function quantize_weight_i4(w: TensorArg, q: TensorArg, scale: TensorArg, group: number, steps: number, max_shrink: number): void {
  table()['quantize_weight_i4']!(w.storage.handle, w.layout, q.storage.handle, q.layout, scale.storage.handle, scale.layout, group, steps, max_shrink);
}
export function linear_i4_pack(q: TensorArg, packed: TensorArg, unpack: number): void {
  table()['linear_i4_pack']!(q.storage.handle, q.layout, packed.storage.handle, packed.layout, unpack);
}
export function linear_w4a16(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, out: TensorArg, group: number, activation: number): void {
  table()['linear_w4a16']!(x.storage.handle, x.layout, packed.storage.handle, packed.layout, scale.storage.handle, scale.layout, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, group, activation);
}
export function attention_forward(q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, scale: number, causal: number, window: number): void {
  table()['attention_forward']!(q.storage.handle, q.layout, k.storage.handle, k.layout, v.storage.handle, v.layout, mask?.storage.handle ?? null, mask?.layout ?? null, lengths?.storage.handle ?? null, lengths?.layout ?? null, starts?.storage.handle ?? null, starts?.layout ?? null, out.storage.handle, out.layout, lse.storage.handle, lse.layout, scale, causal, window);
}
export function attention_backward(dout: TensorArg, q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, dq: TensorArg, dk: TensorArg, dv: TensorArg, dmask: TensorArg | null, scale: number, causal: number, window: number): void {
  table()['attention_backward']!(dout.storage.handle, dout.layout, q.storage.handle, q.layout, k.storage.handle, k.layout, v.storage.handle, v.layout, mask?.storage.handle ?? null, mask?.layout ?? null, lengths?.storage.handle ?? null, lengths?.layout ?? null, starts?.storage.handle ?? null, starts?.layout ?? null, out.storage.handle, out.layout, lse.storage.handle, lse.layout, dq.storage.handle, dq.layout, dk.storage.handle, dk.layout, dv.storage.handle, dv.layout, dmask?.storage.handle ?? null, dmask?.layout ?? null, scale, causal, window);
}
export function softmax_forward(x: TensorArg, out: TensorArg): void {
  table()['softmax_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function softmax_backward(dy: TensorArg, y: TensorArg, dx: TensorArg): void {
  table()['softmax_backward']!(dy.storage.handle, dy.layout, y.storage.handle, y.layout, dx.storage.handle, dx.layout);
}
export function log_softmax_forward(x: TensorArg, out: TensorArg): void {
  table()['log_softmax_forward']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}
export function log_softmax_backward(dy: TensorArg, y: TensorArg, dx: TensorArg): void {
  table()['log_softmax_backward']!(dy.storage.handle, dy.layout, y.storage.handle, y.layout, dx.storage.handle, dx.layout);
}
export function layer_norm_forward(x: TensorArg, weight: TensorArg | null, bias: TensorArg | null, out: TensorArg, mean: TensorArg, rstd: TensorArg, eps: number): void {
  table()['layer_norm_forward']!(x.storage.handle, x.layout, weight?.storage.handle ?? null, weight?.layout ?? null, bias?.storage.handle ?? null, bias?.layout ?? null, out.storage.handle, out.layout, mean.storage.handle, mean.layout, rstd.storage.handle, rstd.layout, eps);
}
export function layer_norm_backward(dy: TensorArg, x: TensorArg, weight: TensorArg | null, mean: TensorArg, rstd: TensorArg, dx: TensorArg, dweight: TensorArg | null, dbias: TensorArg | null): void {
  table()['layer_norm_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, weight?.storage.handle ?? null, weight?.layout ?? null, mean.storage.handle, mean.layout, rstd.storage.handle, rstd.layout, dx.storage.handle, dx.layout, dweight?.storage.handle ?? null, dweight?.layout ?? null, dbias?.storage.handle ?? null, dbias?.layout ?? null);
}
export function rms_norm_forward(x: TensorArg, weight: TensorArg, out: TensorArg, rstd: TensorArg, eps: number): void {
  table()['rms_norm_forward']!(x.storage.handle, x.layout, weight.storage.handle, weight.layout, out.storage.handle, out.layout, rstd.storage.handle, rstd.layout, eps);
}
export function rms_norm_backward(dy: TensorArg, x: TensorArg, weight: TensorArg, rstd: TensorArg, dx: TensorArg, dweight: TensorArg): void {
  table()['rms_norm_backward']!(dy.storage.handle, dy.layout, x.storage.handle, x.layout, weight.storage.handle, weight.layout, rstd.storage.handle, rstd.layout, dx.storage.handle, dx.layout, dweight.storage.handle, dweight.layout);
}
export function rope(x: TensorArg, cos: TensorArg, sin: TensorArg, out: TensorArg, interleaved: number, sign: number): void {
  table()['rope']!(x.storage.handle, x.layout, cos.storage.handle, cos.layout, sin.storage.handle, sin.layout, out.storage.handle, out.layout, interleaved, sign);
}
export function cross_entropy_forward(logits: TensorArg, targets: TensorArg, loss: TensorArg, lse: TensorArg, ignore_index: number, label_smoothing: number): void {
  table()['cross_entropy_forward']!(logits.storage.handle, logits.layout, targets.storage.handle, targets.layout, loss.storage.handle, loss.layout, lse.storage.handle, lse.layout, ignore_index, label_smoothing);
}
export function cross_entropy_backward(dloss: TensorArg, logits: TensorArg, targets: TensorArg, lse: TensorArg, dlogits: TensorArg, ignore_index: number, label_smoothing: number): void {
  table()['cross_entropy_backward']!(dloss.storage.handle, dloss.layout, logits.storage.handle, logits.layout, targets.storage.handle, targets.layout, lse.storage.handle, lse.layout, dlogits.storage.handle, dlogits.layout, ignore_index, label_smoothing);
}
export function lstm_cell_forward(pre: TensorArg, c: TensorArg, gates: TensorArg, c_out: TensorArg, h_out: TensorArg): void {
  table()['lstm_cell_forward']!(pre.storage.handle, pre.layout, c.storage.handle, c.layout, gates.storage.handle, gates.layout, c_out.storage.handle, c_out.layout, h_out.storage.handle, h_out.layout);
}
export function lstm_cell_backward(dh: TensorArg, dc_out: TensorArg, gates: TensorArg, c: TensorArg, c_out: TensorArg, dpre: TensorArg, dc: TensorArg): void {
  table()['lstm_cell_backward']!(dh.storage.handle, dh.layout, dc_out.storage.handle, dc_out.layout, gates.storage.handle, gates.layout, c.storage.handle, c.layout, c_out.storage.handle, c_out.layout, dpre.storage.handle, dpre.layout, dc.storage.handle, dc.layout);
}
export function gru_cell_forward(x: TensorArg, hidden: TensorArg, h: TensorArg, gates: TensorArg, h_out: TensorArg): void {
  table()['gru_cell_forward']!(x.storage.handle, x.layout, hidden.storage.handle, hidden.layout, h.storage.handle, h.layout, gates.storage.handle, gates.layout, h_out.storage.handle, h_out.layout);
}
export function gru_cell_backward(dy: TensorArg, gates: TensorArg, h: TensorArg, dx: TensorArg, dhidden: TensorArg, dh: TensorArg): void {
  table()['gru_cell_backward']!(dy.storage.handle, dy.layout, gates.storage.handle, gates.layout, h.storage.handle, h.layout, dx.storage.handle, dx.layout, dhidden.storage.handle, dhidden.layout, dh.storage.handle, dh.layout);
}
export function sum_squares(x: TensorArg, out: TensorArg, index: number): void {
  table()['sum_squares']!(x.storage.handle, x.layout, out.storage.handle, out.layout, index);
}
export function clip_scale(sums: TensorArg, loss: TensorArg | null, out: TensorArg, max_norm: number, inverse: number): void {
  table()['clip_scale']!(sums.storage.handle, sums.layout, loss?.storage.handle ?? null, loss?.layout ?? null, out.storage.handle, out.layout, max_norm, inverse);
}
export function sgd(param: TensorArg, grad: TensorArg, buffer: TensorArg | null, scale: TensorArg | null, lr: number, momentum: number, weight_decay: number, nesterov: number): void {
  table()['sgd']!(param.storage.handle, param.layout, grad.storage.handle, grad.layout, buffer?.storage.handle ?? null, buffer?.layout ?? null, scale?.storage.handle ?? null, scale?.layout ?? null, lr, momentum, weight_decay, nesterov);
}
export function adam(param: TensorArg, grad: TensorArg, m: TensorArg, v: TensorArg, vmax: TensorArg | null, scale: TensorArg | null, lr: number, beta1: number, beta2: number, eps: number, weight_decay: number, decoupled: number, step: number): void {
  table()['adam']!(param.storage.handle, param.layout, grad.storage.handle, grad.layout, m.storage.handle, m.layout, v.storage.handle, v.layout, vmax?.storage.handle ?? null, vmax?.layout ?? null, scale?.storage.handle ?? null, scale?.layout ?? null, lr, beta1, beta2, eps, weight_decay, decoupled, step);
}
export function lion(param: TensorArg, grad: TensorArg, m: TensorArg, scale: TensorArg | null, lr: number, beta1: number, beta2: number, weight_decay: number): void {
  table()['lion']!(param.storage.handle, param.layout, grad.storage.handle, grad.layout, m.storage.handle, m.layout, scale?.storage.handle ?? null, scale?.layout ?? null, lr, beta1, beta2, weight_decay);
}
export function adafactor(param: TensorArg, grad: TensorArg, row: TensorArg, column: TensorArg | null, scale: TensorArg | null, lr: number, beta2: number, eps: number, clip: number, weight_decay: number): void {
  table()['adafactor']!(param.storage.handle, param.layout, grad.storage.handle, grad.layout, row.storage.handle, row.layout, column?.storage.handle ?? null, column?.layout ?? null, scale?.storage.handle ?? null, scale?.layout ?? null, lr, beta2, eps, clip, weight_decay);
}
export function adamw_8bit(param: TensorArg, grad: TensorArg, m: TensorArg, v: TensorArg, scales: TensorArg, scale: TensorArg | null, lr: number, beta1: number, beta2: number, eps: number, weight_decay: number, step: number): void {
  table()['adamw_8bit']!(param.storage.handle, param.layout, grad.storage.handle, grad.layout, m.storage.handle, m.layout, v.storage.handle, v.layout, scales.storage.handle, scales.layout, scale?.storage.handle ?? null, scale?.layout ?? null, lr, beta1, beta2, eps, weight_decay, step);
}
export function cholesky(a: TensorArg, info: TensorArg): void {
  table()['cholesky']!(a.storage.handle, a.layout, info.storage.handle, info.layout);
}
export function cholesky_solve(factor: TensorArg, b: TensorArg): void {
  table()['cholesky_solve']!(factor.storage.handle, factor.layout, b.storage.handle, b.layout);
}
export function probe_fma(out: TensorArg, kind: number, iterations: number): void {
  table()['probe_fma']!(out.storage.handle, out.layout, kind, iterations);
}
export function probe_read(x: TensorArg, out: TensorArg): void {
  table()['probe_read']!(x.storage.handle, x.layout, out.storage.handle, out.layout);
}

export const kernelNames: readonly string[] = ["exp_forward","exp_backward","log_forward","log_backward","sqrt_forward","sqrt_backward","rsqrt_forward","rsqrt_backward","reciprocal_forward","reciprocal_backward","square_forward","square_backward","abs_forward","abs_backward","neg_forward","neg_backward","tanh_forward","tanh_backward","sigmoid_forward","sigmoid_backward","erf_forward","erf_backward","softplus_forward","softplus_backward","relu_forward","relu_backward","silu_forward","silu_backward","gelu_erf_forward","gelu_erf_backward","gelu_tanh_forward","gelu_tanh_backward","add","sub","mul","div","maximum","minimum","equal","not_equal","less","less_equal","greater","greater_equal","affine","clamp_forward","clamp_backward","where","swiglu_forward","swiglu_backward","copy","fill","tril","random_uniform","random_normal","dropout","reduce_sum","reduce_max","reduce_min","argmax","topk","embedding_forward","embedding_backward","embedding_i8","gather","scatter_add","matmul","matmul_bf16","linear","linear_bf16","matmul_i8","quantize_rows_i8","quantize_weight_i8","linear_i8_pack","linear_w8a8","linear_w8a16","quantize_weight_i4","linear_i4_pack","linear_w4a16","attention_forward","attention_backward","softmax_forward","softmax_backward","log_softmax_forward","log_softmax_backward","layer_norm_forward","layer_norm_backward","rms_norm_forward","rms_norm_backward","rope","cross_entropy_forward","cross_entropy_backward","lstm_cell_forward","lstm_cell_backward","gru_cell_forward","gru_cell_backward","sum_squares","clip_scale","sgd","adam","lion","adafactor","adamw_8bit","cholesky","cholesky_solve","probe_fma","probe_read"];
