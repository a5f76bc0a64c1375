// Views: other shapes, orders and ranges of the same bytes. No copy unless the documentation of an op says so.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, zeros } from '../tensor/create.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import {
  axis,
  broadcastStrides,
  broadcastShapes,
  format,
  numel,
  reshapeStrides,
  sameShape,
} from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { unbroadcast } from '../autograd/backward.js';
import { contiguous } from './cast.js';
import * as check from './check.js';

/** The same elements in another shape; one size may be -1. Copies only when the strides leave no other way. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  check.tensor('reshape', 'x', x);
  const target = [...shape];
  const open = target.indexOf(-1);
  if (open >= 0) {
    const known = target.reduce((n, d, i) => (i === open ? n : n * d), 1);
    target[open] = known > 0 ? x.size / known : 0;
  }
  if (target.some((d) => !Number.isSafeInteger(d) || d < 0) || numel(target) !== x.size)
    throw new ShapeError(
      `reshape: ${format(x.shape)} (${x.size} elements) does not fit ${format(shape)}`,
    );
  const strides = reshapeStrides(x.shape, x.strides, target);
  if (!strides) return tidy(() => reshape(contiguous(x), target));
  const out = x.view(target, strides, x.offset);
  const before = x.shape;
  return record(out, { x }, {}, (dy) => ({ x: reshape(dy, before) }));
}

/** All axes from `from` on as one. */
export function flatten(x: Tensor, from = 0): Tensor {
  check.tensor('flatten', 'x', x);
  const start = axis('flatten', from, Math.max(1, x.rank));
  return reshape(x, [...x.shape.slice(0, start), numel(x.shape.slice(start))]);
}

/** The axes in another order. */
export function permute(x: Tensor, axes: readonly number[]): Tensor {
  check.tensor('permute', 'x', x);
  const order = axes.map((a) => axis('permute', a, x.rank));
  if (order.length !== x.rank || new Set(order).size !== x.rank)
    throw new ShapeError(
      `permute: ${format(axes)} is not an order of the ${x.rank} axes of ${format(x.shape)}`,
    );
  const out = x.view(
    order.map((a) => x.shape[a]!),
    order.map((a) => x.strides[a]!),
    x.offset,
  );
  return record(out, { x }, {}, (dy) => ({
    x: permute(
      dy,
      order.map((_, i) => order.indexOf(i)),
    ),
  }));
}

/** Two axes exchanged; by default the last two. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  check.tensor('transpose', 'x', x);
  const i = axis('transpose', a, x.rank);
  const j = axis('transpose', b, x.rank);
  const order = x.shape.map((_, k) => (k === i ? j : k === j ? i : k));
  return permute(x, order);
}

/** Axes of size 1 stretched to `shape` without copying; -1 keeps a size. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  check.tensor('expand', 'x', x);
  const lead = shape.length - x.rank;
  const target = shape.map((d, i) => (d === -1 && i >= lead ? x.shape[i - lead]! : d));
  if (lead < 0 || !sameShape(broadcastShapes('expand', x.shape, target), target))
    throw new ShapeError(
      `expand: ${format(x.shape)} does not stretch to ${format(shape)}; only axes of size 1 can`,
    );
  const out = x.view(target, broadcastStrides(x.shape, x.strides, target), x.offset);
  const before = x.shape;
  return record(out, { x }, {}, (dy) => ({ x: unbroadcast(dy, before) }));
}

/** A new axis of size 1. */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  check.tensor('unsqueeze', 'x', x);
  const at = axis('unsqueeze', dim, x.rank + 1);
  return reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
}

/** Without axis `dim`, which must have size 1. */
export function squeeze(x: Tensor, dim: number): Tensor {
  check.tensor('squeeze', 'x', x);
  const at = axis('squeeze', dim, x.rank);
  if (x.shape[at] !== 1)
    throw new ShapeError(
      `squeeze: axis ${dim} of ${format(x.shape)} has size ${x.shape[at]}, expected 1`,
    );
  return reshape(
    x,
    x.shape.filter((_, i) => i !== at),
  );
}

