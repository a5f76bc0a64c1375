// Matrix products.
import { unbroadcast } from '../autograd/backward.js';
import { productDtype } from '../autograd/modes.js';
import type { ProductDtype } from '../autograd/modes.js';
import { record, willRecord } from '../autograd/record.js';
import { empty } from '../tensor/create.js';
import { isHalf, promote } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { broadcastShapes, format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { productKernels, restore } from './compute_dtype.js';
import { mul } from './elementwise.js';
import { sum } from './reduce.js';
import { expand, reshape, squeeze, transpose, unsqueeze } from './view.js';

/** The activations that linear() can apply on the way out, with their numbers in native/cpu/gemm/gemm.h. */
export const activations = { none: 0, gelu_tanh: 1, gelu: 2, silu: 3, relu: 4 } as const;
export type Activation = keyof typeof activations;
export const activationNames: readonly Activation[] = Object.keys(activations) as Activation[];

/**
 * Matrix product with broadcasting over leading axes: (…, M, K) × (…, K, N) → (…, M, N).
 * A vector on the left is a row, on the right a column, and its axis disappears. Transposed views cost no copy.
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  return product(a, b, productDtype());
}

function product(a: Tensor, b: Tensor, precision: ProductDtype): Tensor {
  check.tensor('matmul', 'a', a);
  check.tensor('matmul', 'b', b);
  check.minRank('matmul', a, 1);
  check.minRank('matmul', b, 1);
  if (a.rank === 1)
    return tidy(() => squeeze(product(unsqueeze(a, 0), b, precision), b.rank === 1 ? 0 : -2));
  if (b.rank === 1) return tidy(() => squeeze(product(a, unsqueeze(b, 1), precision), -1));
  const dtype = promote(a.dtype, b.dtype);
  const compute = dtype === 'float64' ? 'float64' : 'float32';
  if (a.dtype !== compute || b.dtype !== compute) {
    check.floatDtype('matmul', a);
    check.floatDtype('matmul', b);
    // operands of 16 bits are exact in either kernel: the one of their own is faster where there are tensor cores
    const { dtype: own } = a;
    const inner = (own === 'bfloat16' || own === 'float16') && b.dtype === own ? own : precision;
    return tidy(() =>
      restore(
        product(
          a.dtype === compute ? a : cast(a, compute),
          b.dtype === compute ? b : cast(b, compute),
          inner,
        ),
        dtype,
      ),
    );
  }
  const [m, k] = a.shape.slice(-2) as [number, number];
  const [kb, n] = b.shape.slice(-2) as [number, number];
  if (k !== kb)
    throw new ShapeError(
      `matmul: inner dimensions differ: ${format(a.shape)} × ${format(b.shape)} (${k} ≠ ${kb})`,
    );
  const batch = broadcastShapes('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2));
  // (…, M, K) × (K, N): one product with all rows together
  if (b.rank === 2 && a.rank > 2 && a.isContiguous)
    return tidy(() =>
      reshape(product(reshape(a, [batch.reduce((p, d) => p * d, m), k]), b, precision), [
        ...a.shape.slice(0, -1),
        n,
      ]),
    );
  const out = empty([...batch, m, n], dtype);
  const kernel = productKernels(compute, precision).matmul;
  tidy(() =>
    kernel(expand(a.detach(), [...batch, m, k]), expand(b.detach(), [...batch, kb, n]), out, 0),
  );
  const shapeA = a.shape;
  const shapeB = b.shape;
  return record(out, { a, b }, { a, b }, (dy, s) => ({
    a: unbroadcast(product(dy, transpose(s.b), precision), shapeA),
    b: unbroadcast(product(transpose(s.a), dy, precision), shapeB),
  }));
}

export interface LinearOptions {
  /** Applied to the result inside the kernel. */
  activation?: Activation;
}

