// Dynamic loss scaling for float16 gradients (Micikevicius et al., arXiv 1710.03740), with the defaults of torch.amp.GradScaler.

/** Part of the trainer's state, saved with every checkpoint. */
export interface LossScale {
  /** The loss is multiplied by this before backward(), gradients are divided by it. */
  factor: number;
  /** Steps since it last changed. */
  steps: number;
}

const growth = 2;
const backoff = 0.5;
const growthInterval = 2000;
/** Below this no gradient is saved by scaling: the fault lies elsewhere. */
const least = 1;

export const initialLossScale = (): LossScale => ({ factor: 65536, steps: 0 });

/** The scale for the next step, after one whose gradients were finite or not; null when it cannot go lower. */
export function nextLossScale({ factor, steps }: LossScale, finite: boolean): LossScale | null {
  if (!finite) return factor * backoff < least ? null : { factor: factor * backoff, steps: 0 };
  return steps + 1 >= growthInterval
    ? { factor: factor * growth, steps: 0 }
    : { factor, steps: steps + 1 };
}
