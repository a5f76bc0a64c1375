// LayerNorm and RMSNorm as modules.
import { layerNorm } from '../ops/layer_norm.js';
import { rmsNorm } from '../ops/rms_norm.js';
import type { Tensor } from '../tensor/tensor.js';
import { Module } from './module.js';

export class LayerNorm extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  readonly eps: number;

  constructor(weight: Tensor, bias: Tensor | null, eps: number) {
    super();
    this.weight = this.register('weight', weight);
    this.bias = bias ? this.register('bias', bias) : null;
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.eps);
  }

  share(): LayerNorm {
    return new LayerNorm(this.weight.detach(), this.bias?.detach() ?? null, this.eps);
  }
}

export class RMSNorm extends Module {
  readonly weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, eps: number) {
    super();
    this.weight = this.register('weight', weight);
    this.eps = eps;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.eps);
  }

  share(): RMSNorm {
    return new RMSNorm(this.weight.detach(), this.eps);
  }
}
