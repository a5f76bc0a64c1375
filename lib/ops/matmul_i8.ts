// Quantized products: exact int8 matmul, per-row quantization, and linear layers with int8 weights (W8A8, W8A16).
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import { asRows } from './as_rows.js';
import * as check from './check.js';
import { checkLinearOptions, linearOptionNames } from './linear_end.js';
import type { LinearOptions } from './linear_end.js';

/** Exact product of int8 matrices: (M, K) × (K, N) → (M, N) int32. */
export function matmulI8(a: Tensor, b: Tensor): Tensor {
  check.tensor('matmulI8', 'a', a);
  check.tensor('matmulI8', 'b', b);
  check.rank('matmulI8', 'a', a, 2, '(M, K)');
  check.rank('matmulI8', 'b', b, 2, '(K, N)');
  check.dtype('matmulI8', 'a', a, 'int8');
  check.dtype('matmulI8', 'b', b, 'int8');
  if (a.shape[1] !== b.shape[0])
    throw new ShapeError(
      `matmulI8: inner dimensions differ: ${format(a.shape)} × ${format(b.shape)} (${a.shape[1]} ≠ ${b.shape[0]})`,
    );
  if (a.shape[1]! > 65536)
    throw new ShapeError(
      `matmulI8: the inner dimension may be at most 65536 (int32 sums), got ${a.shape[1]}`,
    );
  const out = empty([a.shape[0]!, b.shape[1]!], 'int32');
  kernels.matmul_i8(a, b, out);
  return out;
}

/**
 * Symmetric int8 per row: scale = max|x| / 127 (1 for a row of zeros), q = round_half_even(x / scale).
 * x (…, K) float32 of up to four axes → q (…, K) int8, scale (…) float32.
 */
export function quantizeRowsI8(x: Tensor): { q: Tensor; scale: Tensor } {
  check.tensor('quantizeRowsI8', 'x', x);
  check.minRank('quantizeRowsI8', x, 1);
  check.dtype('quantizeRowsI8', 'x', x, 'float32');
  if (x.rank > 4)
    throw new ShapeError(`quantizeRowsI8: expected at most four axes, got ${format(x.shape)}`);
  return tidy(() => {
    const q = empty(x.shape, 'int8');
    const scale = empty(x.shape.slice(0, -1), 'float32');
    kernels.quantize_rows_i8(contiguous(x.detach()), q, scale);
    return { q, scale };
  });
}

// The packed layout of native/cpu/gemm/i8.h: panels of 32 outputs, quads of 4 inputs, one int32 sum per output.
function packedBytes(n: number, k: number): number {
  return Math.ceil(n / 32) * 32 * (Math.ceil(k / 4) * 4 + 4);
}

type Bytes = (n: number, k: number) => number;
type PackKernel = typeof kernels.linear_i8_pack;

function pack(op: string, kernel: PackKernel, bytes: Bytes, weight: Tensor): Tensor {
  check.tensor(op, 'weight', weight);
  check.rank(op, 'weight', weight, 2, '(N, K)');
  check.dtype(op, 'weight', weight, 'int8');
  const packed = empty([bytes(weight.shape[0]!, weight.shape[1]!)], 'int8');
  tidy(() => kernel(contiguous(weight), packed, 0));
  return packed;
}

function unpack(
  op: string,
  kernel: PackKernel,
  bytes: Bytes,
  packed: Tensor,
  n: number,
  k: number,
): Tensor {
  check.tensor(op, 'packed', packed);
  check.dtype(op, 'packed', packed, 'int8');
  check.shape(op, 'packed', packed, [bytes(n, k)]);
  const weight = empty([n, k], 'int8');
  kernel(weight, packed, 1);
  return weight;
}

/** Weights (N, K) int8 in the layout that linearW8A8 and linearW8A16 read; it never leaves the process. */
export function packI8(weight: Tensor): Tensor {
  return pack('packI8', kernels.linear_i8_pack, packedBytes, weight);
}

/** The weights that packI8 packed, exactly. → (n, k) int8 */
export function unpackI8(packed: Tensor, n: number, k: number): Tensor {
  return unpack('unpackI8', kernels.linear_i8_pack, packedBytes, packed, n, k);
}

// The packed layout of native/cpu/linear_w8a8_24.cc: half the values, a bit for each, one int32 sum per output.
function packedBytes24(n: number, k: number): number {
  return Math.ceil(n / 32) * (Math.ceil(k / 4) * 80 + 128);
}

/**
 * Weights (N, K) int8, of which at most two in each four neighbouring inputs are not zero, in the layout that linearW8A8Sparse24
 * reads: 5/8 of the bytes of packI8. Other weights reject the next read. On the CPU.
 */
export function packI8Sparse24(weight: Tensor): Tensor {
  return pack('packI8Sparse24', kernels.linear_24_pack, packedBytes24, weight);
}

/** The weights that packI8Sparse24 packed, exactly. → (n, k) int8 */
export function unpackI8Sparse24(packed: Tensor, n: number, k: number): Tensor {
  return unpack('unpackI8Sparse24', kernels.linear_24_pack, packedBytes24, packed, n, k);
}