/**
 * y = activation(x Wᵀ + b). x (…, K), weight (N, K), bias (N) or null → (…, N). All of one dtype; or a bfloat16 weight that is not
 * trained with float32 for the rest: products of bfloat16 numbers, float32 sums and results.
 * GPT-2 stores weights (K, N): pass `transpose(weight)`, a view.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  options: LinearOptions = {},
): Tensor {
  check.tensor('linear', 'x', x);
  check.tensor('linear', 'weight', weight);
  check.knownOptions('linear', options, ['activation']);
  const activation = options.activation ?? 'none';
  check.oneOf('linear', 'activation', activation, activationNames);
  check.rank('linear', 'weight', weight, 2, '(N, K)');
  check.minRank('linear', x, 1);
  const [n, k] = weight.shape as [number, number];
  if (x.shape.at(-1) !== k)
    throw new ShapeError(
      `linear: x ${format(x.shape)} and weight ${format(weight.shape)} differ in the inner dimension (${x.shape.at(-1)} ≠ ${k})`,
    );
  if (bias) {
    check.tensor('linear', 'bias', bias);
    check.shape('linear', 'bias', bias, [n]);
  }
  // weights stored in bfloat16 serve float32 activations as they are
  const stored = x.dtype === 'float32' && weight.dtype === 'bfloat16' && !weight.requiresGrad;
  if (!stored) check.sameDtype('linear', x, weight, 'x and weight');
  if (bias) check.sameDtype('linear', stored ? x : weight, bias, 'weight and bias');
  check.floatDtype('linear', x);
  if (x.dtype === 'bfloat16' && !willRecord(x, weight, bias))
    return tidy(() =>
      cast(linear(cast(x, 'float32'), weight, bias && cast(bias, 'float32'), options), x.dtype),
    );
  if (isHalf(x.dtype))
    return tidy(() =>
      restore(
        linear(cast(x, 'float32'), cast(weight, 'float32'), bias && cast(bias, 'float32'), options),
        x.dtype,
      ),
    );
  const lead = x.shape.slice(0, -1);
  const rows = lead.reduce((a, d) => a * d, 1);
  const precision = stored ? 'bfloat16' : productDtype();
  const kernel = productKernels(x.dtype, precision).linear;
  if (!willRecord(x, weight, bias) && x.isContiguous && (bias === null || bias.isContiguous)) {
    // inference, the common case: matrices by views made directly
    const flat = x.view([rows, k], [k, 1], x.offset);
    const out = empty([...lead, n], x.dtype);
    const result = out.view([rows, n], [n, 1], 0);
    kernel(flat, weight, bias, result, null, activations[activation]);
    flat.dispose();
    result.dispose();
    return out;
  }
  return tidy(() => {
    const flat = reshape(x.detach(), [rows, k]);
    const out = empty([rows, n], x.dtype);
    const recording = willRecord(x, weight, bias);
    // the derivative of the activation: its backward pass is one multiplication
    const slope = recording && activation !== 'none' ? empty([rows, n], x.dtype) : null;
    kernel(flat, weight, bias && contiguous(bias.detach()), out, slope, activations[activation]);
    const result = reshape(out, [...lead, n]);
    if (!recording) return result;
    const shape = x.shape;
    const [wantsX, wantsWeight, wantsBias] = [x, weight, bias].map((t) => t?.requiresGrad ?? false);
    return record(result, { x, weight, bias }, { flat, weight, slope }, (dy, s) => {
      const dense = contiguous(reshape(dy, [rows, n]));
      const d = s.slope ? mul(dense, s.slope) : dense;
      // the gradient of a transposed view is computed in the order of its storage, so that nobody has to transpose it later
      const [rowStride, columnStride] = s.weight.strides as [number, number];
      return {
        x: wantsX ? reshape(product(d, s.weight, precision), shape) : null,
        weight: !wantsWeight
          ? null
          : rowStride < columnStride
            ? transpose(product(transpose(s.flat), d, precision))
            : product(transpose(d), s.flat, precision),
        bias: wantsBias ? sum(d, { dim: 0 }) : null,
      };
    });
  });
}
