// Root-mean-square normalisation.
import { record, willRecord } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';

/** x / √(mean(x²) + eps) · weight over the last axis (arXiv 1910.07467). x (…, C), weight (C) → (…, C) */
export function rmsNorm(x: Tensor, weight: Tensor, eps = 1e-6): Tensor {
  check.tensor('rmsNorm', 'x', x);
  check.tensor('rmsNorm', 'weight', weight);
  check.minRank('rmsNorm', x, 1);
  check.floatDtype('rmsNorm', x);
  check.lastDim('rmsNorm', 'weight', x, weight);
  check.sameDtype('rmsNorm', x, weight, 'x and weight');
  check.number('rmsNorm', 'eps', eps, 0);
  if (isHalf(x.dtype))
    return tidy(() => restore(rmsNorm(cast(x, 'float32'), cast(weight, 'float32'), eps), x.dtype));
  if (!willRecord(x, weight) && x.isContiguous && weight.isContiguous) {
    // inference: nothing is saved
    const out = empty(x.shape, x.dtype);
    kernels.rms_norm_forward(x, weight, out, null, eps);
    return out;
  }
  return tidy(() => {
    const dense = contiguous(x.detach());
    const scale = contiguous(weight.detach());
    const out = empty(x.shape, x.dtype);
    const rstd = empty(x.shape.slice(0, -1), x.dtype);
    kernels.rms_norm_forward(dense, scale, out, rstd, eps);
    return record(out, { x, weight }, { x: dense, scale, rstd }, (dy, s, walk) => {
      const dx = empty(dy.shape, dy.dtype);
      const dweight = empty(s.scale.shape, dy.dtype);
      // what x already has of its gradient, by way of a residual connection, is added on the way out
      const rest = walk.take('x');
      kernels.rms_norm_backward(contiguous(dy), s.x, s.scale, s.rstd, rest, dx, dweight);
      return { x: dx, weight: dweight };
    });
  });
}