type LinearKernel = typeof kernels.linear_w8a8;

function linearI8(
  op: string,
  kernel: LinearKernel,
  bytes: Bytes,
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  bias: Tensor | null,
  options: LinearOptions,
): Tensor {
  check.tensor(op, 'x', x);
  check.tensor(op, 'packed', packed);
  check.tensor(op, 'scale', scale);
  check.knownOptions(op, options, linearOptionNames);
  check.dtype(op, 'x', x, 'float32');
  check.dtype(op, 'packed', packed, 'int8');
  check.rank(op, 'scale', scale, 1, '(N)');
  check.minRank(op, x, 1);
  const n = scale.shape[0]!;
  const k = x.shape[x.rank - 1]!;
  check.shape(op, 'packed', packed, [bytes(n, k)]);
  if (bias) check.shape(op, 'bias', bias, [n]);
  checkLinearOptions(op, options, x, n);
  if (!scale.isContiguous || (bias && !bias.isContiguous))
    return tidy(() => {
      const [s, b] = [contiguous(scale), bias && contiguous(bias)];
      return linearI8(op, kernel, bytes, x, packed, s, b, options);
    });
  return asRows(x, n, options, (rows, result, { gate, residual, activation }) =>
    kernel(rows, packed, scale, bias, gate, residual, result, activation),
  );
}

/**
 * W8A8: y = gate ⊙ activation(x Wᵀ + b) + residual with int8 weights (scale per output) and activations quantized per row on the fly;
 * int32 sums, float32 result. x (…, K), packed = packI8((N, K)), scale (N), bias (N) → (…, N). No gradient.
 */
export function linearW8A8(
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  bias: Tensor | null = null,
  options: LinearOptions = {},
): Tensor {
  return linearI8('linearW8A8', kernels.linear_w8a8, packedBytes, x, packed, scale, bias, options);
}

/** linearW8A8 of weights packed by packI8Sparse24: the same numbers from 5/8 of the bytes. */
export function linearW8A8Sparse24(
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  bias: Tensor | null = null,
  options: LinearOptions = {},
): Tensor {
  const op = 'linearW8A8Sparse24';
  return linearI8(op, kernels.linear_w8a8_24, packedBytes24, x, packed, scale, bias, options);
}

/** W8A16: int8 weights (scale per output), float32 activations. Shapes as linearW8A8. No gradient. */
export function linearW8A16(
  x: Tensor,
  packed: Tensor,
  scale: Tensor,
  bias: Tensor | null = null,
  options: LinearOptions = {},
): Tensor {
  return linearI8(
    'linearW8A16',
    kernels.linear_w8a16,
    packedBytes,
    x,
    packed,
    scale,
    bias,
    options,
  );
}

/**
 * Rows of an int8 embedding table, widened: weight[ids] · scale[ids]. ids (…), weight (V, C) int8, scale (V) → (…, C) float32.
 * `width`: weight is packI8((V, C)) instead, and C is this; so a table that is a head too is kept once.
 */
export function embeddingI8(
  ids: Tensor,
  weight: Tensor,
  scale: Tensor,
  options: { width?: number } = {},
): Tensor {
  const op = 'embeddingI8';
  check.tensor(op, 'ids', ids);
  check.tensor(op, 'weight', weight);
  check.tensor(op, 'scale', scale);
  check.knownOptions(op, options, ['width']);
  check.indexDtype(op, 'ids', ids);
  check.rank(op, 'scale', scale, 1, '(V)');
  check.dtype(op, 'weight', weight, 'int8');
  const rows = scale.shape[0]!;
  if (options.width === undefined) check.rank(op, 'weight', weight, 2, '(V, C)');
  else check.integer(op, 'width', options.width, 0);
  const width = options.width ?? weight.shape[1]!;
  check.shape(
    op,
    'weight',
    weight,
    options.width === undefined ? [rows, width] : [packedBytes(rows, width)],
  );
  return tidy(() => {
    const out = empty([...ids.shape, width], 'float32');
    kernels.embedding_i8(contiguous(ids), contiguous(weight), contiguous(scale), out);
    return out;
  });
}

/**
 * Weights to int8 with one symmetric scale per row: q = clamp(round(w / s), -127, 127). With `clip`, the scale is the one
 * with the least Σ|w - q s|^2.4 among ranges shrunk by up to 20 %. weight (N, K) float32 → q (N, K) int8, scale (N).
 */
export function quantizeWeightI8(
  weight: Tensor,
  options: { clip?: boolean } = {},
): { q: Tensor; scale: Tensor } {
  check.tensor('quantizeWeightI8', 'weight', weight);
  check.knownOptions('quantizeWeightI8', options, ['clip']);
  check.rank('quantizeWeightI8', 'weight', weight, 2, '(N, K)');
  check.dtype('quantizeWeightI8', 'weight', weight, 'float32');
  return tidy(() => {
    const q = empty(weight.shape, 'int8');
    const scale = empty([weight.shape[0]!], 'float32');
    kernels.quantize_weight_i8(
      contiguous(weight.detach()),
      q,
      scale,
      (options.clip ?? true) ? 40 : 0,
      0.2,
    );
    return { q, scale };
  });
}
