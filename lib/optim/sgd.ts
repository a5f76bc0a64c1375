// Stochastic gradient descent with momentum, as torch.optim.SGD.
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import { OptionError } from '../tensor/errors.js';
import type { Tensor } from '../tensor/tensor.js';
import { Optimizer, states, zerosLike } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State, Update } from './optimizer.js';

export interface SGDOptions extends CommonOptions {
  momentum: number;
  nesterov: boolean;
}

/** g += wd p; b = μ b + g; p -= lr (nesterov ? g + μ b : b) */
export class SGD extends Optimizer<SGDOptions> {
  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<SGDOptions>>,
    options: Partial<SGDOptions> = {},
  ) {
    const defaults = { lr: 1e-3, weightDecay: 0, momentum: 0, nesterov: false };
    super('SGD', params, defaults, options, (o) => {
      check.number('SGD', 'momentum', o.momentum, 0);
      if (o.nesterov && o.momentum === 0)
        throw new OptionError('SGD: nesterov needs momentum above 0');
    });
  }

  protected override createState(param: Tensor, group: Group<SGDOptions>): State {
    return group.momentum > 0 ? { momentum: zerosLike(param) } : {};
  }

  protected override update(
    updates: readonly Update[],
    o: Group<SGDOptions>,
    _step: number,
    scale: Tensor | null,
  ): void {
    kernels.sgd(
      updates.map((u) => u.param),
      updates.map((u) => u.gradient),
      states(updates, 'momentum'),
      scale,
      o.lr,
      o.momentum,
      o.weightDecay,
      o.nesterov ? 1 : 0,
    );
  }
}
