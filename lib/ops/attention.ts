// Fused scaled dot-product attention.
import { unbroadcast } from '../autograd/backward.js';
import { productDtype } from '../autograd/modes.js';
import { record, willRecord } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, zeros } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import { OptionError, ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Shape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, clone, contiguous } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';
import { where } from './elementwise.js';
import { expand } from './view.js';

export interface AttentionOptions {
  /** Query i sees keys j ≤ i + Tk - Tq. */
  causal?: boolean;
  /** Default 1/√D. */
  scale?: number;
  /** (B|1, H|1, Tq|1, Tk): added to the scores (float), or true = may attend (bool). */
  mask?: Tensor | null;
  /** (B) int64: keys from this position on are padding. */
  lengths?: Tensor | null;
  /** (B) int64: keys before this position are padding. */
  starts?: Tensor | null;
  /** With causal: a query sees at most this many keys, its own position included. 0: no limit. */
  window?: number;
}

const optionNames = ['causal', 'scale', 'mask', 'lengths', 'starts', 'window'];

/** Whether products are of bfloat16 numbers: such tensors, or float32 ones inside autocast. */
const inHalf = (q: Tensor, k: Tensor): boolean =>
  k.dtype === 'bfloat16' || (q.dtype === 'float32' && productDtype() === 'bfloat16');

const as = (t: Tensor, dtype: DType): Tensor => (t.dtype === dtype ? t : cast(t, dtype));

/** The sizes of a call, from shapes of rank 4; refuses keys and values that do not fit. */
function sizesOf(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
): readonly [number, number, number, number] {
  const [b, h, , d] = q.shape as [number, number, number, number];
  const [bk, hkv, tk, dk] = k.shape as [number, number, number, number];
  if (bk !== b || dk !== d)
    throw new ShapeError(
      `${op}: k ${format(k.shape)} does not match q ${format(q.shape)} in batch or head size`,
    );
  if (v.shape[0] !== b || v.shape[1] !== hkv || v.shape[2] !== tk)
    throw new ShapeError(`${op}: v ${format(v.shape)} does not match k ${format(k.shape)}`);
  if (hkv === 0 || h % hkv !== 0)
    throw new ShapeError(`${op}: ${h} query heads are not a multiple of ${hkv} key heads`);
  return [b, h, q.shape[2]!, tk];
}

/** Scale, causal and window as kernels take them, for heads of size d in a batch of b. */
function flagsOf(
  op: string,
  b: number,
  d: number,
  options: AttentionOptions,
): readonly [scale: number, causal: number, window: number] {
  const { causal = false, scale = 1 / Math.sqrt(d), window = 0 } = options;
  check.number(op, 'scale', scale);
  check.integer(op, 'window', window, 0);
  if (window > 0 && !causal) throw new OptionError(`${op}: window needs causal: true`);
  for (const name of ['lengths', 'starts'] as const) {
    const t = options[name];
    if (t) {
      check.shape(op, name, t, [b]);
      check.dtype(op, name, t, 'int64');
    }
  }
  return [scale, causal ? 1 : 0, window];
}

/** A mask as what is added to scores, or null. */
function biasOf(op: string, options: AttentionOptions, dtype: DType): Tensor | null {
  const { mask } = options;
  if (!mask) return null;
  check.tensor(op, 'mask', mask);
  return as(mask.dtype === 'bool' ? where(mask, 0, -Infinity) : mask, dtype);
}

