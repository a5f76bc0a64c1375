// Linear layers and embedding tables with int4 weights in groups along the input that share a scale (W4A16): half of int8's traffic.
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { OptionError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import { asRows } from './as_rows.js';
import * as check from './check.js';
import { checkLinearOptions, linearOptionNames } from './linear_end.js';
import type { LinearOptions } from './linear_end.js';

function checkGroup(op: string, group: number): void {
  check.integer(op, 'group', group, 32);
  if (group % 32 !== 0)
    throw new OptionError(`${op}: group must be a multiple of 32, got ${group}`);
}

/**
 * Weights to int4, a symmetric scale per output and group of `group` inputs (default 128, a multiple of 32):
 * q = clamp(round(w / s), -8, 7), s = max|w| / 7.5 shrunk by up to 30 % where that leaves a smaller squared error (`clip`).
 * weight (N, K) float32 → q (N, K) int8 holding int4 values, scale (N, ⌈K / group⌉) float32 holding float16 numbers.
 */
export function quantizeWeightI4(
  weight: Tensor,
  options: { group?: number; clip?: boolean } = {},
): { q: Tensor; scale: Tensor } {
  const op = 'quantizeWeightI4';
  check.tensor(op, 'weight', weight);
  check.knownOptions(op, options, ['group', 'clip']);
  check.rank(op, 'weight', weight, 2, '(N, K)');
  check.dtype(op, 'weight', weight, 'float32');
  const { group = 128, clip = true } = options;
  checkGroup(op, group);
  const [n, k] = weight.shape as [number, number];
  return tidy(() => {
    const q = empty([n, k], 'int8');
    const scale = empty([n, Math.ceil(k / group)], 'float32');
    kernels.quantize_weight_i4(contiguous(weight.detach()), q, scale, group, clip ? 30 : 0, 0.3);
    return { q, scale };
  });
}

// The layout of native/core/packed_i4.h: panels of 16 outputs, blocks of 32 inputs, 64 bytes of float16 scales for each two groups.
function packedBytes(n: number, k: number, group: number): number {
  return Math.ceil(n / 16) * (Math.ceil(Math.ceil(k / group) / 2) * 64 + Math.ceil(k / 32) * 256);
}

/**
 * int4 values q (N, K) int8 and their scale (N, ⌈K / group⌉) in the layout that linearW4A16 and embeddingI4 read, one uint8 vector;
 * it never leaves the process. `group` as it was quantized. Scales are rounded to float16, which those of quantizeWeightI4 are.
 */
export function packI4(q: Tensor, scale: Tensor, options: { group?: number } = {}): Tensor {
  const op = 'packI4';
  check.tensor(op, 'q', q);
  check.tensor(op, 'scale', scale);
  check.knownOptions(op, options, ['group']);
  check.rank(op, 'q', q, 2, '(N, K)');
  check.dtype(op, 'q', q, 'int8');
  check.dtype(op, 'scale', scale, 'float32');
  const { group = 128 } = options;
  checkGroup(op, group);
  const [n, k] = q.shape as [number, number];
  check.shape(op, 'scale', scale, [n, Math.ceil(k / group)]);
  const packed = empty([packedBytes(n, k, group)], 'uint8');
  tidy(() => kernels.linear_i4_pack(contiguous(q), contiguous(scale), packed, group, 0));
  return packed;
}

/** What packI4 packed, its scales as they were rounded. → q (n, k) int8, scale (n, ⌈k / group⌉) */
export function unpackI4(
  packed: Tensor,
  n: number,
  k: number,
  options: { group?: number } = {},
): { q: Tensor; scale: Tensor } {
  const op = 'unpackI4';
  check.tensor(op, 'packed', packed);
  check.knownOptions(op, options, ['group']);
  check.dtype(op, 'packed', packed, 'uint8');
  check.integer(op, 'n', n, 0);
  check.integer(op, 'k', k, 0);
  const { group = 128 } = options;
  checkGroup(op, group);
  check.shape(op, 'packed', packed, [packedBytes(n, k, group)]);
  const q = empty([n, k], 'int8');
  const scale = empty([n, Math.ceil(k / group)], 'float32');
  kernels.linear_i4_pack(q, scale, packed, group, 1);
  return { q, scale };
}

export interface LinearW4A16Options extends LinearOptions {
  /** N, the rows of the weight: panels are padded. */
  outputs: number;
  /** Inputs that share a scale, as they were packed. Default 128. */
  group?: number;
}

/**
 * W4A16: y = gate ⊙ activation(x Wᵀ + b) + residual, int4 weights. x (…, K) float32, packed = packI4((N, K)), bias (N) → (…, N) float32. No gradient.
 *
 * On a CPU with VNNI, and for up to 8 rows on others, x is rounded to 16-bit integers, a scale for each 32 of a row: xᵢ is off by at
 * most max|x| / 32512 of its 32, and the products are exact; elsewhere x stays float32, or with AMX the sum of two bfloat16 numbers.
 */
export function linearW4A16(
  x: Tensor,
  packed: Tensor,
  bias: Tensor | null,
  options: LinearW4A16Options,
): Tensor {
  const op = 'linearW4A16';
  check.tensor(op, 'x', x);
  check.tensor(op, 'packed', packed);
  check.knownOptions(op, options, ['outputs', 'group', ...linearOptionNames]);
  const { outputs: n, group = 128 } = options;
  check.integer(op, 'outputs', n, 0);
  checkGroup(op, group);
  check.dtype(op, 'x', x, 'float32');
  check.dtype(op, 'packed', packed, 'uint8');
  check.minRank(op, x, 1);
  check.shape(op, 'packed', packed, [packedBytes(n, x.shape[x.rank - 1]!, group)]);
  if (bias) check.shape(op, 'bias', bias, [n]);
  checkLinearOptions(op, options, x, n);
  if (bias && !bias.isContiguous)
    return tidy(() => linearW4A16(x, packed, contiguous(bias), options));
  return asRows(x, n, options, (rows, result, { gate, residual, activation }) =>
    kernels.linear_w4a16(rows, packed, bias, gate, residual, result, group, activation),
  );
}

/** Rows of an int4 embedding table, widened. ids (…), packed = packI4((rows, width)) → (…, width) float32. No gradient. */
export function embeddingI4(
  ids: Tensor,
  packed: Tensor,
  options: { rows: number; width: number; group?: number },
): Tensor {
  const op = 'embeddingI4';
  check.tensor(op, 'ids', ids);
  check.tensor(op, 'packed', packed);
  check.knownOptions(op, options, ['rows', 'width', 'group']);
  check.indexDtype(op, 'ids', ids);
  check.dtype(op, 'packed', packed, 'uint8');
  const { rows, width, group = 128 } = options;
  check.integer(op, 'rows', rows, 0);
  check.integer(op, 'width', width, 0);
  checkGroup(op, group);
  check.shape(op, 'packed', packed, [packedBytes(rows, width, group)]);
  return tidy(() => {
    const out = empty([...ids.shape, width], 'float32');
    kernels.embedding_i4(contiguous(ids), packed, out, rows, group);
    return out;
  });
}
