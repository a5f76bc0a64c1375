// softmax and log_softmax.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import type { TensorArg } from '../native/load.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { tidy } from '../tensor/scope.js';
import { axis } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { restore } from './compute_dtype.js';
import { transpose } from './view.js';

type Forward = (x: TensorArg, out: TensorArg) => void;
type Backward = (dy: TensorArg, y: TensorArg, dx: TensorArg) => void;

function normalise(
  op: string,
  x: Tensor,
  dim: number,
  forward: Forward,
  backward: Backward,
): Tensor {
  check.tensor(op, 'x', x);
  check.minRank(op, x, 1);
  check.floatDtype(op, x);
  if (isHalf(x.dtype))
    return tidy(() => restore(normalise(op, cast(x, 'float32'), dim, forward, backward), x.dtype));
  const at = axis(op, dim, x.rank);
  if (at !== x.rank - 1)
    return tidy(() =>
      transpose(normalise(op, transpose(x, at, -1), -1, forward, backward), at, -1),
    );
  return tidy(() => {
    const out = empty(x.shape, x.dtype);
    forward(contiguous(x.detach()), out);
    return record(out, { x }, { out }, (dy, s) => {
      const dx = empty(dy.shape, dy.dtype);
      backward(contiguous(dy), s.out, dx);
      return { x: dx };
    });
  });
}

/** e^x / Σ e^x along one axis, the last by default. A row of -Infinity gives zeros. (…) → (…) */
export function softmax(x: Tensor, dim = -1): Tensor {
  return normalise('softmax', x, dim, kernels.softmax_forward, kernels.softmax_backward);
}

/** x - ln Σ e^x along one axis, the last by default. (…) → (…) */
export function logSoftmax(x: Tensor, dim = -1): Tensor {
  return normalise('logSoftmax', x, dim, kernels.log_softmax_forward, kernels.log_softmax_backward);
}
