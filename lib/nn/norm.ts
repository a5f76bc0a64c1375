// LayerNorm and RMSNorm as modules.
import * as check from '../ops/check.js';
import { layerNorm } from '../ops/layer_norm.js';
import { rmsNorm } from '../ops/rms_norm.js';
import { ones, zeros } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { Module } from './module.js';

export interface NormOptions {
  /** Added to the variance, or to the mean of squares. Default 1e-5 (LayerNorm), 1e-6 (RMSNorm). */
  eps?: number;
  /** LayerNorm only. Default true. */
  bias?: boolean;
  /** Default float32. */
  dtype?: 'float32' | 'float64';
}

/** layerNorm() over the last axis, with a weight and a bias to train. */
export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly eps: number;

  /** Weight 1, bias 0. */
  constructor(width: number, options?: NormOptions);
  /** Of given parameters (width), which the module takes over. */
  constructor(weight: Tensor, bias: Tensor | null, eps: number);
  constructor(first: Tensor | number, second: Tensor | NormOptions | null = {}, eps = 1e-5) {
    super();
    if (typeof first === 'number') {
      const options = second as NormOptions;
      check.integer('LayerNorm', 'width', first, 1);
      check.knownOptions('LayerNorm', options, ['eps', 'bias', 'dtype']);
      const { bias = true, dtype = 'float32' } = options;
      this.weight = ones([first], { dtype });
      this.bias = bias ? zeros([first], { dtype }) : null;
      this.eps = options.eps ?? 1e-5;
    } else {
      check.tensor('LayerNorm', 'weight', first);
      this.weight = first;
      this.bias = second as Tensor | null;
      this.eps = eps;
    }
    check.number('LayerNorm', 'eps', this.eps, 0);
    this.register('weight', this.weight);
    if (this.bias) this.register('bias', this.bias);
  }

  /** (…, width) → (…, width) */
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }

  share(): LayerNorm {
    return new LayerNorm(this.weight.detach(), this.bias?.detach() ?? null, this.eps);
  }
}

/** rmsNorm() over the last axis, with a weight to train. */
export class RMSNorm extends Module {
  readonly weight: Tensor;
  readonly eps: number;

  /** Weight 1. */
  constructor(width: number, options?: Omit<NormOptions, 'bias'>);
  /** Of a given weight (width), which the module takes over. */
  constructor(weight: Tensor, eps: number);
  constructor(first: Tensor | number, second: Omit<NormOptions, 'bias'> | number = {}) {
    super();
    if (typeof first === 'number') {
      const options = second as NormOptions;
      check.integer('RMSNorm', 'width', first, 1);
      check.knownOptions('RMSNorm', options, ['eps', 'dtype']);
      this.weight = ones([first], { dtype: options.dtype ?? 'float32' });
      this.eps = options.eps ?? 1e-6;
    } else {
      check.tensor('RMSNorm', 'weight', first);
      this.weight = first;
      this.eps = second as number;
    }
    check.number('RMSNorm', 'eps', this.eps, 0);
    this.register('weight', this.weight);
  }

  /** (…, width) → (…, width) */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }

  share(): RMSNorm {
    return new RMSNorm(this.weight.detach(), this.eps);
  }
}