/**
 * softmax(scale · Q Kᵀ + mask) V (Vaswani et al. 2017), without storing the scores of all heads.
 * q (B, H, Tq, D), k (B, Hkv, Tk, D), v (B, Hkv, Tk, Dv) → (B, H, Tq, Dv) of q's dtype; query head h uses key head h·Hkv/H.
 * One dtype for all, or float32 queries of bfloat16 keys and values. A query that may see no key gives zeros.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  check.knownOptions('attention', options, optionNames);
  for (const [name, t] of [
    ['q', q],
    ['k', k],
    ['v', v],
  ] as const) {
    check.tensor('attention', name, t);
    check.rank('attention', name, t, 4, name === 'q' ? '(B, H, Tq, D)' : '(B, Hkv, Tk, D)');
    check.floatDtype('attention', t);
    if (q.dtype !== 'float32' || k.dtype !== 'bfloat16')
      check.sameDtype('attention', q, t, `q and ${name}`);
  }
  check.sameDtype('attention', k, v, 'k and v');
  const [b, h, tq, tk] = sizesOf('attention', q, k, v);
  const flags = flagsOf('attention', b, q.shape[3]!, options);
  if (q.dtype === 'float16')
    return tidy(() => {
      const mask =
        options.mask && isHalf(options.mask.dtype)
          ? cast(options.mask, 'float32')
          : (options.mask ?? null);
      return restore(
        attention(cast(q, 'float32'), cast(k, 'float32'), cast(v, 'float32'), { ...options, mask }),
        q.dtype,
      );
    });
  const half = inHalf(q, k);
  const work = half ? 'float32' : q.dtype;
  return tidy(() => {
    const [qd, kd, vd] = [q, k, v].map(denseRows) as [Tensor, Tensor, Tensor];
    const bias = biasOf('attention', options, work);
    const maskShape = bias?.shape;
    const wide = bias ? expand(bias.detach(), [b, h, tq, tk]) : null;
    const lengths = options.lengths ? contiguous(options.lengths) : null;
    const starts = options.starts ? contiguous(options.starts) : null;
    const out = headsLast([b, h, tq, v.shape[3]!], q.dtype);
    const lse = empty([b, h, tq], work);
    const forward = half ? kernels.attention_bf16_forward : kernels.attention_forward;
    forward(qd, kd, vd, wide, lengths, starts, out, lse, ...flags);
    if (!willRecord(q, k, v, bias)) return out;
    const wantsMask = bias?.requiresGrad ?? false;
    return record(
      out,
      { q, k, v, bias },
      { q: qd, k: kd, v: vd, wide, lengths, starts, out, lse },
      (dy, s) => {
        const { dtype } = s.lse;
        const dq = headsLast(s.q.shape, dtype);
        const dkey = headsLast(s.k.shape, dtype);
        const dv = headsLast(s.v.shape, dtype);
        const dmask =
          wantsMask && s.wide ? zeros(s.wide.shape, { dtype, device: dy.device }) : null;
        const backward = half ? kernels.attention_bf16_backward : kernels.attention_backward;
        backward(
          denseRows(as(dy, dtype)),
          as(s.q, dtype),
          as(s.k, dtype),
          as(s.v, dtype),
          s.wide,
          s.lengths,
          s.starts,
          as(s.out, dtype),
          s.lse,
          dq,
          dkey,
          dv,
          dmask,
          ...flags,
        );
        return {
          q: as(dq, s.q.dtype),
          k: as(dkey, s.k.dtype),
          v: as(dv, s.v.dtype),
          bias: dmask && maskShape ? unbroadcast(dmask, maskShape) : null,
        };
      },
    );
  });
}

/** Rows of integers and what each is a multiple of: x ≈ q · scale. q (…, D) int8, scale (…) float32, as quantizeRowsI8 gives them. */
export interface Int8Rows {
  readonly q: Tensor;
  readonly scale: Tensor;
}

/**
 * `attention` over int8 keys and values with a scale per row, as a cache holds them; everything else is float32. No gradient.
 * q (B, H, Tq, D) float32, k.q (B, Hkv, Tk, D), v.q (B, Hkv, Tk, Dv) int8, scales (B, Hkv, Tk) float32 → (B, H, Tq, Dv) float32.
 */
export function attentionI8(
  q: Tensor,
  k: Int8Rows,
  v: Int8Rows,
  options: AttentionOptions = {},
): Tensor {
  const op = 'attentionI8';
  check.knownOptions(op, options, optionNames);
  check.tensor(op, 'q', q);
  check.rank(op, 'q', q, 4, '(B, H, Tq, D)');
  check.dtype(op, 'q', q, 'float32');
  for (const [name, rows] of [
    ['k', k],
    ['v', v],
  ] as const) {
    check.tensor(op, `${name}.q`, rows.q);
    check.tensor(op, `${name}.scale`, rows.scale);
    check.rank(op, `${name}.q`, rows.q, 4, '(B, Hkv, Tk, D)');
    check.dtype(op, `${name}.q`, rows.q, 'int8');
    check.dtype(op, `${name}.scale`, rows.scale, 'float32');
    check.shape(op, `${name}.scale`, rows.scale, k.q.shape.slice(0, 3));
  }
  const [b, h, tq, tk] = sizesOf(op, q, k.q, v.q);
  const flags = flagsOf(op, b, q.shape[3]!, options);
  return tidy(() => {
    const bias = biasOf(op, options, 'float32');
    const out = headsLast([b, h, tq, v.q.shape[3]!], 'float32');
    kernels.attention_i8_forward(
      denseRows(q),
      denseRows(k.q),
      denseScales(k.scale),
      denseRows(v.q),
      denseScales(v.scale),
      bias && expand(bias.detach(), [b, h, tq, tk]),
      options.lengths ? contiguous(options.lengths) : null,
      options.starts ? contiguous(options.starts) : null,
      out,
      empty([b, h, tq], 'float32'),
      ...flags,
    );
    return out;
  });
}

