// What ops ask of their arguments, and the messages users see when they do not get it.
import { isFloat } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import { DTypeError, OptionError, ShapeError } from '../tensor/errors.js';
import { format } from '../tensor/shape.js';
import { Tensor } from '../tensor/tensor.js';

/** A live tensor (JavaScript callers may pass anything). */
export function tensor(op: string, name: string, value: unknown): asserts value is Tensor {
  if (!(value instanceof Tensor))
    throw new TypeError(
      `${op}: ${name} must be a Tensor, got ${value === null ? 'null' : typeof value}; make one with tensor(values)`,
    );
  value.checkAlive();
}

export function floatDtype(op: string, x: Tensor): void {
  if (!isFloat(x.dtype))
    throw new DTypeError(
      `${op}: expected a floating-point tensor, got ${x.dtype}; convert with cast(x, 'float32')`,
    );
}

export function indexDtype(op: string, name: string, x: Tensor): void {
  if (x.dtype !== 'int32' && x.dtype !== 'int64')
    throw new DTypeError(
      `${op}: ${name} must be int32 or int64, got ${x.dtype}; convert with cast(${name}, 'int32')`,
    );
}

export function dtype(op: string, name: string, x: Tensor, expected: DType): void {
  if (x.dtype !== expected)
    throw new DTypeError(`${op}: ${name} must be ${expected}, got ${x.dtype}`);
}

export function sameDtype(op: string, a: Tensor, b: Tensor, names = 'the tensors'): void {
  if (a.dtype !== b.dtype)
    throw new DTypeError(
      `${op}: ${names} have different dtypes: ${a.dtype} and ${b.dtype}; cast one of them`,
    );
}

export function rank(op: string, name: string, x: Tensor, expected: number, letters: string): void {
  if (x.rank !== expected)
    throw new ShapeError(`${op}: ${name} must have shape ${letters}, got ${format(x.shape)}`);
}

export function minRank(op: string, x: Tensor, least: number): void {
  if (x.rank < least)
    throw new ShapeError(`${op}: expected at least ${least} axes, got shape ${format(x.shape)}`);
}

export function shape(op: string, name: string, x: Tensor, expected: readonly number[]): void {
  if (x.rank !== expected.length || expected.some((n, i) => x.shape[i] !== n))
    throw new ShapeError(
      `${op}: ${name} must have shape ${format(expected)}, got ${format(x.shape)}`,
    );
}

/** `parameter` is a vector along the last axis of x. */
export function lastDim(op: string, name: string, x: Tensor, parameter: Tensor): void {
  const width = x.shape.at(-1);
  if (parameter.rank !== 1 || parameter.shape[0] !== width)
    throw new ShapeError(
      `${op}: ${name} must have shape [${width ?? ''}] (the last axis of ${format(x.shape)}), got ${format(parameter.shape)}`,
    );
}

export function number(
  op: string,
  name: string,
  value: unknown,
  low: number = -Infinity,
  high: number = Infinity,
): asserts value is number {
  if (typeof value !== 'number' || !(value >= low && value <= high))
    throw new OptionError(
      `${op}: ${name} must be a number from ${low} to ${high}, got ${String(value)}`,
    );
}

export function integer(
  op: string,
  name: string,
  value: unknown,
  low: number,
  high: number = Number.MAX_SAFE_INTEGER,
): asserts value is number {
  if (!Number.isSafeInteger(value) || (value as number) < low || (value as number) > high)
    throw new OptionError(
      `${op}: ${name} must be an integer from ${low} to ${high}, got ${String(value)}`,
    );
}

export function oneOf<T extends string>(
  op: string,
  name: string,
  value: string,
  allowed: readonly T[],
): asserts value is T {
  if (!(allowed as readonly string[]).includes(value))
    throw new OptionError(
      `${op}: ${name} must be one of ${allowed.join(', ')}; got ${JSON.stringify(value)}`,
    );
}

/** Options misspelled or unknown are refused, never ignored. */
export function knownOptions(op: string, options: object, allowed: readonly string[]): void {
  for (const key of Object.keys(options))
    if (!allowed.includes(key))
      throw new OptionError(
        `${op}: unknown option ${JSON.stringify(key)}; expected one of ${allowed.join(', ')}`,
      );
}

/** The kernels' own limit, restated: element types they compute with. */
export function isComputeFloat(x: Tensor): boolean {
  return x.dtype === 'float32' || x.dtype === 'float64';
}
