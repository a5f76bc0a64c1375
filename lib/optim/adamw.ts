// AdamW (Loshchilov & Hutter, arXiv 1711.05101), one fused kernel per parameter, in place.
import * as kernels from '../native/kernels.gen.js';
import * as check from '../ops/check.js';
import { contiguous } from '../ops/cast.js';
import { zeros } from '../tensor/create.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

export interface AdamWOptions {
  lr?: number;
  betas?: readonly [number, number];
  eps?: number;
  weightDecay?: number;
}

export class AdamW {
  readonly #parameters: readonly Tensor[];
  readonly #state = new Map<Tensor, { m: Tensor; v: Tensor }>();
  /** Changed between steps by a schedule. */
  lr: number;
  readonly #betas: readonly [number, number];
  readonly #eps: number;
  readonly #weightDecay: number;
  #steps = 0;

  constructor(parameters: Iterable<Tensor>, options: AdamWOptions = {}) {
    check.knownOptions('AdamW', options, ['lr', 'betas', 'eps', 'weightDecay']);
    const { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 } = options;
    check.number('AdamW', 'lr', lr, 0);
    check.number('AdamW', 'betas[0]', betas[0], 0, 1);
    check.number('AdamW', 'betas[1]', betas[1], 0, 1);
    check.number('AdamW', 'eps', eps, 0);
    check.number('AdamW', 'weightDecay', weightDecay, 0);
    this.#parameters = [...parameters];
    this.lr = lr;
    this.#betas = betas;
    this.#eps = eps;
    this.#weightDecay = weightDecay;
  }

  /** Updates every parameter that has a gradient. */
  step(): void {
    this.#steps++;
    for (const p of this.#parameters) {
      const { grad } = p;
      if (!grad) continue;
      let state = this.#state.get(p);
      if (!state) {
        state = untracked(() => ({
          m: zeros(p.shape, { dtype: p.dtype as 'float32' }),
          v: zeros(p.shape, { dtype: p.dtype as 'float32' }),
        }));
        this.#state.set(p, state);
      }
      const { m, v } = state;
      tidy(() =>
        kernels.adamw(
          p,
          contiguous(grad),
          m,
          v,
          this.lr,
          this.#betas[0],
          this.#betas[1],
          this.#eps,
          this.#weightDecay,
          this.#steps,
        ),
      );
    }
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const p of this.#parameters) {
      p.grad?.dispose();
      p.grad = null;
    }
  }

  /** Releases the moments. */
  dispose(): void {
    for (const { m, v } of this.#state.values()) {
      m.dispose();
      v.dispose();
    }
    this.#state.clear();
  }
}
