// Initial values by the names and formulas of torch.nn.init. Each overwrites a tensor in place and returns it; the generator is the
// process-wide one unless given.
import * as kernels from '../native/kernels.gen.js';
import { OptionError, ShapeError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

/** How modules make the parameters that they are not given. */
export interface ParameterOptions {
  /** Where initial values come from; the process-wide one by default. */
  generator?: Generator;
  /** Default float32. */
  dtype?: 'float32' | 'float64';
}

/** Inputs and outputs of a weight (out, in, …). */
function fans(t: Tensor): { fanIn: number; fanOut: number } {
  if (t.rank < 2)
    throw new ShapeError(`init: fan in and out need two axes or more, got ${format(t.shape)}`);
  const rest = t.shape.slice(2).reduce((a, d) => a * d, 1);
  return { fanIn: t.shape[1]! * rest, fanOut: t.shape[0]! * rest };
}

export function constant(t: Tensor, value: number): Tensor {
  kernels.fill(t, value);
  return t;
}

export function normal(
  t: Tensor,
  options: { mean?: number; std?: number; generator?: Generator } = {},
): Tensor {
  const g = options.generator ?? defaultGenerator();
  kernels.random_normal(t, g.seed, g.take(t.size), options.mean ?? 0, options.std ?? 1);
  return t;
}

export function uniform(
  t: Tensor,
  options: { low?: number; high?: number; generator?: Generator } = {},
): Tensor {
  const g = options.generator ?? defaultGenerator();
  kernels.random_uniform(t, g.seed, g.take(t.size), options.low ?? 0, options.high ?? 1);
  return t;
}

/** Glorot & Bengio 2010: uniform in ±gain √(6 / (fanIn + fanOut)). */
export function xavierUniform(
  t: Tensor,
  options: { gain?: number; generator?: Generator } = {},
): Tensor {
  const { fanIn, fanOut } = fans(t);
  const bound = (options.gain ?? 1) * Math.sqrt(6 / (fanIn + fanOut));
  return uniform(t, { ...options, low: -bound, high: bound });
}

/** Glorot & Bengio 2010: normal with std gain √(2 / (fanIn + fanOut)). */
export function xavierNormal(
  t: Tensor,
  options: { gain?: number; generator?: Generator } = {},
): Tensor {
  const { fanIn, fanOut } = fans(t);
  return normal(t, { ...options, std: (options.gain ?? 1) * Math.sqrt(2 / (fanIn + fanOut)) });
}

/** He et al., arXiv 1502.01852: uniform in ±gain √(3 / fan), gain √2 for ReLU. */
export function kaimingUniform(
  t: Tensor,
  options: { mode?: 'fanIn' | 'fanOut'; gain?: number; generator?: Generator } = {},
): Tensor {
  const bound = (options.gain ?? Math.SQRT2) * Math.sqrt(3 / fans(t)[options.mode ?? 'fanIn']);
  return uniform(t, { ...options, low: -bound, high: bound });
}

/** He et al., arXiv 1502.01852: normal with std gain / √fan, gain √2 for ReLU. */
export function kaimingNormal(
  t: Tensor,
  options: { mode?: 'fanIn' | 'fanOut'; gain?: number; generator?: Generator } = {},
): Tensor {
  const std = (options.gain ?? Math.SQRT2) / Math.sqrt(fans(t)[options.mode ?? 'fanIn']);
  return normal(t, { ...options, std });
}

export type InitName =
  | 'xavierUniform'
  | 'xavierNormal'
  | 'kaimingUniform'
  | 'kaimingNormal'
  | 'normal'
  | 'uniform';
type Initialiser = (t: Tensor, options: { generator?: Generator }) => Tensor;
const named: Record<InitName, Initialiser> = {
  xavierUniform,
  xavierNormal,
  kaimingUniform,
  kaimingNormal,
  normal,
  uniform,
};

/** An initialiser by name. */
export function initialise(t: Tensor, name: InitName, generator?: Generator): Tensor {
  if (!Object.hasOwn(named, name))
    throw new OptionError(
      `init: unknown initialiser ${JSON.stringify(name)}; expected one of ${Object.keys(named).join(', ')}`,
    );
  return named[name](t, generator ? { generator } : {});
}
