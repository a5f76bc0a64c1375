// Layers one after another.
import { OptionError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { Module } from './module.js';

type Layer = (Module & { forward(x: Tensor): Tensor }) | ((x: Tensor) => Tensor);

/** Each layer reads what the one before returns; parameters are named by position, as in torch.nn.Sequential. Functions are layers too. */
export class Sequential extends Module {
  readonly #layers: readonly Layer[];

  constructor(...layers: Layer[]) {
    super();
    this.#layers = layers;
    layers.forEach((layer, i) => {
      if (layer instanceof Module && typeof layer.forward === 'function')
        this.register(String(i), layer);
      else if (typeof layer !== 'function')
        throw new OptionError(
          `Sequential: layer ${i} must be a Module with forward(x), or a function of a tensor`,
        );
    });
  }

  forward(x: Tensor): Tensor {
    return tidy(() =>
      this.#layers.reduce((y, layer) => (layer instanceof Module ? layer.forward(y) : layer(y)), x),
    );
  }
}