/** Elements [start, end) of one axis; negative bounds count from the end. */
export function slice(x: Tensor, dim: number, start: number, end: number = Infinity): Tensor {
  check.tensor('slice', 'x', x);
  const at = axis('slice', dim, x.rank);
  const length = x.shape[at]!;
  const bound = (v: number): number => Math.min(length, Math.max(0, v < 0 ? length + v : v));
  if (!Number.isInteger(start) || (end !== Infinity && !Number.isInteger(end)))
    throw new ShapeError(`slice: expected integer bounds, got ${start} and ${end}`);
  const from = bound(start);
  const count = Math.max(0, bound(end) - from);
  const shape = x.shape.map((d, i) => (i === at ? count : d));
  // where nothing is, an offset might point behind the bytes
  const skipped = numel(shape) === 0 ? 0 : from * x.strides[at]!;
  const out = x.view(shape, x.strides, x.offset + skipped);
  const before = x.shape;
  return record(out, { x }, {}, (dy) => {
    const dx = zeros(before, { dtype: dy.dtype, device: dy.device });
    kernels.copy(dy, slice(dx, at, from, from + count));
    return { x: dx };
  });
}

/** One index of one axis, which disappears. */
export function select(x: Tensor, dim: number, index: number): Tensor {
  check.tensor('select', 'x', x);
  const at = axis('select', dim, x.rank);
  const length = x.shape[at]!;
  const i = index < 0 ? index + length : index;
  if (!Number.isInteger(i) || i < 0 || i >= length)
    throw new ShapeError(
      `select: index ${index} is out of range for axis ${dim} of size ${length}`,
    );
  return tidy(() => squeeze(slice(x, at, i, i + 1), at));
}

/** x cut along one axis: into pieces of one size (the last may be shorter), or of the given sizes. Views. */
export function split(x: Tensor, sizes: number | readonly number[], dim = 0): Tensor[] {
  check.tensor('split', 'x', x);
  const at = axis('split', dim, x.rank);
  const length = x.shape[at]!;
  const pieces = typeof sizes === 'number' ? [] : [...sizes];
  if (typeof sizes === 'number') {
    check.integer('split', 'size', sizes, 1);
    for (let i = 0; i < length; i += sizes) pieces.push(Math.min(sizes, length - i));
  }
  const total = pieces.reduce((a, b) => a + b, 0);
  if (total !== length || pieces.some((p) => !Number.isSafeInteger(p) || p < 0))
    throw new ShapeError(
      `split: sizes ${format(pieces)} do not add up to ${length}, axis ${dim} of ${format(x.shape)}`,
    );
  let start = 0;
  return pieces.map((size) => slice(x, at, start, (start += size)));
}

/** Tensors joined along one axis; all other sizes equal. Copies. */
export function concat(tensors: readonly Tensor[], dim = 0): Tensor {
  const first = tensors[0];
  if (!first) throw new ShapeError('concat: expected at least one tensor');
  tensors.forEach((t, i) => check.tensor('concat', `tensors[${i}]`, t));
  const at = axis('concat', dim, first.rank);
  for (const t of tensors) {
    check.sameDtype('concat', first, t);
    if (t.rank !== first.rank || t.shape.some((d, i) => i !== at && d !== first.shape[i]))
      throw new ShapeError(
        `concat: shapes ${tensors.map((x) => format(x.shape)).join(', ')} differ outside axis ${dim}`,
      );
  }
  const sizes = tensors.map((t) => t.shape[at]!);
  const out = empty(
    first.shape.map((d, i) => (i === at ? sizes.reduce((a, b) => a + b, 0) : d)),
    first.dtype,
  );
  tidy(() => {
    let start = 0;
    tensors.forEach((t, i) => kernels.copy(t, slice(out, at, start, (start += sizes[i]!))));
  });
  const inputs = Object.fromEntries(tensors.map((t, i) => [`t${i}`, t]));
  return record(out, inputs, {}, (dy) => {
    let start = 0;
    return Object.fromEntries(
      sizes.map((size, i) => [`t${i}`, slice(dy, at, start, (start += size))]),
    );
  });
}

/** Tensors of one shape joined along a new axis. Copies. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError('stack: expected at least one tensor');
  return tidy(() =>
    concat(
      tensors.map((t) => unsqueeze(t, dim)),
      dim,
    ),
  );
}

/** The lower triangle of the last two axes: zero where column > row + diagonal. Copies. */
export function tril(x: Tensor, diagonal = 0): Tensor {
  check.tensor('tril', 'x', x);
  check.minRank('tril', x, 2);
  check.integer('tril', 'diagonal', diagonal, -Number.MAX_SAFE_INTEGER);
  if (!x.isContiguous) return tidy(() => tril(contiguous(x), diagonal));
  const out = empty(x.shape, x.dtype);
  kernels.tril(x, out, diagonal);
  return record(out, { x }, {}, (dy) => ({ x: tril(dy, diagonal) }));
}
