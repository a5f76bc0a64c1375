// Generated from native/kernels.def by scripts/gen_kernels.ts. Do not edit.
import { call, handles, number, tensor, tensors } from './arguments.js';
import type { TensorArg } from './load.js';

export function exp_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.exp_forward!(x.storage.handle, out.storage.handle);
}
export function exp_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.exp_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function log_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.log_forward!(x.storage.handle, out.storage.handle);
}
export function log_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.log_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function sqrt_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.sqrt_forward!(x.storage.handle, out.storage.handle);
}
export function sqrt_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.sqrt_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function rsqrt_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.rsqrt_forward!(x.storage.handle, out.storage.handle);
}
export function rsqrt_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.rsqrt_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function reciprocal_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.reciprocal_forward!(x.storage.handle, out.storage.handle);
}
export function reciprocal_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.reciprocal_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function square_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.square_forward!(x.storage.handle, out.storage.handle);
}
export function square_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.square_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function abs_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.abs_forward!(x.storage.handle, out.storage.handle);
}
export function abs_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.abs_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function neg_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.neg_forward!(x.storage.handle, out.storage.handle);
}
export function neg_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.neg_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function tanh_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.tanh_forward!(x.storage.handle, out.storage.handle);
}
export function tanh_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.tanh_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function sigmoid_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.sigmoid_forward!(x.storage.handle, out.storage.handle);
}
export function sigmoid_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.sigmoid_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function erf_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.erf_forward!(x.storage.handle, out.storage.handle);
}
export function erf_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.erf_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function softplus_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.softplus_forward!(x.storage.handle, out.storage.handle);
}
export function softplus_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.softplus_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function relu_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.relu_forward!(x.storage.handle, out.storage.handle);
}
export function relu_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.relu_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function silu_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.silu_forward!(x.storage.handle, out.storage.handle);
}
export function silu_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.silu_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function gelu_erf_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.gelu_erf_forward!(x.storage.handle, out.storage.handle);
}
export function gelu_erf_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.gelu_erf_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function gelu_tanh_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.gelu_tanh_forward!(x.storage.handle, out.storage.handle);
}
export function gelu_tanh_backward(dy: TensorArg, x: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), x), dx);
  call.gelu_tanh_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function add(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.add!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function sub(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.sub!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function mul(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.mul!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function div(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.div!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function maximum(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.maximum!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function minimum(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.minimum!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.equal!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function not_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.not_equal!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function less(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.less!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function less_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.less_equal!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function greater(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.greater!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function greater_equal(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.greater_equal!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function affine(x: TensorArg, out: TensorArg, scale: number, shift: number): void {
  number(number(tensor(tensor(0, x), out), scale), shift);
  call.affine!(x.storage.handle, out.storage.handle);
}
export function clamp_forward(x: TensorArg, out: TensorArg, low: number, high: number): void {
  number(number(tensor(tensor(0, x), out), low), high);
  call.clamp_forward!(x.storage.handle, out.storage.handle);
}
export function clamp_backward(dy: TensorArg, x: TensorArg, dx: TensorArg, low: number, high: number): void {
  number(number(tensor(tensor(tensor(0, dy), x), dx), low), high);
  call.clamp_backward!(dy.storage.handle, x.storage.handle, dx.storage.handle);
}
export function where(condition: TensorArg, a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(tensor(0, condition), a), b), out);
  call.where!(condition.storage.handle, a.storage.handle, b.storage.handle, out.storage.handle);
}
export function swiglu_forward(gate: TensorArg, up: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, gate), up), out);
  call.swiglu_forward!(gate.storage.handle, up.storage.handle, out.storage.handle);
}
export function swiglu_backward(dy: TensorArg, gate: TensorArg, up: TensorArg, dgate: TensorArg, dup: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(0, dy), gate), up), dgate), dup);
  call.swiglu_backward!(dy.storage.handle, gate.storage.handle, up.storage.handle, dgate.storage.handle, dup.storage.handle);
}
export function copy(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.copy!(x.storage.handle, out.storage.handle);
}
export function fill(out: TensorArg, value: number): void {
  number(tensor(0, out), value);
  call.fill!(out.storage.handle);
}
export function tril(x: TensorArg, out: TensorArg, diagonal: number): void {
  number(tensor(tensor(0, x), out), diagonal);
  call.tril!(x.storage.handle, out.storage.handle);
}
export function random_uniform(out: TensorArg, seed: number, offset: number, low: number, high: number): void {
  number(number(number(number(tensor(0, out), seed), offset), low), high);
  call.random_uniform!(out.storage.handle);
}
export function random_normal(out: TensorArg, seed: number, offset: number, mean: number, std: number): void {
  number(number(number(number(tensor(0, out), seed), offset), mean), std);
  call.random_normal!(out.storage.handle);
}
export function dropout(x: TensorArg, out: TensorArg, seed: number, offset: number, p: number): void {
  number(number(number(tensor(tensor(0, x), out), seed), offset), p);
  call.dropout!(x.storage.handle, out.storage.handle);
}
export function reduce_sum(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.reduce_sum!(x.storage.handle, out.storage.handle);
}
export function reduce_max(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.reduce_max!(x.storage.handle, out.storage.handle);
}
export function reduce_min(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.reduce_min!(x.storage.handle, out.storage.handle);
}
export function argmax(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.argmax!(x.storage.handle, out.storage.handle);
}
export function topk(x: TensorArg, values: TensorArg, indices: TensorArg): void {
  tensor(tensor(tensor(0, x), values), indices);
  call.topk!(x.storage.handle, values.storage.handle, indices.storage.handle);
}
export function embedding_forward(ids: TensorArg, weight: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, ids), weight), out);
  call.embedding_forward!(ids.storage.handle, weight.storage.handle, out.storage.handle);
}
export function embedding_backward(dy: TensorArg, ids: TensorArg, dweight: TensorArg): void {
  tensor(tensor(tensor(0, dy), ids), dweight);
  call.embedding_backward!(dy.storage.handle, ids.storage.handle, dweight.storage.handle);
}
export function embedding_i8(ids: TensorArg, weight: TensorArg, scale: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(tensor(0, ids), weight), scale), out);
  call.embedding_i8!(ids.storage.handle, weight.storage.handle, scale.storage.handle, out.storage.handle);
}
export function embedding_i4(ids: TensorArg, packed: TensorArg, out: TensorArg, rows: number, group: number): void {
  number(number(tensor(tensor(tensor(0, ids), packed), out), rows), group);
  call.embedding_i4!(ids.storage.handle, packed.storage.handle, out.storage.handle);
}
export function gather(x: TensorArg, index: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, x), index), out);
  call.gather!(x.storage.handle, index.storage.handle, out.storage.handle);
}
export function scatter_add(out: TensorArg, index: TensorArg, source: TensorArg): void {
  tensor(tensor(tensor(0, out), index), source);
  call.scatter_add!(out.storage.handle, index.storage.handle, source.storage.handle);
}
export function matmul(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  number(tensor(tensor(tensor(0, a), b), out), accumulate);
  call.matmul!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function matmul_bf16(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  number(tensor(tensor(tensor(0, a), b), out), accumulate);
  call.matmul_bf16!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function linear(x: TensorArg, weight: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, slope: TensorArg | null, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), weight), bias), gate), residual), out), slope), activation);
  call.linear!(x.storage.handle, weight.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle, slope?.storage.handle ?? null);
}
export function linear_bf16(x: TensorArg, weight: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, slope: TensorArg | null, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), weight), bias), gate), residual), out), slope), activation);
  call.linear_bf16!(x.storage.handle, weight.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle, slope?.storage.handle ?? null);
}
export function matmul_f16(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  number(tensor(tensor(tensor(0, a), b), out), accumulate);
  call.matmul_f16!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function linear_f16(x: TensorArg, weight: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, slope: TensorArg | null, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), weight), bias), gate), residual), out), slope), activation);
  call.linear_f16!(x.storage.handle, weight.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle, slope?.storage.handle ?? null);
}
export function matmul_tf32(a: TensorArg, b: TensorArg, out: TensorArg, accumulate: number): void {
  number(tensor(tensor(tensor(0, a), b), out), accumulate);
  call.matmul_tf32!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function linear_tf32(x: TensorArg, weight: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, slope: TensorArg | null, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), weight), bias), gate), residual), out), slope), activation);
  call.linear_tf32!(x.storage.handle, weight.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle, slope?.storage.handle ?? null);
}
export function linear_pack(weight: TensorArg, packed: TensorArg, unpack: number): void {
  number(tensor(tensor(0, weight), packed), unpack);
  call.linear_pack!(weight.storage.handle, packed.storage.handle);
}
export function linear_packed(x: TensorArg, packed: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(0, x), packed), bias), gate), residual), out), activation);
  call.linear_packed!(x.storage.handle, packed.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle);
}
export function matmul_i8(a: TensorArg, b: TensorArg, out: TensorArg): void {
  tensor(tensor(tensor(0, a), b), out);
  call.matmul_i8!(a.storage.handle, b.storage.handle, out.storage.handle);
}
export function quantize_rows_i8(x: TensorArg, q: TensorArg, scale: TensorArg): void {
  tensor(tensor(tensor(0, x), q), scale);
  call.quantize_rows_i8!(x.storage.handle, q.storage.handle, scale.storage.handle);
}
export function quantize_weight_i8(w: TensorArg, q: TensorArg, scale: TensorArg, steps: number, max_shrink: number): void {
  number(number(tensor(tensor(tensor(0, w), q), scale), steps), max_shrink);
  call.quantize_weight_i8!(w.storage.handle, q.storage.handle, scale.storage.handle);
}
export function linear_i8_pack(weight: TensorArg, packed: TensorArg, unpack: number): void {
  number(tensor(tensor(0, weight), packed), unpack);
  call.linear_i8_pack!(weight.storage.handle, packed.storage.handle);
}
export function linear_w8a8(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), packed), scale), bias), gate), residual), out), activation);
  call.linear_w8a8!(x.storage.handle, packed.storage.handle, scale.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle);
}
export function linear_24_pack(weight: TensorArg, packed: TensorArg, unpack: number): void {
  number(tensor(tensor(0, weight), packed), unpack);
  call.linear_24_pack!(weight.storage.handle, packed.storage.handle);
}
export function linear_w8a8_24(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), packed), scale), bias), gate), residual), out), activation);
  call.linear_w8a8_24!(x.storage.handle, packed.storage.handle, scale.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle);
}
export function linear_w8a16(x: TensorArg, packed: TensorArg, scale: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, activation: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, x), packed), scale), bias), gate), residual), out), activation);
  call.linear_w8a16!(x.storage.handle, packed.storage.handle, scale.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle);
}
export function quantize_weight_i4(w: TensorArg, q: TensorArg, scale: TensorArg, group: number, steps: number, max_shrink: number): void {
  number(number(number(tensor(tensor(tensor(0, w), q), scale), group), steps), max_shrink);
  call.quantize_weight_i4!(w.storage.handle, q.storage.handle, scale.storage.handle);
}
export function linear_i4_pack(q: TensorArg, scale: TensorArg, packed: TensorArg, group: number, unpack: number): void {
  number(number(tensor(tensor(tensor(0, q), scale), packed), group), unpack);
  call.linear_i4_pack!(q.storage.handle, scale.storage.handle, packed.storage.handle);
}
export function linear_w4a16(x: TensorArg, packed: TensorArg, bias: TensorArg | null, gate: TensorArg | null, residual: TensorArg | null, out: TensorArg, group: number, activation: number): void {
  number(number(tensor(tensor(tensor(tensor(tensor(tensor(0, x), packed), bias), gate), residual), out), group), activation);
  call.linear_w4a16!(x.storage.handle, packed.storage.handle, bias?.storage.handle ?? null, gate?.storage.handle ?? null, residual?.storage.handle ?? null, out.storage.handle);
}
export function attention_forward(q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, scale: number, causal: number, window: number): void {
  number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, q), k), v), mask), lengths), starts), out), lse), scale), causal), window);
  call.attention_forward!(q.storage.handle, k.storage.handle, v.storage.handle, mask?.storage.handle ?? null, lengths?.storage.handle ?? null, starts?.storage.handle ?? null, out.storage.handle, lse.storage.handle);
}
export function attention_bf16_forward(q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, scale: number, causal: number, window: number): void {
  number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, q), k), v), mask), lengths), starts), out), lse), scale), causal), window);
  call.attention_bf16_forward!(q.storage.handle, k.storage.handle, v.storage.handle, mask?.storage.handle ?? null, lengths?.storage.handle ?? null, starts?.storage.handle ?? null, out.storage.handle, lse.storage.handle);
}
export function attention_i8_forward(q: TensorArg, k: TensorArg, k_scale: TensorArg, v: TensorArg, v_scale: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, scale: number, causal: number, window: number): void {
  number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, q), k), k_scale), v), v_scale), mask), lengths), starts), out), lse), scale), causal), window);
  call.attention_i8_forward!(q.storage.handle, k.storage.handle, k_scale.storage.handle, v.storage.handle, v_scale.storage.handle, mask?.storage.handle ?? null, lengths?.storage.handle ?? null, starts?.storage.handle ?? null, out.storage.handle, lse.storage.handle);
}
export function attention_backward(dout: TensorArg, q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, dq: TensorArg, dk: TensorArg, dv: TensorArg, dmask: TensorArg | null, scale: number, causal: number, window: number): void {
  number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, dout), q), k), v), mask), lengths), starts), out), lse), dq), dk), dv), dmask), scale), causal), window);
  call.attention_backward!(dout.storage.handle, q.storage.handle, k.storage.handle, v.storage.handle, mask?.storage.handle ?? null, lengths?.storage.handle ?? null, starts?.storage.handle ?? null, out.storage.handle, lse.storage.handle, dq.storage.handle, dk.storage.handle, dv.storage.handle, dmask?.storage.handle ?? null);
}
export function attention_bf16_backward(dout: TensorArg, q: TensorArg, k: TensorArg, v: TensorArg, mask: TensorArg | null, lengths: TensorArg | null, starts: TensorArg | null, out: TensorArg, lse: TensorArg, dq: TensorArg, dk: TensorArg, dv: TensorArg, dmask: TensorArg | null, scale: number, causal: number, window: number): void {
  number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, dout), q), k), v), mask), lengths), starts), out), lse), dq), dk), dv), dmask), scale), causal), window);
  call.attention_bf16_backward!(dout.storage.handle, q.storage.handle, k.storage.handle, v.storage.handle, mask?.storage.handle ?? null, lengths?.storage.handle ?? null, starts?.storage.handle ?? null, out.storage.handle, lse.storage.handle, dq.storage.handle, dk.storage.handle, dv.storage.handle, dmask?.storage.handle ?? null);
}
export function softmax_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.softmax_forward!(x.storage.handle, out.storage.handle);
}
export function softmax_backward(dy: TensorArg, y: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), y), dx);
  call.softmax_backward!(dy.storage.handle, y.storage.handle, dx.storage.handle);
}
export function log_softmax_forward(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.log_softmax_forward!(x.storage.handle, out.storage.handle);
}
export function log_softmax_backward(dy: TensorArg, y: TensorArg, dx: TensorArg): void {
  tensor(tensor(tensor(0, dy), y), dx);
  call.log_softmax_backward!(dy.storage.handle, y.storage.handle, dx.storage.handle);
}
export function layer_norm_forward(x: TensorArg, weight: TensorArg | null, bias: TensorArg | null, out: TensorArg, mean: TensorArg | null, rstd: TensorArg | null, eps: number): void {
  number(tensor(tensor(tensor(tensor(tensor(tensor(0, x), weight), bias), out), mean), rstd), eps);
  call.layer_norm_forward!(x.storage.handle, weight?.storage.handle ?? null, bias?.storage.handle ?? null, out.storage.handle, mean?.storage.handle ?? null, rstd?.storage.handle ?? null);
}
export function layer_norm_backward(dy: TensorArg, x: TensorArg, weight: TensorArg | null, mean: TensorArg, rstd: TensorArg, residual: TensorArg | null, dx: TensorArg, dweight: TensorArg | null, dbias: TensorArg | null): void {
  tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, dy), x), weight), mean), rstd), residual), dx), dweight), dbias);
  call.layer_norm_backward!(dy.storage.handle, x.storage.handle, weight?.storage.handle ?? null, mean.storage.handle, rstd.storage.handle, residual?.storage.handle ?? null, dx.storage.handle, dweight?.storage.handle ?? null, dbias?.storage.handle ?? null);
}
export function rms_norm_forward(x: TensorArg, weight: TensorArg, out: TensorArg, rstd: TensorArg | null, eps: number): void {
  number(tensor(tensor(tensor(tensor(0, x), weight), out), rstd), eps);
  call.rms_norm_forward!(x.storage.handle, weight.storage.handle, out.storage.handle, rstd?.storage.handle ?? null);
}
export function rms_norm_backward(dy: TensorArg, x: TensorArg, weight: TensorArg, rstd: TensorArg, residual: TensorArg | null, dx: TensorArg, dweight: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, dy), x), weight), rstd), residual), dx), dweight);
  call.rms_norm_backward!(dy.storage.handle, x.storage.handle, weight.storage.handle, rstd.storage.handle, residual?.storage.handle ?? null, dx.storage.handle, dweight.storage.handle);
}
export function rope(x: TensorArg, cos: TensorArg, sin: TensorArg, out: TensorArg, interleaved: number, sign: number): void {
  number(number(tensor(tensor(tensor(tensor(0, x), cos), sin), out), interleaved), sign);
  call.rope!(x.storage.handle, cos.storage.handle, sin.storage.handle, out.storage.handle);
}
export function cross_entropy_forward(logits: TensorArg, targets: TensorArg, loss: TensorArg, lse: TensorArg, ignore_index: number, label_smoothing: number): void {
  number(number(tensor(tensor(tensor(tensor(0, logits), targets), loss), lse), ignore_index), label_smoothing);
  call.cross_entropy_forward!(logits.storage.handle, targets.storage.handle, loss.storage.handle, lse.storage.handle);
}
export function cross_entropy_backward(dloss: TensorArg, logits: TensorArg, targets: TensorArg, lse: TensorArg, dlogits: TensorArg, ignore_index: number, label_smoothing: number): void {
  number(number(tensor(tensor(tensor(tensor(tensor(0, dloss), logits), targets), lse), dlogits), ignore_index), label_smoothing);
  call.cross_entropy_backward!(dloss.storage.handle, logits.storage.handle, targets.storage.handle, lse.storage.handle, dlogits.storage.handle);
}
export function lstm_cell_forward(pre: TensorArg, c: TensorArg, gates: TensorArg, c_out: TensorArg, h_out: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(0, pre), c), gates), c_out), h_out);
  call.lstm_cell_forward!(pre.storage.handle, c.storage.handle, gates.storage.handle, c_out.storage.handle, h_out.storage.handle);
}
export function lstm_cell_backward(dh: TensorArg, dc_out: TensorArg, gates: TensorArg, c: TensorArg, c_out: TensorArg, dpre: TensorArg, dc: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(tensor(tensor(0, dh), dc_out), gates), c), c_out), dpre), dc);
  call.lstm_cell_backward!(dh.storage.handle, dc_out.storage.handle, gates.storage.handle, c.storage.handle, c_out.storage.handle, dpre.storage.handle, dc.storage.handle);
}
export function gru_cell_forward(x: TensorArg, hidden: TensorArg, h: TensorArg, gates: TensorArg, h_out: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(0, x), hidden), h), gates), h_out);
  call.gru_cell_forward!(x.storage.handle, hidden.storage.handle, h.storage.handle, gates.storage.handle, h_out.storage.handle);
}
export function gru_cell_backward(dy: TensorArg, gates: TensorArg, h: TensorArg, dx: TensorArg, dhidden: TensorArg, dh: TensorArg): void {
  tensor(tensor(tensor(tensor(tensor(tensor(0, dy), gates), h), dx), dhidden), dh);
  call.gru_cell_backward!(dy.storage.handle, gates.storage.handle, h.storage.handle, dx.storage.handle, dhidden.storage.handle, dh.storage.handle);
}
export function sum_squares(xs: readonly TensorArg[], out: TensorArg, first: number): void {
  number(tensor(tensors(0, xs), out), first);
  call.sum_squares!(handles(xs), out.storage.handle);
}
export function clip_scale(sums: TensorArg, loss: TensorArg | null, out: TensorArg, max_norm: number, inverse: number): void {
  number(number(tensor(tensor(tensor(0, sums), loss), out), max_norm), inverse);
  call.clip_scale!(sums.storage.handle, loss?.storage.handle ?? null, out.storage.handle);
}
export function sgd(params: readonly TensorArg[], grads: readonly TensorArg[], buffers: readonly TensorArg[], scale: TensorArg | null, lr: number, momentum: number, weight_decay: number, nesterov: number): void {
  number(number(number(number(tensor(tensors(tensors(tensors(0, params), grads), buffers), scale), lr), momentum), weight_decay), nesterov);
  call.sgd!(handles(params), handles(grads), handles(buffers), scale?.storage.handle ?? null);
}
export function adam(params: readonly TensorArg[], grads: readonly TensorArg[], m: readonly TensorArg[], v: readonly TensorArg[], vmax: readonly TensorArg[], scale: TensorArg | null, lr: number, beta1: number, beta2: number, eps: number, weight_decay: number, decoupled: number, step: number): void {
  number(number(number(number(number(number(number(tensor(tensors(tensors(tensors(tensors(tensors(0, params), grads), m), v), vmax), scale), lr), beta1), beta2), eps), weight_decay), decoupled), step);
  call.adam!(handles(params), handles(grads), handles(m), handles(v), handles(vmax), scale?.storage.handle ?? null);
}
export function lion(params: readonly TensorArg[], grads: readonly TensorArg[], m: readonly TensorArg[], scale: TensorArg | null, lr: number, beta1: number, beta2: number, weight_decay: number): void {
  number(number(number(number(tensor(tensors(tensors(tensors(0, params), grads), m), scale), lr), beta1), beta2), weight_decay);
  call.lion!(handles(params), handles(grads), handles(m), scale?.storage.handle ?? null);
}
export function adafactor(param: TensorArg, grad: TensorArg, row: TensorArg, column: TensorArg | null, scale: TensorArg | null, lr: number, beta2: number, eps: number, clip: number, weight_decay: number): void {
  number(number(number(number(number(tensor(tensor(tensor(tensor(tensor(0, param), grad), row), column), scale), lr), beta2), eps), clip), weight_decay);
  call.adafactor!(param.storage.handle, grad.storage.handle, row.storage.handle, column?.storage.handle ?? null, scale?.storage.handle ?? null);
}
export function adamw_8bit(param: TensorArg, grad: TensorArg, m: TensorArg, v: TensorArg, scales: TensorArg, scale: TensorArg | null, lr: number, beta1: number, beta2: number, eps: number, weight_decay: number, step: number): void {
  number(number(number(number(number(number(tensor(tensor(tensor(tensor(tensor(tensor(0, param), grad), m), v), scales), scale), lr), beta1), beta2), eps), weight_decay), step);
  call.adamw_8bit!(param.storage.handle, grad.storage.handle, m.storage.handle, v.storage.handle, scales.storage.handle, scale?.storage.handle ?? null);
}
export function cholesky(a: TensorArg, info: TensorArg): void {
  tensor(tensor(0, a), info);
  call.cholesky!(a.storage.handle, info.storage.handle);
}
export function cholesky_solve(factor: TensorArg, b: TensorArg): void {
  tensor(tensor(0, factor), b);
  call.cholesky_solve!(factor.storage.handle, b.storage.handle);
}
export function probe_fma(out: TensorArg, kind: number, iterations: number): void {
  number(number(tensor(0, out), kind), iterations);
  call.probe_fma!(out.storage.handle);
}
export function probe_read(x: TensorArg, out: TensorArg): void {
  tensor(tensor(0, x), out);
  call.probe_read!(x.storage.handle, out.storage.handle);
}

