// Shapes and strides as plain numbers: pure functions, no tensors.
import { ShapeError } from './errors.js';

export type Shape = readonly number[];

export function numel(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** n zeros. This runs several times per op, where Array.from costs more than the op's own checks. */
function blank(n: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < n; i++) out.push(0);
  return out;
}

export function contiguousStrides(shape: Shape): number[] {
  const strides = blank(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

/** Axes of size 1 may have any stride. */
export function isContiguous(shape: Shape, strides: Shape): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false;
    expected *= shape[i]!;
  }
  return true;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** `[2, 3]` as text. */
export function format(shape: Shape): string {
  return `[${shape.join(', ')}]`;
}

/** A shape from the outside: non-negative integers whose product is exact. */
export function checkShape(op: string, shape: Shape): void {
  if (!Array.isArray(shape))
    throw new ShapeError(`${op}: expected a shape (array of sizes), got ${typeof shape}`);
  for (const d of shape)
    if (!Number.isSafeInteger(d) || d < 0)
      throw new RangeError(
        `${op}: sizes must be integers from 0 to 2^53 - 1, got ${format(shape)}`,
      );
  if (shape.length > 8) throw new ShapeError(`${op}: at most 8 axes, got ${shape.length}`);
  let n = 1;
  for (const d of shape) {
    n *= d;
    if (n > Number.MAX_SAFE_INTEGER / 8 || (d > 0 && !Number.isFinite(n)))
      throw new RangeError(`${op}: shape ${format(shape)} has more elements than can be addressed`);
  }
}

/** An axis index in [-rank, rank) as one in [0, rank). */
export function axis(op: string, dim: number, rank: number): number {
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank)
    throw new ShapeError(`${op}: axis ${dim} is out of range for a tensor of rank ${rank}`);
  return dim < 0 ? dim + rank : dim;
}

/** The shape two shapes broadcast to (aligned at the last axis; 1 stretches). */
export function broadcastShapes(op: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  const out = blank(rank);
  for (let i = 1; i <= rank; i++) {
    const x = a[a.length - i] ?? 1;
    const y = b[b.length - i] ?? 1;
    if (x !== y && x !== 1 && y !== 1)
      throw new ShapeError(
        `${op}: shapes ${format(a)} and ${format(b)} do not broadcast (${x} against ${y} at axis ${-i}); sizes must be equal or 1`,
      );
    out[rank - i] = x === 1 ? y : x;
  }
  return out;
}

/** Strides that make a view of `shape` look like `target`: 0 where an axis is stretched or added. */
export function broadcastStrides(shape: Shape, strides: Shape, target: Shape): number[] {
  const lead = target.length - shape.length;
  return target.map((_, i) => (i < lead || shape[i - lead] === 1 ? 0 : strides[i - lead]!));
}

/** Strides of a view with another shape of the same elements, or null when only a copy can have it. */
export function reshapeStrides(shape: Shape, strides: Shape, target: Shape): number[] | null {
  if (numel(shape) === 0 || isContiguous(shape, strides)) return contiguousStrides(target);
  const old: [size: number, stride: number][] = [];
  shape.forEach((d, i) => {
    if (d !== 1) old.push([d, strides[i]!]);
  });
  const out = blank(target.length);
  let o = old.length - 1;
  let t = target.length - 1;
  while (o >= 0) {
    // group old axes that are one run of memory, and fill target axes from it
    let run = old[o]![0];
    const step = old[o]![1];
    while (o > 0 && old[o - 1]![1] === old[o]![1] * old[o]![0]) {
      o--;
      run *= old[o]![0];
    }
    o--;
    let filled = 1;
    while (t >= 0 && filled < run) {
      out[t] = filled * step;
      filled *= target[t]!;
      t--;
    }
    if (filled !== run) return null;
  }
  return out;
}
