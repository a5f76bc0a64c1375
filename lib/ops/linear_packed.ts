// Products with weights kept in the form that the kernels read, for weights that are used again and again.
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { DTypeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { asRows } from './as_rows.js';
import { contiguous } from './cast.js';
import * as check from './check.js';
import { checkLinearOptions, linearOptionNames } from './linear_end.js';
import type { LinearOptions } from './linear_end.js';

// The layout of native/cpu/linear_packed.cc: panels of 32 outputs; bfloat16 inputs in pairs.
const panel = 32;
function packedShape(dtype: string, n: number, k: number): [number, number, number] {
  return dtype === 'bfloat16'
    ? [Math.ceil(n / panel), Math.ceil(k / 2), 2 * panel]
    : [Math.ceil(n / panel), k, panel];
}

/** Weights (N, K), float32 or bfloat16, in the layout that linearPacked reads; it never leaves the process. On the CPU. */
export function packLinear(weight: Tensor): Tensor {
  check.tensor('packLinear', 'weight', weight);
  check.rank('packLinear', 'weight', weight, 2, '(N, K)');
  if (weight.dtype !== 'float32' && weight.dtype !== 'bfloat16')
    throw new DTypeError(
      `packLinear: weight must be float32 or bfloat16, got ${weight.dtype}; cast it first`,
    );
  const [n, k] = weight.shape as [number, number];
  const packed = empty(packedShape(weight.dtype, n, k), weight.dtype);
  kernels.linear_pack(weight, packed, 0);
  return packed;
}

/** The weights that packLinear packed, exactly. → (n, k) */
export function unpackLinear(packed: Tensor, n: number, k: number): Tensor {
  check.tensor('unpackLinear', 'packed', packed);
  check.shape('unpackLinear', 'packed', packed, packedShape(packed.dtype, n, k));
  const weight = empty([n, k], packed.dtype);
  kernels.linear_pack(weight, packed, 1);
  return weight;
}

export interface LinearPackedOptions extends LinearOptions {
  /** N, the rows of the weight: panels are padded. */
  outputs: number;
}

/**
 * y = gate ⊙ activation(x Wᵀ + b) + residual of a packed weight. x (…, K) float32, packed = packLinear((N, K)), bias (N) float32 or null → (…, N)
 * float32. With a bfloat16 weight x is rounded to bfloat16 and sums are float32. No gradient.
 */
export function linearPacked(
  x: Tensor,
  packed: Tensor,
  bias: Tensor | null,
  options: LinearPackedOptions,
): Tensor {
  const op = 'linearPacked';
  check.tensor(op, 'x', x);
  check.tensor(op, 'packed', packed);
  check.knownOptions(op, options, ['outputs', ...linearOptionNames]);
  const { outputs: n } = options;
  check.integer(op, 'outputs', n, 0);
  check.dtype(op, 'x', x, 'float32');
  check.minRank(op, x, 1);
  const k = x.shape[x.rank - 1]!;
  check.shape(op, 'packed', packed, packedShape(packed.dtype, n, k));
  checkLinearOptions(op, options, x, n);
  if (bias) {
    check.tensor(op, 'bias', bias);
    check.shape(op, 'bias', bias, [n]);
    check.dtype(op, 'bias', bias, 'float32');
  }
  if (bias && !bias.isContiguous)
    return tidy(() => linearPacked(x, packed, contiguous(bias), options));
  return asRows(x, n, options, (rows, result, { gate, residual, activation }) =>
    kernels.linear_packed(rows, packed, bias, gate, residual, result, activation),
  );
}