export const kernelNames: readonly string[] = ["exp_forward","exp_backward","log_forward","log_backward","sqrt_forward","sqrt_backward","rsqrt_forward","rsqrt_backward","reciprocal_forward","reciprocal_backward","square_forward","square_backward","abs_forward","abs_backward","neg_forward","neg_backward","tanh_forward","tanh_backward","sigmoid_forward","sigmoid_backward","erf_forward","erf_backward","softplus_forward","softplus_backward","relu_forward","relu_backward","silu_forward","silu_backward","gelu_erf_forward","gelu_erf_backward","gelu_tanh_forward","gelu_tanh_backward","add","sub","mul","div","maximum","minimum","equal","not_equal","less","less_equal","greater","greater_equal","affine","clamp_forward","clamp_backward","where","swiglu_forward","swiglu_backward","copy","fill","tril","random_uniform","random_normal","dropout","reduce_sum","reduce_max","reduce_min","argmax","topk","embedding_forward","embedding_backward","embedding_i8","embedding_i4","gather","scatter_add","matmul","matmul_bf16","linear","linear_bf16","matmul_f16","linear_f16","matmul_tf32","linear_tf32","linear_pack","linear_packed","matmul_i8","quantize_rows_i8","quantize_weight_i8","linear_i8_pack","linear_w8a8","linear_24_pack","linear_w8a8_24","linear_w8a16","quantize_weight_i4","linear_i4_pack","linear_w4a16","attention_forward","attention_bf16_forward","attention_i8_forward","attention_backward","attention_bf16_backward","softmax_forward","softmax_backward","log_softmax_forward","log_softmax_backward","layer_norm_forward","layer_norm_backward","rms_norm_forward","rms_norm_backward","rope","cross_entropy_forward","cross_entropy_backward","lstm_cell_forward","lstm_cell_backward","gru_cell_forward","gru_cell_backward","sum_squares","clip_scale","sgd","adam","lion","adafactor","adamw_8bit","cholesky","cholesky_solve","probe_fma","probe_read"];
