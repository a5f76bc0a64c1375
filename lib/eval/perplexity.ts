// Perplexity of a text: exp of the mean negative log-likelihood per scored token.
// Convention: the text's ids (with the tokenizer's beginning-of-text token, if it adds one) are cut into windows of
// `context` tokens that do not overlap; the first token of each window is context only and is not scored.
import { noGrad } from '../autograd/modes.js';
import type { CausalLM } from '../models/causal_lm.js';
import { crossEntropy } from '../ops/losses.js';
import { slice } from '../ops/view.js';
import { tensor } from '../tensor/create.js';
import { OptionError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

export interface PerplexityOptions {
  /** Tokens per window; the model's context by default. */
  context?: number;
  /** Called with the share of the work done, in [0, 1]. */
  onProgress?: (done: number) => void;
}

export interface PerplexityResult {
  perplexity: number;
  /** Mean negative log-likelihood per token, in nats. */
  nll: number;
  /** Tokens scored. */
  tokens: number;
}

/** Windows of equal length that one forward takes together. */
const tokensPerBatch = 2048;

/** ids cut into windows, grouped into batches of equal length. */
export function windows(ids: readonly number[], context: number): number[][][] {
  const all: number[][] = [];
  for (let i = 0; i < ids.length; i += context) all.push(ids.slice(i, i + context));
  const batches: number[][][] = [];
  const rows = Math.max(1, Math.floor(tokensPerBatch / context));
  for (const window of all) {
    const batch = batches.at(-1);
    if (batch && batch.length < rows && batch[0]!.length === window.length) batch.push(window);
    else batches.push([window]);
  }
  return batches.filter((b) => b[0]!.length > 1);
}

export function batchTensor(rows: readonly (readonly number[])[]): Tensor {
  return tensor(Int32Array.from(rows.flat()), { shape: [rows.length, rows[0]!.length] });
}

export function checkContext(model: CausalLM, context: number | undefined): number {
  const limit = model.shape.context;
  const value = context ?? limit;
  if (!Number.isInteger(value) || value < 2 || value > limit)
    throw new OptionError(
      `context must be an integer from 2 to the model's ${limit}, got ${String(context)}`,
    );
  return value;
}

export async function perplexity(
  model: CausalLM,
  ids: readonly number[],
  options: PerplexityOptions = {},
): Promise<PerplexityResult> {
  const context = checkContext(model, options.context);
  if (ids.length < 2)
    throw new OptionError(
      `perplexity: the text has ${ids.length} tokens; at least 2 are needed, one to predict from`,
    );
  const batches = windows(ids, context);
  let sum = 0;
  let tokens = 0;
  for (const [i, rows] of batches.entries()) {
    const losses = tidy(() =>
      noGrad(() => {
        const inputIds = batchTensor(rows);
        const { logits } = model.forward({ inputIds });
        return crossEntropy(slice(logits, 1, 0, -1), slice(inputIds, 1, 1), { reduction: 'none' });
      }),
    );
    try {
      for (const loss of (await losses.data()) as Float32Array) sum += loss;
    } finally {
      losses.dispose();
    }
    tokens += rows.length * (rows[0]!.length - 1);
    options.onProgress?.((i + 1) / batches.length);
  }
  const nll = sum / tokens;
  return { perplexity: Math.exp(nll), nll, tokens };
}
