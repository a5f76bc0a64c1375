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
import { add, mul } from './elementwise.js';
import { checkLinearOptions, linearOptionNames, withKernelEnd } from './linear_end.js';
import type { LinearOptions } from './linear_end.js';
import { sum } from './reduce.js';
import { expand, reshape, squeeze, transpose, unsqueeze } from './view.js';

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

/**
 * y = gate ⊙ activation(x Wᵀ + b) + residual, in one kernel (a gate takes one of its own where gradients are recorded). x (…, K),
 * weight (N, K), bias (N) or null, gate and residual (…, N) → (…, N). All of one dtype; or a bfloat16 weight that is not trained with float32 for the rest: products of bfloat16 numbers, float32 sums and results.
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
  check.knownOptions('linear', options, linearOptionNames);
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
  checkLinearOptions('linear', options, x, n);
  const { activation = 'none', gate = null, residual = null } = options;
  const recording = willRecord(x, weight, bias, residual, gate);
  if (isHalf(x.dtype))
    return tidy(() => {
      const wide = (t: Tensor | null): Tensor | null => t && cast(t, 'float32');
      const end = { activation, gate: wide(gate), residual: wide(residual) };
      const keep = x.dtype === 'bfloat16' && !recording;
      const w = keep ? weight : cast(weight, 'float32');
      return restore(linear(cast(x, 'float32'), w, wide(bias), end), x.dtype);
    });
  if (gate && recording)
    return tidy(() => {
      const gated = mul(linear(x, weight, bias, { activation }), gate);
      return residual ? add(gated, residual) : gated;
    });
  const lead = x.shape.slice(0, -1);
  const rows = lead.reduce((a, d) => a * d, 1);
  const precision = stored ? 'bfloat16' : productDtype();
  const kernel = productKernels(x.dtype, precision).linear;
  if (!recording && x.isContiguous && (bias === null || bias.isContiguous)) {
    // inference, the common case: matrices by views made directly
    const flat = x.view([rows, k], [k, 1], x.offset);
    const out = empty([...lead, n], x.dtype);
    const result = out.view([rows, n], [n, 1], 0);
    withKernelEnd(options, rows, n, (end) =>
      kernel(flat, weight, bias, end.gate, end.residual, result, null, end.activation),
    );
    flat.dispose();
    result.dispose();
    return out;
  }
  return tidy(() => {
    const flat = reshape(x.detach(), [rows, k]);
    const out = empty([rows, n], x.dtype);
    // the derivative of the activation: its backward pass is one multiplication
    const slope = recording && activation !== 'none' ? empty([rows, n], x.dtype) : null;
    const b = bias && contiguous(bias.detach());
    withKernelEnd(options, rows, n, (end) =>
      kernel(flat, weight, b, end.gate, end.residual, out, slope, end.activation),
    );
    const result = reshape(out, [...lead, n]);
    if (!recording) return result;
    const shape = x.shape;
    const [wantsX, wantsWeight, wantsBias] = [x, weight, bias].map((t) => t?.requiresGrad ?? false);
    const inputs = { x, weight, bias, residual };
    return record(result, inputs, { flat, weight, slope }, (dy, s, walk) => {
      const dense = contiguous(reshape(dy, [rows, n]));
      const d = s.slope ? mul(dense, s.slope) : dense;
      // the gradient of a transposed view is computed in the order of its storage, so that nobody has to transpose it later
      const [rowStride, columnStride] = s.weight.strides as [number, number];
      const gradientOfX = (): Tensor => {
        // what x already has of its gradient is added on the way out
        const rest = walk.take('x');
        const dx = empty([rows, k], dy.dtype);
        withKernelEnd({ residual: rest }, rows, k, (end) =>
          kernel(d, transpose(s.weight), null, null, end.residual, dx, null, end.activation),
        );
        return reshape(dx, shape);
      };
      return {
        residual: dy,
        x: wantsX ? gradientOfX() : null,
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
