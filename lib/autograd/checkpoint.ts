// Activation checkpointing (Chen et al., arXiv 1604.06174): a part of the network is run without recording and run again when its
// gradient is asked for. Memory for its intermediate results is traded for one more forward pass.
import { tidy } from '../tensor/scope.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { backward } from './backward.js';
import { autocast, enableGrad, noGrad, productDtype } from './modes.js';
import { record, willRecord } from './record.js';

/**
 * fn(x), recomputed in backward(). `parameters` are the tensors with requiresGrad that fn uses besides x; their gradients
 * accumulate as usual. Random draws from the process-wide generator (dropout) repeat exactly.
 */
export function checkpoint(
  fn: (x: Tensor) => Tensor,
  x: Tensor,
  parameters: readonly Tensor[] = [],
): Tensor {
  if (!willRecord(x, ...parameters)) return fn(x);
  const generator = defaultGenerator();
  const position = generator.position;
  const precision = productDtype();
  const out = tidy(() => noGrad(() => fn(x)).detach());
  // parameters of the part are leaves of the inner graph; one of them stands in as an input so that the node is recorded even
  // where x itself needs no gradient
  const anchor = x.requiresGrad ? null : (parameters.find((p) => p.requiresGrad) ?? null);
  return record(out, { x, anchor }, { x }, (dy, s) => {
    const after = generator.position;
    generator.position = position;
    const input = s.x.detach().setRequiresGrad();
    try {
      tidy(() => {
        const y = enableGrad(() => autocast(precision, () => fn(input)));
        backward(y, dy);
      });
    } finally {
      generator.position = after;
    }
    const dx = input.grad;
    return { x: dx?.detach() ?? null, anchor: null };
  });
}
