// Rotary position embedding, applied; the angles are made in nn/rope_angles.ts.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, clone } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';
import { expand, unsqueeze } from './view.js';

/**
 * Rotates pairs of x by angles given as cosines and sines (arXiv 2104.09864): pairs are (i, i + D/2), as in Hugging
 * Face Llama, or (2i, 2i + 1) with `interleaved`. x (B, H, T, D), cos and sin (T, D/2) or (B, T, D/2) → (B, H, T, D)
 */
export function rope(
  x: Tensor,
  cos: Tensor,
  sin: Tensor,
  options: { interleaved?: boolean } = {},
): Tensor {
  check.tensor('rope', 'x', x);
  check.tensor('rope', 'cos', cos);
  check.tensor('rope', 'sin', sin);
  check.knownOptions('rope', options, ['interleaved']);
  check.rank('rope', 'x', x, 4, '(B, H, T, D)');
  check.floatDtype('rope', x);
  const [b, , t, d] = x.shape as [number, number, number, number];
  if (d % 2 !== 0) throw new ShapeError(`rope: the head size must be even, got ${d}`);
  if (isHalf(x.dtype))
    return tidy(() =>
      restore(
        rope(cast(x, 'float32'), cast(cos, 'float32'), cast(sin, 'float32'), options),
        x.dtype,
      ),
    );
  check.sameDtype('rope', x, cos, 'x and cos');
  check.sameDtype('rope', x, sin, 'x and sin');
  const interleaved = options.interleaved ? 1 : 0;
  return tidy(() => {
    const angles = (name: string, a: Tensor): Tensor => {
      const wide = a.rank === 2 ? unsqueeze(a.detach(), 0) : a.detach();
      if (
        wide.rank !== 3 ||
        wide.shape[1] !== t ||
        wide.shape[2] !== d / 2 ||
        (wide.shape[0] !== b && wide.shape[0] !== 1)
      )
        throw new ShapeError(
          `rope: ${name} must have shape [${t}, ${d / 2}] or [${b}, ${t}, ${d / 2}], got ${format(a.shape)}`,
        );
      const dense = wide.strides[2] === 1 ? wide : clone(wide);
      return expand(dense, [b, t, d / 2]);
    };
    const c = angles('cos', cos);
    const s = angles('sin', sin);
    const rows = x.strides[3] === 1 ? x : clone(x.detach());
    const out = empty(x.shape, x.dtype);
    kernels.rope(rows, c, s, out, interleaved, 1);
    return record(out, { x }, { c, s }, (dy, saved) => {
      const dx = empty(dy.shape, dy.dtype);
      kernels.rope(dy.strides[3] === 1 ? dy : clone(dy), saved.c, saved.s, dx, interleaved, -1);
      return { x: dx };
    });
  });
}
