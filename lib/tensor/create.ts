// Tensors from numbers.
import { hasOtherDevices } from '../native/device.js';
import * as kernels from '../native/kernels.gen.js';
import { allocateArray, dtypes, isHalf } from './dtype.js';
import type { DType, TypedArray } from './dtype.js';
import { placeFor } from './device.js';
import type { DeviceOption } from './device.js';
import { DTypeError, ShapeError } from './errors.js';
import { checkShape, contiguousStrides, format, numel } from './shape.js';
import type { Shape } from './shape.js';
import { Storage } from './storage.js';
import { Tensor } from './tensor.js';

export interface TensorOptions {
  dtype?: DType;
  /** Where it lives: 'cpu', 'cuda', or 'auto', the GPU where there is one. By default that of `setDefaultDevice`, the CPU at first. */
  device?: DeviceOption;
  requiresGrad?: boolean;
}

export type NestedNumbers = number | boolean | readonly NestedNumbers[];

function checkOptions(op: string, options: TensorOptions): DType {
  const dtype = options.dtype ?? 'float32';
  if (!Object.hasOwn(dtypes, dtype))
    throw new DTypeError(
      `${op}: unknown dtype ${JSON.stringify(dtype)}; expected one of ${Object.keys(dtypes).join(', ')}`,
    );
  return dtype;
}

function finish(tensor: Tensor, options: TensorOptions): Tensor {
  return options.requiresGrad ? tensor.setRequiresGrad() : tensor;
}

/** Uninitialised elements, for kernels to fill. */
export function empty(
  shape: Shape,
  dtype: DType = 'float32',
  options: { device?: DeviceOption } = {},
): Tensor {
  const bytes = numel(shape) * dtypes[dtype].bytes;
  const { device } = options;
  const storage =
    device === undefined || (device === 'cpu' && !hasOtherDevices())
      ? Storage.allocate(bytes)
      : Storage.allocateOn(bytes, placeFor('empty', device));
  return new Tensor(storage, shape, contiguousStrides(shape), 0, dtype);
}

/** Uninitialised, contiguous, with the shape and dtype of `x`. */
export function emptyLike(x: Tensor, dtype: DType = x.dtype): Tensor {
  return empty(x.shape, dtype);
}

/** All elements equal `value`. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  const dtype = checkOptions('full', options);
  checkShape('full', shape);
  const out = empty([...shape], dtype, options);
  kernels.fill(out, value);
  return finish(out, options);
}

export function zeros(shape: Shape, options: TensorOptions = {}): Tensor {
  return full(shape, 0, options);
}

export function ones(shape: Shape, options: TensorOptions = {}): Tensor {
  return full(shape, 1, options);
}

/** start, start + step, ... below `end`. */
export function arange(start: number, end?: number, step = 1, options: TensorOptions = {}): Tensor {
  const from = end === undefined ? 0 : start;
  const to = end === undefined ? start : end;
  if (!Number.isFinite(from) || !Number.isFinite(to) || !Number.isFinite(step) || step === 0)
    throw new RangeError(
      `arange: expected finite bounds and a step other than 0, got (${from}, ${to}, ${step})`,
    );
  const count = Math.max(0, Math.ceil((to - from) / step));
  checkShape('arange', [count]);
  return tensor(
    Array.from({ length: count }, (_, i) => from + i * step),
    options,
  );
}

const arrayDTypes: [abstract new (...args: never[]) => TypedArray, DType][] = [
  [Float32Array, 'float32'],
  [Float64Array, 'float64'],
  [Int8Array, 'int8'],
  [Uint8Array, 'uint8'],
  [Int32Array, 'int32'],
  [BigInt64Array, 'int64'],
];

/**
 * A tensor from nested arrays (`tensor([[1, 2], [3, 4]])`), a number, or a typed array with a shape
 * (`tensor(new Float32Array(6), { shape: [2, 3] })`). Typed arrays keep their dtype unless one is given.
 */
export function tensor(
  values: NestedNumbers | TypedArray,
  options: TensorOptions & { shape?: Shape } = {},
): Tensor {
  if (ArrayBuffer.isView(values)) return fromArray(values, options);
  const shape: number[] = [];
  let level: NestedNumbers = values;
  while (Array.isArray(level)) {
    shape.push(level.length);
    if (level.length === 0) break;
    level = level[0] as NestedNumbers;
  }
  const flat: number[] = [];
  const visit = (value: NestedNumbers, depth: number): void => {
    if (Array.isArray(value)) {
      if (depth >= shape.length || value.length !== shape[depth])
        throw new ShapeError(
          `tensor: ragged nested arrays: expected ${depth < shape.length ? `${shape[depth]} values` : 'a number'} at depth ${depth}, got an array of ${value.length}`,
        );
      for (const item of value as readonly NestedNumbers[]) visit(item, depth + 1);
    } else {
      if (depth !== shape.length || (typeof value !== 'number' && typeof value !== 'boolean'))
        throw new ShapeError(
          `tensor: expected ${depth < shape.length ? 'an array' : 'a number'} at depth ${depth}, got ${typeof value}`,
        );
      flat.push(Number(value));
    }
  };
  visit(values, 0);
  const first = Array.isArray(values) ? (values as unknown[]).flat(8)[0] : values;
  const dtype = options.dtype ?? (typeof first === 'boolean' ? 'bool' : 'float32');
  checkOptions('tensor', { ...options, dtype });
  const target = options.shape ?? shape;
  const direct = isHalf(dtype) ? 'float32' : dtype;
  const array = allocateArray(direct, flat.length);
  if (array instanceof BigInt64Array) flat.forEach((v, i) => (array[i] = BigInt(Math.trunc(v))));
  else if (dtype === 'bool') flat.forEach((v, i) => (array[i] = v ? 1 : 0));
  else (array as Float32Array).set(flat);
  return fromArray(array, { ...options, dtype, shape: target }, direct);
}

function fromArray(
  values: ArrayBufferView,
  options: TensorOptions & { shape?: Shape },
  native?: DType,
): Tensor {
  const own = native ?? arrayDTypes.find(([type]) => values instanceof type)?.[1];
  if (!own)
    throw new DTypeError(
      `tensor: ${values.constructor.name} is not supported; use Float32Array, Float64Array, Int8Array, Uint8Array, Int32Array or BigInt64Array`,
    );
  const dtype = options.dtype ?? own;
  checkOptions('tensor', { ...options, dtype });
  const count = (values as TypedArray).length;
  const shape = [...(options.shape ?? [count])];
  checkShape('tensor', shape);
  if (numel(shape) !== count)
    throw new ShapeError(
      `tensor: shape ${format(shape)} needs ${numel(shape)} values, got ${count}`,
    );
  const raw = new Tensor(
    Storage.from(values, placeFor('tensor', options.device)),
    shape,
    contiguousStrides(shape),
    0,
    own,
  );
  if (dtype === own) return finish(raw, options);
  const out = empty(shape, dtype);
  kernels.copy(raw, out);
  raw.dispose();
  return finish(out, options);
}
