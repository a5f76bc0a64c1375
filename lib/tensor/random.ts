// Random tensors from a counter-based generator: a stream is a seed and a position, so a state is two numbers and
// nothing depends on threads or on the instruction set.
import * as kernels from '../native/kernels.gen.js';
import { empty } from './create.js';
import type { DeviceOption } from './device.js';
import type { DType } from './dtype.js';
import { DTypeError } from './errors.js';
import { checkShape, numel } from './shape.js';
import type { Shape } from './shape.js';
import type { Tensor } from './tensor.js';

export interface RandomOptions {
  dtype?: 'float32' | 'float64';
  /** The stream to draw from; the process-wide one by default. */
  generator?: Generator;
  /** Where the tensor lives, as in `tensor()`. */
  device?: DeviceOption;
}

/** A stream of random numbers: the same seed gives the same numbers everywhere. */
export class Generator {
  readonly seed: number;
  #position = 0;

  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new RangeError(`Generator: expected a seed from 0 to 2^53 - 1, got ${seed}`);
    this.seed = seed;
  }

  /** How many numbers have been drawn; set it to replay. */
  get position(): number {
    return this.#position;
  }
  set position(value: number) {
    this.#position = value;
  }

  /** Reserves `count` numbers and returns where they start (a multiple of 4, as the kernels want). */
  take(count: number): number {
    const start = this.#position;
    this.#position = start + Math.ceil(count / 4) * 4;
    return start;
  }
}

let shared = new Generator(0);

/** Restarts the process-wide stream. */
export function manualSeed(seed: number): void {
  shared = new Generator(seed);
}

/** Continues the process-wide stream where a saved run left it. */
export function restoreGenerator(seed: number, position: number): void {
  shared = new Generator(seed);
  shared.position = position;
}

export function defaultGenerator(): Generator {
  return shared;
}

function drawInto(op: string, shape: Shape, options: RandomOptions): [Tensor, Generator, number] {
  checkShape(op, shape);
  const dtype: DType = options.dtype ?? 'float32';
  if (dtype !== 'float32' && dtype !== 'float64')
    throw new DTypeError(`${op}: expected float32 or float64, got ${dtype as string}`);
  const generator = options.generator ?? shared;
  return [empty([...shape], dtype, options), generator, generator.take(numel(shape))];
}

/** Uniform in [low, high). */
export function rand(
  shape: Shape,
  options: RandomOptions & { low?: number; high?: number } = {},
): Tensor {
  const [out, generator, start] = drawInto('rand', shape, options);
  kernels.random_uniform(out, generator.seed, start, options.low ?? 0, options.high ?? 1);
  return out;
}

/** Normal with the given mean and standard deviation. */
export function randn(
  shape: Shape,
  options: RandomOptions & { mean?: number; std?: number } = {},
): Tensor {
  const [out, generator, start] = drawInto('randn', shape, options);
  kernels.random_normal(out, generator.seed, start, options.mean ?? 0, options.std ?? 1);
  return out;
}
