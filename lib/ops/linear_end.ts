// What linear layers of every kind do with their sums, inside the kernel: gate ⊙ activation(x Wᵀ + b) + residual.
import { contiguous } from './cast.js';
import * as check from './check.js';
import type { Tensor } from '../tensor/tensor.js';

/** The activations that linear() can apply on the way out, with their numbers in native/core/product.h. */
export const activations = { none: 0, gelu_tanh: 1, gelu: 2, silu: 3, relu: 4 } as const;
export type Activation = keyof typeof activations;
const activationNames: readonly Activation[] = Object.keys(activations) as Activation[];

export interface LinearOptions {
  /** Applied to x Wᵀ + b. */
  activation?: Activation;
  /** (…, N), multiplies what the activation returns: with silu on the other side, SwiGLU. */
  gate?: Tensor | null;
  /** (…, N), added last. */
  residual?: Tensor | null;
}

export const linearOptionNames: readonly (keyof LinearOptions)[] = [
  'activation',
  'gate',
  'residual',
];

/** Checks that gate and residual are like a result of n outputs for x. */
export function checkLinearOptions(op: string, options: LinearOptions, x: Tensor, n: number): void {
  check.oneOf(op, 'activation', options.activation ?? 'none', activationNames);
  for (const name of ['gate', 'residual'] as const) {
    const t = options[name];
    if (!t) continue;
    check.tensor(op, name, t);
    check.shape(op, name, t, [...x.shape.slice(0, -1), n]);
    check.dtype(op, name, t, x.dtype);
  }
}

/** What kernels take: the number of the activation, and dense matrices (rows, N), which belong to the caller. */
export interface KernelEnd {
  readonly activation: number;
  readonly gate: Tensor | null;
  readonly residual: Tensor | null;
}

/** fn(options as kernels take them), by views made directly, without autograd: this runs for every layer of every decoded token. */
export function withKernelEnd(
  options: LinearOptions,
  rows: number,
  n: number,
  fn: (end: KernelEnd) => void,
): void {
  const matrix = (t: Tensor | null | undefined): Tensor | null => {
    if (!t) return null;
    const dense = t.isContiguous ? t : contiguous(t.detach());
    const flat = dense.view([rows, n], [n, 1], dense.offset);
    if (dense !== t) dense.dispose();
    return flat;
  };
  const gate = matrix(options.gate);
  const residual = matrix(options.residual);
  fn({ activation: activations[options.activation ?? 'none'], gate, residual });
  gate?.dispose();
  residual?.dispose();
}
