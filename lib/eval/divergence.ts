// How far a model has moved from another on the same text: mean KL(reference ‖ model) per token, and how often both
// rank the same token first. Far more sensitive than perplexity, and needs no labels.
import { noGrad } from '../autograd/modes.js';
import type { CausalLM } from '../models/causal_lm.js';
import { exp, maximum, mul, sub } from '../ops/elementwise.js';
import { equal } from '../ops/elementwise.js';
import { argmax, sum } from '../ops/reduce.js';
import { logSoftmax } from '../ops/softmax.js';
import { cast } from '../ops/cast.js';
import { reshape } from '../ops/view.js';
import { full } from '../tensor/create.js';
import { OptionError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { batchTensor, checkContext, windows } from './perplexity.js';
import type { PerplexityOptions } from './perplexity.js';

export interface DivergenceResult {
  /** Mean KL(reference ‖ model) over tokens, in nats. */
  kld: number;
  /** Share of tokens where both models have the same most likely next token. */
  sameTop1: number;
  tokens: number;
}

export async function divergence(
  reference: CausalLM,
  model: CausalLM,
  ids: readonly number[],
  options: PerplexityOptions = {},
): Promise<DivergenceResult> {
  const context = checkContext(model, options.context);
  if (reference.shape.vocab !== model.shape.vocab)
    throw new OptionError(
      `divergence: vocabularies differ: ${reference.shape.vocab} and ${model.shape.vocab}`,
    );
  if (ids.length < 2)
    throw new OptionError(`divergence: the text has ${ids.length} tokens; at least 2 are needed`);
  const batches = windows(ids, context);
  let total = 0;
  let same = 0;
  let tokens = 0;
  for (const [i, rows] of batches.entries()) {
    const { kl, agree } = tidy(() =>
      noGrad(() => {
        const inputIds = batchTensor(rows);
        const p = logSoftmax(reference.forward({ inputIds }).logits);
        const q = logSoftmax(model.forward({ inputIds }).logits);
        // exp(-1e4) is 0: an impossible token contributes nothing, even where q is -Infinity
        const floor = full([], -1e4, { device: p.device });
        const each = mul(exp(p), sub(maximum(p, floor), maximum(q, floor)));
        return {
          kl: reshape(sum(each, { dim: -1 }), [-1]),
          agree: sum(cast(equal(argmax(p), argmax(q)), 'float32')),
        };
      }),
    );
    try {
      for (const value of (await kl.data()) as Float32Array) total += value;
      same += await agree.item();
    } finally {
      kl.dispose();
      agree.dispose();
    }
    tokens += rows.length * rows[0]!.length;
    options.onProgress?.((i + 1) / batches.length);
  }
  return { kld: total / tokens, sameTop1: same / tokens, tokens };
}
