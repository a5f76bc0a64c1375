// Linear: y = x Wᵀ + b, in float or with int8 or int4 weights. GPT-2's Conv1D is the same layer with its weight stored
// transposed.
import { productDtype } from '../autograd/modes.js';
import { willRecord } from '../autograd/record.js';
import { cast, contiguous } from '../ops/cast.js';
import * as check from '../ops/check.js';
import { linearPacked, packLinear, unpackLinear } from '../ops/linear_packed.js';
import { add, mul } from '../ops/elementwise.js';
import { linear } from '../ops/matmul.js';
import { linearOptionNames } from '../ops/linear_end.js';
import type { LinearOptions } from '../ops/linear_end.js';
import { linearW4A16, packI4, unpackI4 } from '../ops/matmul_i4.js';
import { linearW8A16, linearW8A8, packI8, unpackI8 } from '../ops/matmul_i8.js';
import { transpose } from '../ops/view.js';
import { empty } from '../tensor/create.js';
import { RootsError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { uniform } from './init.js';
import type { ParameterOptions } from './init.js';
import { Module } from './module.js';

export type Int8Scheme = 'w8a8' | 'w8a16';
export type QuantScheme = Int8Scheme | 'w4a16';

interface QuantizedWeight {
  readonly scheme: QuantScheme;
  readonly packed: Tensor;
  /** Per output; int4 weights have theirs within `packed`. */
  readonly scale: Tensor | null;
  /** Inputs that share a scale; all of them for int8. */
  readonly group: number;
}

export interface LinearInit {
  weight: Tensor;
  bias?: Tensor | null;
  /** The weight is (in, out), as GPT-2 stores it. */
  conv1d?: boolean;
}

export interface LinearParameterOptions extends ParameterOptions {
  /** Default true. */
  bias?: boolean;
}

/** The initial values of torch.nn.Linear: weight and bias uniform in ±1/√in. */
function initialValues(
  inputs: number,
  outputs: number,
  options: LinearParameterOptions,
): LinearInit {
  check.integer('Linear', 'inFeatures', inputs, 1);
  check.integer('Linear', 'outFeatures', outputs, 1);
  check.knownOptions('Linear', options, ['bias', 'generator', 'dtype']);
  const { bias = true, generator = defaultGenerator(), dtype = 'float32' } = options;
  const bound = 1 / Math.sqrt(inputs);
  const make = (shape: number[]): Tensor =>
    uniform(empty(shape, dtype), { low: -bound, high: bound, generator });
  return { weight: make([outputs, inputs]), bias: bias ? make([outputs]) : null };
}

export class Linear extends Module {
  readonly conv1d: boolean;
  #weight: Tensor | null;
  /** The float weight in the form that products read, instead of `#weight`. */
  #packed: Tensor | null = null;
  #bias: Tensor | null;
  #quantized: QuantizedWeight | null = null;
  #shape: readonly [outputs: number, inputs: number];
  /** Sees every input: calibration collects activations here. */
  observer: ((x: Tensor) => void) | null = null;

  /** A new layer with torch.nn.Linear's initial values. */
  constructor(inFeatures: number, outFeatures: number, options?: LinearParameterOptions);
  /** A layer of given parameters, which it takes over. */
  constructor(init: LinearInit);
  constructor(
    first: LinearInit | number,
    outFeatures: number = 0,
    options: LinearParameterOptions = {},
  ) {
    super();
    const init = typeof first === 'number' ? initialValues(first, outFeatures, options) : first;
    check.tensor('Linear', 'weight', init?.weight);
    check.rank('Linear', 'weight', init.weight, 2, '(out, in)');
    this.conv1d = init.conv1d ?? false;
    this.#weight = this.register('weight', init.weight);
    this.#bias = init.bias ? this.register('bias', init.bias) : null;
    const [a, b] = init.weight.shape as [number, number];
    this.#shape = this.conv1d ? [b, a] : [a, b];
  }

  get outFeatures(): number {
    return this.#shape[0];
  }
  get inFeatures(): number {
    return this.#shape[1];
  }
  get bias(): Tensor | null {
    return this.#bias;
  }
  /** How the weight is quantized, or null for float weights. */
  get scheme(): QuantScheme | null {
    return this.#quantized?.scheme ?? null;
  }

  /** The float parameter: (out, in), or (in, out) for a Conv1D. */
  get weight(): Tensor {
    this.materialize();
    if (!this.#weight)
      throw new RootsError(
        'ERR_MODULE',
        `Linear: the weight is quantized (${this.scheme}); there is no float weight`,
      );
    return this.#weight;
  }

  /** gate ⊙ activation(x Wᵀ + b) + residual: x (…, in), gate and residual (…, out) → (…, out) */
  forward(x: Tensor, options: LinearOptions = {}): Tensor {
    check.knownOptions('Linear', options, linearOptionNames);
    this.observer?.(x);
    return this.#quantized && willRecord(options.gate, options.residual)
      ? this.#separately(x, options)
      : this.#product(x, options);
  }

  /** Whether forward(x) is recorded for backward(). */
  records(x: Tensor): boolean {
    return this.#quantized === null && willRecord(x, this.#weight, this.#bias);
  }

  /** Quantized products have no gradient, the rest may have one. */
  #separately(x: Tensor, { activation = 'none', gate, residual }: LinearOptions): Tensor {
    return tidy(() => {
      let y = this.#product(x, { activation });
      if (gate) y = mul(y, gate);
      return residual ? add(y, residual) : y;
    });
  }

  #product(x: Tensor, options: LinearOptions): Tensor {
    const { outFeatures: outputs } = this;
    // object literals: a spread costs more than the call of a small kernel, for every layer of every decoded token
    const { activation = 'none', gate = null, residual = null } = options;
    if (this.#quantized) {
      const { scheme, packed, scale, group } = this.#quantized;
      if (scheme === 'w4a16')
        return linearW4A16(x, packed, this.#bias, { outputs, group, activation, gate, residual });
      return (scheme === 'w8a8' ? linearW8A8 : linearW8A16)(x, packed, scale!, this.#bias, options);
    }
    if (this.#packed) {
      const packed = this.#packed;
      const same = packed.dtype === 'bfloat16' || productDtype().endsWith('float32');
      if (x.dtype === 'float32' && same && !willRecord(x, this.#bias, gate, residual))
        return linearPacked(x, packed, this.#bias, { outputs, activation, gate, residual });
    }
    const { weight } = this;
    if (!this.conv1d) return linear(x, weight, this.#bias, options);
    return tidy(() => linear(x, transpose(weight), this.#bias, options));
  }

  /** Stores the weight in bfloat16 for inference; inputs, bias and results stay float32. */
  storeBfloat16(): void {
    if (this.#quantized) return;
    const wasPacked = this.#packed !== null;
    const { weight } = this;
    tidy(() => {
      // in the order (out, in), which few rows read best
      const dense = contiguous(this.conv1d ? transpose(weight.detach()) : weight.detach());
      const stored = cast(dense, 'bfloat16');
      weight.setData(this.conv1d ? transpose(stored) : stored);
    });
    if (wasPacked) this.pack();
  }

  /**
   * Keeps the float weight in the form that products on the CPU read, and drops the other: no product has to pack it again. Whoever
   * asks for the weight or the parameters, to train, save or compress, gets it back. Nothing happens to quantized weights, to those
   * that are trained, and on other devices.
   */
  pack(): void {
    const weight = this.#weight;
    if (!weight || weight.requiresGrad || weight.device !== 'cpu') return;
    if (weight.dtype !== 'float32' && weight.dtype !== 'bfloat16') return;
    const packed = untracked(() =>
      tidy(() => packLinear(this.conv1d ? transpose(weight.detach()) : weight.detach())),
    );
    this.#packed = this.replaceAs('weight', 'packed', packed);
    this.#weight = null;
  }

  /** Whether pack() keeps the weight in its own form. */
  get isPacked(): boolean {
    return this.#packed !== null;
  }

  override numParameters(): number {
    // panels are padded
    if (this.#packed || this.#quantized)
      return this.outFeatures * this.inFeatures + (this.#bias?.size ?? 0);
    return super.numParameters();
  }

  protected override materialize(): void {
    const packed = this.#packed;
    if (!packed) return;
    this.#packed = null;
    this.#weight = this.replaceAs(
      'packed',
      'weight',
      untracked(() =>
        tidy(() => {
          const matrix = unpackLinear(packed, this.outFeatures, this.inFeatures);
          return this.conv1d && matrix.dtype === 'float32'
            ? contiguous(transpose(matrix))
            : this.conv1d
              ? transpose(matrix)
              : matrix;
        }),
      ),
    );
  }

  /** (out, in), dense; belongs to the caller. */
  matrix(): Tensor {
    return tidy(() =>
      contiguous(this.conv1d ? transpose(this.weight.detach()) : this.weight.detach()),
    );
  }

  /** New float parameters; (out, in) whatever the storage order. Takes over the tensors. */
  setMatrix(matrix: Tensor, bias: Tensor | null = this.#bias): void {
    this.materialize();
    const stored = this.conv1d ? transpose(matrix) : matrix;
    if (stored !== matrix) matrix.dispose();
    this.#shape = this.conv1d
      ? [stored.shape[1]!, stored.shape[0]!]
      : [stored.shape[0]!, stored.shape[1]!];
    this.replace('weight', stored);
    this.#weight = stored;
    if (bias !== this.#bias) {
      this.replace('bias', bias);
      this.#bias = bias;
    }
  }

  /** Exchanges the float weight for int8 (out, in) with a scale per output. Takes over both tensors. */
  setInt8(q: Tensor, scale: Tensor, scheme: Int8Scheme): void {
    this.#setQuantized(q, { scheme, packed: packI8(q), scale, group: q.shape[1]! });
  }

  /** Exchanges the float weight for int4 values (out, in) with a scale (out, ⌈in / group⌉). Takes over both tensors. */
  setInt4(q: Tensor, scale: Tensor, group: number): void {
    const packed = packI4(q, scale, { group });
    scale.dispose();
    this.#setQuantized(q, { scheme: 'w4a16', packed, scale: null, group });
  }

  #setQuantized(q: Tensor, weight: QuantizedWeight): void {
    this.materialize();
    this.#shape = [q.shape[0]!, q.shape[1]!];
    q.dispose();
    this.replace('weight', null);
    this.#weight = null;
    this.#quantized = weight;
    this.register('packed', weight.packed);
    if (weight.scale) this.register('scale', weight.scale);
  }

  /** The quantized values (out, in) in int8, unpacked for saving, and their scale, which belong to the caller; null for float weights. */
  quantized(): { q: Tensor; scale: Tensor; scheme: QuantScheme; group: number } | null {
    if (!this.#quantized) return null;
    const { packed, scale, scheme, group } = this.#quantized;
    const [n, k] = this.#shape;
    const int4 = scheme === 'w4a16';
    const values = int4
      ? unpackI4(packed, n, k, { group })
      : { q: unpackI8(packed, n, k), scale: scale!.detach() };
    return { ...values, scheme, group };
  }

  /** A layer that shares this one's bytes; changing one does not change the other. */
  share(): Linear {
    if (this.#quantized)
      throw new RootsError(
        'ERR_MODULE',
        'Linear: quantized layers cannot be shared; compress from the float model',
      );
    return new Linear({
      weight: this.weight.detach(),
      bias: this.#bias?.detach() ?? null,
      conv1d: this.conv1d,
    });
  }
}
