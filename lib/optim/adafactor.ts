// Adafactor (Shazeer & Stern, arXiv 1804.04235) with a given rate and no first moment, as transformers.Adafactor with
// scale_parameter and relative_step off: second moments of matrices are kept as one mean per row and per column.
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import { zeros } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { Optimizer } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State, Update } from './optimizer.js';

export interface AdafactorOptions extends CommonOptions {
  /** Added to squared gradients. */
  eps: number;
  /** Updates are scaled down to this root mean square. */
  clipThreshold: number;
  /** β₂ at step t is 1 - t^decayRate. */
  decayRate: number;
}

/** float32 parameters. */
export class Adafactor extends Optimizer<AdafactorOptions> {
  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<AdafactorOptions>>,
    options: Partial<AdafactorOptions> = {},
  ) {
    const defaults = {
      lr: 1e-3,
      weightDecay: 0,
      eps: 1e-30,
      clipThreshold: 1,
      decayRate: -0.8,
    };
    super('Adafactor', params, defaults, options, (o) => {
      check.number('Adafactor', 'eps', o.eps, 0);
      check.number('Adafactor', 'clipThreshold', o.clipThreshold, Number.MIN_VALUE);
      check.number('Adafactor', 'decayRate', o.decayRate, -10, 0);
    });
  }

  protected override createState(param: Tensor): State {
    if (param.rank < 2) return { row: zeros(param.shape, { device: param.device }) };
    return {
      row: zeros(param.shape.slice(0, -1), { device: param.device }),
      column: zeros([...param.shape.slice(0, -2), param.shape.at(-1)!], { device: param.device }),
    };
  }

  protected override update(
    updates: readonly Update[],
    o: Group<AdafactorOptions>,
    step: number,
    scale: Tensor | null,
  ): void {
    for (const { param, gradient, state } of updates)
      kernels.adafactor(
        param,
        gradient,
        state['row']!,
        state['column'] ?? null,
        scale,
        o.lr,
        1 - step ** o.decayRate,
        o.eps,
        o.clipThreshold,
        o.weightDecay,
      );
  }
}
