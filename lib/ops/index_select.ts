// Elements and rows chosen by index.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, zeros } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { axis, format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, clone, contiguous } from './cast.js';
import * as check from './check.js';
import { computable, restore } from './compute_dtype.js';
import { permute, reshape, transpose } from './view.js';

/** Rows of axis `dim` at the positions in `index`, a vector. (…, n, …), (k) → (…, k, …) */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  check.tensor('indexSelect', 'x', x);
  check.tensor('indexSelect', 'index', index);
  check.rank('indexSelect', 'index', index, 1, '(k)');
  check.indexDtype('indexSelect', 'index', index);
  const at = axis('indexSelect', dim, x.rank);
  return tidy(() => {
    // rows first, as a matrix, through the embedding kernel, and back
    const order = [at, ...x.shape.map((_, i) => i).filter((i) => i !== at)];
    const rows = permute(x, order);
    const width = x.size / Math.max(1, x.shape[at]!);
    const picked = rowsAt(reshape(contiguous(rows), [x.shape[at]!, width]), contiguous(index));
    const shaped = reshape(picked, [index.shape[0]!, ...order.slice(1).map((i) => x.shape[i]!)]);
    return contiguous(
      permute(
        shaped,
        x.shape.map((_, i) => order.indexOf(i)),
      ),
    );
  });
}

function rowsAt(weight: Tensor, ids: Tensor): Tensor {
  const out = empty([ids.size, weight.shape[1]!], weight.dtype);
  kernels.embedding_forward(ids, weight, out);
  const { shape } = weight;
  return record(out, { weight }, { ids }, (dy, s) => {
    if (isHalf(dy.dtype))
      return { weight: cast(scatterRows(cast(dy, 'float32'), s.ids, shape), dy.dtype) };
    return { weight: scatterRows(dy, s.ids, shape) };
  });
}

function scatterRows(dy: Tensor, ids: Tensor, shape: readonly number[]): Tensor {
  const dweight = zeros(shape, { dtype: dy.dtype, device: dy.device });
  kernels.embedding_backward(contiguous(dy), ids, dweight);
  return dweight;
}

/**
 * Rows of an embedding table. ids (…) int, weight (V, C) → (…, C).
 * The row `paddingIdx`, if given, receives no gradient.
 */
export function embedding(
  ids: Tensor,
  weight: Tensor,
  options: { paddingIdx?: number } = {},
): Tensor {
  check.tensor('embedding', 'ids', ids);
  check.tensor('embedding', 'weight', weight);
  check.knownOptions('embedding', options, ['paddingIdx']);
  check.indexDtype('embedding', 'ids', ids);
  check.rank('embedding', 'weight', weight, 2, '(V, C)');
  const { paddingIdx } = options;
  if (paddingIdx !== undefined)
    check.integer('embedding', 'paddingIdx', paddingIdx, 0, weight.shape[0]! - 1);
  return tidy(() => {
    const flat = contiguous(ids);
    // a copy: contiguous() keeps any stride of an axis of size 1
    const table = weight.strides[1] === 1 ? weight : clone(weight.detach());
    const out = empty([...ids.shape, weight.shape[1]!], weight.dtype);
    kernels.embedding_forward(flat, table, out);
    const { shape, dtype } = weight;
    return record(out, { weight }, { ids: flat }, (dy, s, { sumOf }) => {
      // the table of a tied head has the head's gradient by now: a few rows more, and no second table
      const sum = paddingIdx === undefined && !isHalf(dy.dtype) ? sumOf('weight') : null;
      if (sum) {
        kernels.embedding_backward(contiguous(dy), s.ids, sum);
        return { weight: null };
      }
      const dweight = scatterRows(computable(dy), s.ids, shape);
      if (paddingIdx !== undefined)
        kernels.fill(dweight.view([shape[1]!], [1], paddingIdx * shape[1]!), 0);
      return { weight: restore(dweight, dtype) };
    });
  });
}

function checkGather(op: string, x: Tensor, dim: number, index: Tensor): number {
  check.tensor(op, 'x', x);
  check.tensor(op, 'index', index);
  check.indexDtype(op, 'index', index);
  const at = axis(op, dim, x.rank);
  if (index.rank !== x.rank || index.shape.some((d, i) => i !== at && d !== x.shape[i]))
    throw new ShapeError(
      `${op}: index ${format(index.shape)} must have the shape of x ${format(x.shape)} outside axis ${dim}`,
    );
  return at;
}

/** out[…, i, …] = x[…, index[…, i, …], …] along axis `dim`. index has x's shape elsewhere. */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  const at = checkGather('gather', x, dim, index);
  if (at !== x.rank - 1)
    return tidy(() =>
      contiguous(transpose(gather(transpose(x, at, -1), -1, transpose(index, at, -1)), at, -1)),
    );
  return tidy(() => {
    const positions = contiguous(index);
    const out = empty(index.shape, x.dtype);
    kernels.gather(contiguous(x.detach()), positions, out);
    const { shape } = x;
    return record(out, { x }, { positions }, (dy, s) => ({
      x: scatterAdd(zeros(shape, { dtype: dy.dtype, device: dy.device }), -1, s.positions, dy),
    }));
  });
}

/** A copy of x with `source` added at `index` along axis `dim`; repeated positions add up, in order. */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, source: Tensor): Tensor {
  const at = checkGather('scatterAdd', x, dim, index);
  check.tensor('scatterAdd', 'source', source);
  check.shape('scatterAdd', 'source', source, index.shape);
  check.sameDtype('scatterAdd', x, source, 'x and source');
  check.floatDtype('scatterAdd', x);
  if (isHalf(x.dtype))
    return tidy(() => restore(scatterAdd(computable(x), dim, index, computable(source)), x.dtype));
  if (at !== x.rank - 1)
    return tidy(() =>
      contiguous(
        transpose(
          scatterAdd(transpose(x, at, -1), -1, transpose(index, at, -1), transpose(source, at, -1)),
          at,
          -1,
        ),
      ),
    );
  return tidy(() => {
    const positions = contiguous(index);
    const out = clone(x.detach());
    kernels.scatter_add(out, positions, contiguous(source.detach()));
    return record(out, { x, source }, { positions }, (dy, s) => ({
      x: dy,
      source: gather(dy, -1, s.positions),
    }));
  });
}
