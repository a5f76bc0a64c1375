// Sums, means, extrema and their positions over chosen axes.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import type { TensorArg } from '../native/load.js';
import { empty, zeros } from '../tensor/create.js';
import { isFloat, isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { axis, format, numel } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { comparable, computable, restore } from './compute_dtype.js';
import { abs, add, div, equal, exp, log, mul, square, sub, where } from './elementwise.js';
import { scatterAdd } from './index_select.js';
import { expand, reshape, transpose } from './view.js';

export interface ReduceOptions {
  /** Axes to reduce; all by default. */
  dim?: number | readonly number[];
  /** Leave reduced axes with size 1. */
  keepdim?: boolean;
}

interface Plan {
  axes: Set<number>;
  kept: number[];
  shape: number[]; // of the result
  keepShape: number[]; // with reduced axes of size 1
  count: number; // elements per result
}

function plan(op: string, x: Tensor, options: ReduceOptions): Plan {
  check.tensor(op, 'x', x);
  check.knownOptions(op, options, ['dim', 'keepdim', 'correction']);
  const dims = options.dim === undefined ? x.shape.map((_, i) => i) : [options.dim].flat();
  const axes = new Set((dims as number[]).map((d) => axis(op, d, x.rank)));
  if (axes.size !== dims.length)
    throw new ShapeError(`${op}: an axis is named twice in ${format(dims as number[])}`);
  const kept = x.shape.map((_, i) => i).filter((i) => !axes.has(i));
  const keepShape = x.shape.map((d, i) => (axes.has(i) ? 1 : d));
  return {
    axes,
    kept,
    keepShape,
    shape: options.keepdim ? keepShape : kept.map((i) => x.shape[i]!),
    count: numel([...axes].map((i) => x.shape[i]!)),
  };
}

/** The kernel on a view whose reduced axes come last, then the wanted shape. */
function run(kernel: (x: TensorArg, out: TensorArg) => void, x: Tensor, p: Plan): Tensor {
  return tidy(() => {
    const order = [...p.kept, ...[...p.axes].toSorted((a, b) => a - b)];
    const view = x.view(
      order.map((i) => x.shape[i]!),
      order.map((i) => x.strides[i]!),
      x.offset,
    );
    const out = empty(
      p.kept.map((i) => x.shape[i]!),
      x.dtype,
    );
    kernel(view, out);
    return reshape(out, p.shape);
  });
}

/** Sum over the axes `dim` (all by default). Integers and bool are summed as int64. */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const p = plan('sum', x, options);
  if (isHalf(x.dtype)) return tidy(() => restore(sum(computable(x), options), x.dtype));
  if (!isFloat(x.dtype)) return tidy(() => run(kernels.reduce_sum, cast(x, 'int64'), p));
  const out = run(kernels.reduce_sum, x, p);
  const { shape } = x;
  return record(out, { x }, {}, (dy) => ({ x: expand(reshape(dy, p.keepShape), shape) }));
}

/** Mean over the axes `dim` (all by default). */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const p = plan('mean', x, options);
  check.floatDtype('mean', x);
  return tidy(() => mul(sum(x, options), 1 / p.count));
}

/** Variance over the axes `dim`; divides by count - correction (default 1, the unbiased estimate). */
export function variance(x: Tensor, options: ReduceOptions & { correction?: number } = {}): Tensor {
  const p = plan('variance', x, options);
  check.floatDtype('variance', x);
  const { correction = 1, ...rest } = options;
  return tidy(() => {
    const centred = sub(x, mean(x, { ...rest, keepdim: true }));
    return mul(sum(square(centred), rest), 1 / Math.max(0, p.count - correction));
  });
}

