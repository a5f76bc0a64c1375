// Linear layers with int4 weights in groups along the input that share a scale (W4A16): a quarter of W8A16's traffic halved again.
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { OptionError, ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import { asRows } from './as_rows.js';
import * as check from './check.js';
import { activationNames, activations } from './matmul.js';
import type { Activation } from './matmul.js';

function checkGroup(op: string, group: number): void {
  check.integer(op, 'group', group, 32);
  if (group % 32 !== 0)
    throw new OptionError(`${op}: group must be a multiple of 32, got ${group}`);
}

/**
 * Weights to int4, a symmetric scale per output and group of `group` inputs (default 128, a multiple of 32):
 * q = clamp(round(w / s), -8, 7), s = max|w| / 7.5 shrunk by up to 30 % where that leaves a smaller squared error (`clip`).
 * weight (N, K) float32 → q (N, K) int8 holding int4 values, scale (N, ⌈K / group⌉).
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

/** int4 values (N, K) int8 in the layout that linearW4A16 reads, uint8 (N, ⌈K / 32⌉ · 16); it never leaves the process. */
export function packI4(q: Tensor): Tensor {
  check.tensor('packI4', 'q', q);
  check.rank('packI4', 'q', q, 2, '(N, K)');
  check.dtype('packI4', 'q', q, 'int8');
  const packed = empty([q.shape[0]!, Math.ceil(q.shape[1]! / 32) * 16], 'uint8');
  tidy(() => kernels.linear_i4_pack(contiguous(q), packed, 0));
  return packed;
}

/** The values that packI4 packed, exactly. → (N, k) int8 */
export function unpackI4(packed: Tensor, k: number): Tensor {
  check.tensor('unpackI4', 'packed', packed);
  check.dtype('unpackI4', 'packed', packed, 'uint8');
  check.rank('unpackI4', 'packed', packed, 2, '(N, bytes)');
  check.integer('unpackI4', 'k', k, 0);
  check.shape('unpackI4', 'packed', packed, [packed.shape[0]!, Math.ceil(k / 32) * 16]);
  const q = empty([packed.shape[0]!, k], 'int8');
  kernels.linear_i4_pack(q, packed, 1);
  return q;
}

/**
 * W4A16: y = activation(x Wᵀ + b), int4 weights, float32 activations and sums. x (…, K), packed = packI4((N, K)),
 * scale (N, groups) with groups of `group` inputs, bias (N) → (…, N). No gradient.
 */
export function linearW4A16(
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  bias: Tensor | null = null,
  options: { group?: number; activation?: Activation } = {},
): Tensor {
  const op = 'linearW4A16';
  check.tensor(op, 'x', x);
  check.tensor(op, 'packed', packed);
  check.tensor(op, 'scale', scale);
  check.knownOptions(op, options, ['group', 'activation']);
  const { group = 128, activation = 'none' } = options;
  checkGroup(op, group);
  check.oneOf(op, 'activation', activation, activationNames);
  check.dtype(op, 'x', x, 'float32');
  check.dtype(op, 'packed', packed, 'uint8');
  check.rank(op, 'packed', packed, 2, '(N, bytes)');
  check.minRank(op, x, 1);
  const n = packed.shape[0]!;
  const k = x.shape[x.rank - 1]!;
  if (packed.shape[1] !== Math.ceil(k / 32) * 16)
    throw new ShapeError(
      `${op}: packed ${format(packed.shape)} does not belong to ${k} inputs: expected [${n}, ${Math.ceil(k / 32) * 16}]`,
    );
  check.shape(op, 'scale', scale, [n, Math.ceil(k / group)]);
  if (bias) check.shape(op, 'bias', bias, [n]);
  return asRows(x, n, (rows, result) =>
    kernels.linear_w4a16(rows, packed, scale, bias, result, group, activations[activation]),
  );
}
