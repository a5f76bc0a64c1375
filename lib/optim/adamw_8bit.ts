// AdamW with both moments in 8 bits: 2 bytes of state per parameter instead of 8 (after Dettmers et al., arXiv 2110.02861).
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import { zeros } from '../tensor/create.js';
import type { Tensor } from '../tensor/tensor.js';
import { checkBetas } from './adam.js';
import { Optimizer } from './optimizer.js';
import type { CommonOptions, Group, ParamGroup, State, Update } from './optimizer.js';

export interface AdamW8bitOptions extends CommonOptions {
  betas: readonly [number, number];
  eps: number;
}

const blockSize = 256; // kBlock8 in native/cpu/optimizers.cc

/** AdamW whose moments are stored in blocks of 256 elements with a scale each. float32 parameters. */
export class AdamW8bit extends Optimizer<AdamW8bitOptions> {
  constructor(
    params: Iterable<Tensor> | Iterable<ParamGroup<AdamW8bitOptions>>,
    options: Partial<AdamW8bitOptions> = {},
  ) {
    const betas: readonly [number, number] = [0.9, 0.999];
    super('AdamW8bit', params, { lr: 1e-3, weightDecay: 0.01, betas, eps: 1e-8 }, options, (o) => {
      check.number('AdamW8bit', 'eps', o.eps, 0);
      checkBetas('AdamW8bit', o.betas);
    });
  }

  protected override createState(param: Tensor): State {
    return {
      m: zeros(param.shape, { dtype: 'int8', device: param.device }),
      v: zeros(param.shape, { dtype: 'uint8', device: param.device }),
      scales: zeros([2 * Math.ceil(param.size / blockSize)], { device: param.device }),
    };
  }

  protected override update(
    updates: readonly Update[],
    o: Group<AdamW8bitOptions>,
    step: number,
    scale: Tensor | null,
  ): void {
    for (const { param, gradient, state } of updates)
      kernels.adamw_8bit(
        param,
        gradient,
        state['m']!,
        state['v']!,
        state['scales']!,
        scale,
        o.lr,
        o.betas[0],
        o.betas[1],
        o.eps,
        o.weightDecay,
        step,
      );
  }
}
