// Stochastic gradient descent with momentum, as torch.optim.SGD.
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import { OptionError } from '../tensor/errors.js';
import type { Tensor } from '../tensor/tensor.js';
import { Optimizer, zerosLike } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State } from './optimizer.js';

export interface SGDOptions extends CommonOptions {
  momentum: number;
  dampening: number;
  nesterov: boolean;
}

/** g += wd p; b = μ b + (1 - damp) g; p -= lr (nesterov ? g + μ b : b) */
export class SGD extends Optimizer<SGDOptions> {
  readonly #started = new WeakSet<State>();

  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<SGDOptions>>,
    options: Partial<SGDOptions> = {},
  ) {
    const names = ['lr', 'weightDecay', 'momentum', 'dampening', 'nesterov'];
    check.knownOptions('SGD', options, names);
    super(
      'SGD',
      params,
      { lr: 1e-3, weightDecay: 0, momentum: 0, dampening: 0, nesterov: false, ...options },
      (o) => {
        for (const name of ['lr', 'weightDecay', 'momentum', 'dampening'] as const)
          check.number('SGD', name, o[name], 0);
        if (o.nesterov && (o.momentum === 0 || o.dampening !== 0))
          throw new OptionError('SGD: nesterov needs momentum above 0 and dampening 0');
      },
    );
  }

  protected override createState(param: Tensor, group: Group<SGDOptions>): State {
    return group.momentum > 0 ? { momentum: zerosLike(param) } : {};
  }

  protected override update(
    p: Tensor,
    g: Tensor,
    state: State,
    o: Group<SGDOptions>,
    step: number,
    scale: Tensor | null,
  ): void {
    // the first gradient enters the buffer undampened; a loaded buffer has had its first
    const first = step === 1 && !this.#started.has(state);
    this.#started.add(state);
    kernels.sgd(
      p,
      g,
      state['momentum'] ?? null,
      scale,
      o.lr,
      o.momentum,
      o.dampening,
      o.weightDecay,
      o.nesterov ? 1 : 0,
      first ? 1 : 0,
    );
  }
}
