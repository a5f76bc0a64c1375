// Dropout with a counter-based mask: the backward draws the same one again instead of storing it.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';

/**
 * Zeroes elements with probability p and scales the rest by 1/(1-p) (Srivastava et al. 2014); with `training: false`
 * returns x unchanged. (…) → (…)
 */
export function dropout(
  x: Tensor,
  p: number,
  options: { training?: boolean; generator?: Generator } = {},
): Tensor {
  check.tensor('dropout', 'x', x);
  check.knownOptions('dropout', options, ['training', 'generator']);
  check.number('dropout', 'p', p, 0, 1);
  check.floatDtype('dropout', x);
  if (!(options.training ?? true) || p === 0) return contiguous(x);
  if (isHalf(x.dtype)) return tidy(() => restore(dropout(cast(x, 'float32'), p, options), x.dtype));
  const generator = options.generator ?? defaultGenerator();
  const { seed } = generator;
  const start = generator.take(x.size);
  return tidy(() => {
    const out = empty(x.shape, x.dtype);
    kernels.dropout(contiguous(x.detach()), out, seed, start, p);
    return record(out, { x }, {}, (dy) => {
      const dx = empty(dy.shape, dy.dtype);
      kernels.dropout(contiguous(dy), dx, seed, start, p);
      return { x: dx };
    });
  });
}
