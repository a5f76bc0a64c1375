// Layer normalisation.
import { record, willRecord } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';

/**
 * (x - mean) / √(var + eps) · weight + bias over the last axis (arXiv 1607.06450), var the biased variance.
 * x (…, C), weight (C) or null, bias (C) or null → (…, C)
 */
export function layerNorm(
  x: Tensor,
  weight: Tensor | null = null,
  bias: Tensor | null = null,
  eps = 1e-5,
): Tensor {
  check.tensor('layerNorm', 'x', x);
  check.minRank('layerNorm', x, 1);
  check.floatDtype('layerNorm', x);
  check.number('layerNorm', 'eps', eps, 0);
  for (const [name, p] of [
    ['weight', weight],
    ['bias', bias],
  ] as const)
    if (p) {
      check.tensor('layerNorm', name, p);
      check.lastDim('layerNorm', name, x, p);
      check.sameDtype('layerNorm', x, p, `x and ${name}`);
    }
  if (isHalf(x.dtype))
    return tidy(() =>
      restore(
        layerNorm(
          cast(x, 'float32'),
          weight && cast(weight, 'float32'),
          bias && cast(bias, 'float32'),
          eps,
        ),
        x.dtype,
      ),
    );
  if (
    !willRecord(x, weight, bias) &&
    x.isContiguous &&
    !(weight && !weight.isContiguous) &&
    !(bias && !bias.isContiguous)
  ) {
    // inference: nothing is saved
    const out = empty(x.shape, x.dtype);
    kernels.layer_norm_forward(x, weight, bias, out, null, null, eps);
    return out;
  }
  return tidy(() => {
    const dense = contiguous(x.detach());
    const scale = weight && contiguous(weight.detach());
    const out = empty(x.shape, x.dtype);
    const rows = x.shape.slice(0, -1);
    const mean = empty(rows, x.dtype);
    const rstd = empty(rows, x.dtype);
    kernels.layer_norm_forward(
      dense,
      scale,
      bias && contiguous(bias.detach()),
      out,
      mean,
      rstd,
      eps,
    );
    const hasBias = bias !== null;
    return record(out, { x, weight, bias }, { x: dense, scale, mean, rstd }, (dy, s, walk) => {
      const dx = empty(dy.shape, dy.dtype);
      const width = [dy.shape.at(-1)!];
      const dweight = s.scale ? empty(width, dy.dtype) : null;
      const dbias = hasBias ? empty(width, dy.dtype) : null;
      // what x already has of its gradient, by way of a residual connection, is added on the way out
      const rest = walk.take('x');
      const { mean: m, rstd: r } = s;
      kernels.layer_norm_backward(contiguous(dy), s.x, s.scale, m, r, rest, dx, dweight, dbias);
      return { x: dx, weight: dweight, bias: dbias };
    });
  });
}
