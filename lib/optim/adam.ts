// Adam (Kingma & Ba, arXiv 1412.6980) and AdamW (Loshchilov & Hutter, arXiv 1711.05101), as in torch.optim.
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import type { Tensor } from '../tensor/tensor.js';
import { Optimizer, states, zerosLike } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State, Update } from './optimizer.js';

export interface AdamOptions extends CommonOptions {
  betas: readonly [number, number];
  eps: number;
  /** Keep the largest second moment (AMSGrad). */
  amsgrad: boolean;
}

export type AdamWOptions = AdamOptions;

/** What Adam-like rules check alike. */
export function checkBetas(name: string, betas: readonly [number, number]): void {
  check.number(name, 'betas[0]', betas[0], 0, 1);
  check.number(name, 'betas[1]', betas[1], 0, 1);
}

/** m = β₁ m + (1 - β₁) g; v = β₂ v + (1 - β₂) g²; p -= lr m̂ / (√v̂ + ε). Weight decay is added to the gradient. */
export class Adam extends Optimizer<AdamOptions> {
  readonly #decoupled: boolean;

  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<AdamOptions>>,
    options: Partial<AdamOptions> = {},
    rule: { name: string; decoupled: boolean; weightDecay: number } = {
      name: 'Adam',
      decoupled: false,
      weightDecay: 0,
    },
  ) {
    const defaults: AdamOptions = {
      lr: 1e-3,
      weightDecay: rule.weightDecay,
      betas: [0.9, 0.999],
      eps: 1e-8,
      amsgrad: false,
    };
    super(rule.name, params, defaults, options, (o) => {
      check.number(rule.name, 'eps', o.eps, 0);
      checkBetas(rule.name, o.betas);
    });
    this.#decoupled = rule.decoupled;
  }

  protected override createState(param: Tensor, group: Group<AdamOptions>): State {
    const state: State = { m: zerosLike(param), v: zerosLike(param) };
    if (group.amsgrad) state['vmax'] = zerosLike(param);
    return state;
  }

  protected override update(
    updates: readonly Update[],
    o: Group<AdamOptions>,
    step: number,
    scale: Tensor | null,
  ): void {
    kernels.adam(
      updates.map((u) => u.param),
      updates.map((u) => u.gradient),
      states(updates, 'm'),
      states(updates, 'v'),
      states(updates, 'vmax'),
      scale,
      o.lr,
      o.betas[0],
      o.betas[1],
      o.eps,
      o.weightDecay,
      this.#decoupled ? 1 : 0,
      step,
    );
  }
}

/** Adam with weight decay outside of the gradient: p -= lr wd p. Default decay 0.01. */
export class AdamW extends Adam {
  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<AdamOptions>>,
    options: Partial<AdamOptions> = {},
  ) {
    super(params, options, { name: 'AdamW', decoupled: true, weightDecay: 0.01 });
  }
}
