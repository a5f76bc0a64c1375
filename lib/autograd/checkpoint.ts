// Activation checkpointing (Chen et al., arXiv 1604.06174): a part of the network is run without recording and run again when its
// gradient is asked for. Memory for its intermediate results is traded for one more forward pass.
import { tidy } from '../tensor/scope.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { backward } from './backward.js';
import { autocast, enableGrad, noGrad, productDtype } from './modes.js';
import { record, willRecord } from './record.js';

export interface CheckpointOptions<H> {
  /** Tensors with requiresGrad that fn uses besides x; their gradients accumulate as usual. */
  parameters?: readonly Tensor[];
  /** Other tensors that fn needs, passed to it: kept until backward(), whatever happens to these handles. No gradients. */
  held?: H;
}

/**
 * fn(x, held), recomputed in backward(). Random draws from the process-wide generator (dropout) repeat exactly.
 */
export function checkpoint<H extends Record<string, Tensor | null> = Record<string, never>>(
  fn: (x: Tensor, held: H) => Tensor,
  x: Tensor,
  options: CheckpointOptions<H> = {},
): Tensor {
  const { parameters = [], held = {} as H } = options;
  if (!willRecord(x, ...parameters)) return fn(x, held);
  const generator = defaultGenerator();
  const position = generator.position;
  const precision = productDtype();
  const out = tidy(() => noGrad(() => fn(x, held)).detach());
  // parameters of the part are leaves of the inner graph; one of them stands in as an input so that the node is recorded even
  // where x itself needs no gradient
  const anchor = x.requiresGrad ? null : (parameters.find((p) => p.requiresGrad) ?? null);
  return record(out, { x, anchor }, { ...held, x }, (dy, s) => {
    const after = generator.position;
    generator.position = position;
    const input = s.x.detach().setRequiresGrad();
    try {
      tidy(() => {
        const y = enableGrad(() => autocast(precision, () => fn(input, s)));
        backward(y, dy);
      });
    } finally {
      generator.position = after;
    }
    return { x: input.grad?.detach() ?? null, anchor: null };
  });
}