const denseScales = (t: Tensor): Tensor =>
  t.strides[2] === 1 || t.shape[2]! <= 1 ? t.detach() : contiguous(t.detach());

/** Rows (the last axis) without gaps: all that the kernel asks for. */
const denseRows = (t: Tensor): Tensor => (t.strides[3] === 1 ? t.detach() : clone(t.detach()));

/** (B, H, T, D) over memory in the order (B, T, H, D): joining the heads of it is a view. */
function headsLast(shape: Shape, dtype: DType): Tensor {
  const [b, h, t, d] = shape as [number, number, number, number];
  return empty([b, t, h, d], dtype).view([b, h, t, d], [t * h * d, d, h * d, 1], 0);
}

export type PackedAttentionOptions = Omit<AttentionOptions, 'mask'>;

/**
 * Self-attention of queries, keys and values side by side, as one layer gives them: qkv (B, T, 3 H D) → (B, T, H D). The same as
 * `attention` of its three parts, without a copy of any of them in either direction.
 */
export function packedAttention(
  qkv: Tensor,
  heads: number,
  options: PackedAttentionOptions = {},
): Tensor {
  const op = 'packedAttention';
  check.tensor(op, 'qkv', qkv);
  check.rank(op, 'qkv', qkv, 3, '(B, T, 3 H D)');
  check.floatDtype(op, qkv);
  check.integer(op, 'heads', heads, 1);
  check.knownOptions(
    op,
    options,
    optionNames.filter((n) => n !== 'mask'),
  );
  const [b, t, width] = qkv.shape as [number, number, number];
  const c = width / 3;
  const d = c / heads;
  if (!Number.isInteger(d))
    throw new ShapeError(`${op}: ${width} channels are not 3 × ${heads} heads × a head size`);
  const flags = flagsOf(op, b, d, options);
  if (qkv.dtype === 'float16')
    return tidy(() => restore(packedAttention(cast(qkv, 'float32'), heads, options), qkv.dtype));
  const part = (x: Tensor, i: number): Tensor =>
    x.view([b, heads, t, d], [t * width, d, width, 1], x.offset + i * c);
  const joined = (x: Tensor): Tensor => x.view([b, heads, t, d], [t * c, d, c, 1], x.offset);
  const half = inHalf(qkv, qkv);
  return tidy(() => {
    const x = contiguous(qkv.detach());
    const lengths = options.lengths ? contiguous(options.lengths) : null;
    const starts = options.starts ? contiguous(options.starts) : null;
    const out = empty([b, t, c], qkv.dtype);
    const lse = empty([b, heads, t], half ? 'float32' : qkv.dtype);
    const [q, k, v] = [part(x, 0), part(x, 1), part(x, 2)] as const;
    const forward = half ? kernels.attention_bf16_forward : kernels.attention_forward;
    forward(q, k, v, null, lengths, starts, joined(out), lse, ...flags);
    return record(out, { qkv }, { x, lengths, starts, out, lse }, (dy, s) => {
      const { dtype } = s.lse;
      const wide = as(s.x, dtype);
      const d3 = empty([b, t, width], dtype);
      const backward = half ? kernels.attention_bf16_backward : kernels.attention_backward;
      backward(
        joined(contiguous(as(dy, dtype))),
        part(wide, 0),
        part(wide, 1),
        part(wide, 2),
        null,
        s.lengths,
        s.starts,
        joined(as(s.out, dtype)),
        s.lse,
        part(d3, 0),
        part(d3, 1),
        part(d3, 2),
        null,
        ...flags,
      );
      return { qkv: as(d3, s.x.dtype) };
    });
  });
}