function extremum(
  op: string,
  kernel: (x: TensorArg, out: TensorArg) => void,
  x: Tensor,
  options: ReduceOptions,
): Tensor {
  const p = plan(op, x, options);
  if (p.count === 0)
    throw new ShapeError(
      `${op}: no elements to compare along ${format([...p.axes])} of ${format(x.shape)}`,
    );
  if (isHalf(x.dtype))
    return tidy(() => restore(extremum(op, kernel, computable(x), options), x.dtype));
  if (!isFloat(x.dtype) && x.dtype !== 'int32' && x.dtype !== 'int64')
    return tidy(() => cast(run(kernel, cast(x, 'int32'), p), x.dtype));
  const out = run(kernel, x, p);
  if (!isFloat(x.dtype)) return out;
  const { shape } = x;
  return record(out, { x }, { x, out }, (dy, s) => {
    // equal shares for all elements that reach the extremum
    const hit = cast(equal(s.x, reshape(s.out, p.keepShape)), dy.dtype);
    const share = div(
      reshape(dy, p.keepShape),
      reshape(sum(hit, { dim: [...p.axes], keepdim: true }), p.keepShape),
    );
    return { x: mul(hit, expand(share, shape)) };
  });
}

/** Largest element over the axes `dim`; NaN wins. The gradient is shared among ties. */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremum('max', kernels.reduce_max, x, options);
}

/** Smallest element over the axes `dim`; NaN wins. The gradient is shared among ties. */
export function min(x: Tensor, options: ReduceOptions = {}): Tensor {
  return extremum('min', kernels.reduce_min, x, options);
}

/** int64 index of the largest element along one axis; the first on ties. */
export function argmax(x: Tensor, dim = -1): Tensor {
  check.tensor('argmax', 'x', x);
  check.minRank('argmax', x, 1);
  const at = axis('argmax', dim, x.rank);
  if (x.shape[at] === 0) throw new ShapeError(`argmax: axis ${dim} of ${format(x.shape)} is empty`);
  return tidy(() => {
    const last = comparable(transpose(x.detach(), at, -1));
    const out = empty(last.shape.slice(0, -1), 'int64');
    kernels.argmax(last, out);
    // the axes that moved behind `at` come back in order
    const order = x.shape.map((_, i) => i).filter((i) => i !== at);
    const moved = x.shape
      .map((_, i) => (i === at ? x.rank - 1 : i === x.rank - 1 ? at : i))
      .slice(0, -1);
    return contiguous(
      out.view(
        order.map((i) => out.shape[moved.indexOf(i)]!),
        order.map((i) => out.strides[moved.indexOf(i)]!),
        0,
      ),
    );
  });
}

/** The k largest along the last axis, in descending order, and their int64 positions. (…, n) → (…, k) twice */
export function topk(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  check.tensor('topk', 'x', x);
  check.minRank('topk', x, 1);
  check.integer('topk', 'k', k, 0, x.shape.at(-1)!);
  if (!check.isComputeFloat(x)) {
    return tidy(() => {
      const result = topk(comparable(x), k);
      return { values: cast(result.values, x.dtype), indices: result.indices };
    });
  }
  return tidy(() => {
    const shape = [...x.shape.slice(0, -1), k];
    const values = empty(shape, x.dtype);
    const indices = empty(shape, 'int64');
    kernels.topk(contiguous(x.detach()), values, indices);
    const before = x.shape;
    record(values, { x }, { indices }, (dy, s) => ({
      x: scatterAdd(zeros(before, { dtype: dy.dtype, device: dy.device }), -1, s.indices, dy),
    }));
    return { values, indices };
  });
}

/** ln Σ e^x over the axes `dim`, without overflow. */
export function logsumexp(x: Tensor, options: ReduceOptions = {}): Tensor {
  const p = plan('logsumexp', x, options);
  check.floatDtype('logsumexp', x);
  return tidy(() => {
    const top = max(x.detach(), { dim: [...p.axes], keepdim: true });
    const shift = where(equal(abs(top), Infinity), 0, top);
    const total = log(sum(exp(sub(x, shift)), { dim: [...p.axes], keepdim: true }));
    return reshape(add(total, shift), p.shape);
  });
}
