// Lion (Chen et al., arXiv 2302.06675): the sign of an interpolated momentum. One moment instead of two.
import * as kernels from '../native/kernels.gen.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBetas } from './adam.js';
import { Optimizer, states, zerosLike } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State, Update } from './optimizer.js';

export interface LionOptions extends CommonOptions {
  betas: readonly [number, number];
}

/** p -= lr (sign(β₁ m + (1 - β₁) g) + wd p); m = β₂ m + (1 - β₂) g. Rates are 3 to 10 times smaller than AdamW's. */
export class Lion extends Optimizer<LionOptions> {
  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<LionOptions>>,
    options: Partial<LionOptions> = {},
  ) {
    const betas: readonly [number, number] = [0.9, 0.99];
    super('Lion', params, { lr: 1e-4, weightDecay: 0, betas }, options, (o) =>
      checkBetas('Lion', o.betas),
    );
  }

  protected override createState(param: Tensor): State {
    return { m: zerosLike(param) };
  }

  protected override update(
    updates: readonly Update[],
    o: Group<LionOptions>,
    _step: number,
    scale: Tensor | null,
  ): void {
    kernels.lion(
      updates.map((u) => u.param),
      updates.map((u) => u.gradient),
      states(updates, 'm'),
      scale,
      o.lr,
      o.betas[0],
      o.betas[1],
      o.weightDecay,
    );
  }
}
