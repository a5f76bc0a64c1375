// Masked language modelling (Devlin et al., arXiv 1810.04805, section 3.1): some tokens are hidden, and the model names them from both sides.
import { mix } from '../data/dataset.js';
import type { TokenBatch } from '../data/token_dataset.js';
import type { Module } from '../nn/module.js';
import * as check from '../ops/check.js';
import { OptionError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { ids } from './objectives.js';
import type { Objective } from './objectives.js';

export interface MaskedLMOptions {
  /** What most hidden tokens are replaced with. */
  maskTokenId: number;
  vocabSize: number;
  /** Share of tokens that are predicted. Default 0.15. */
  probability?: number;
  /** Ids that are never hidden and never put in for others: padding, separators. */
  specialTokens?: readonly number[];
}

/** A model that predicts ids at the positions whose label is not -100. */
export interface MaskedLanguageModel extends Module {
  forward(input: { inputIds: Tensor; labels: Tensor }): { loss: Tensor | null };
}

interface Masked {
  inputIds: Int32Array;
  /** The id at positions that are predicted, -100 elsewhere. */
  labels: Int32Array;
  chosen: number;
}

const optionNames = ['maskTokenId', 'vocabSize', 'probability', 'specialTokens'];

/**
 * Chooses tokens with `probability` and hides them: 80 % become the mask token, 10 % a random one, 10 % stay as they are. `seed` and
 * `start` are a position in a random stream of which two numbers are drawn per token. At least one token is chosen where any may be.
 */
export function maskTokens(
  tokens: Int32Array,
  options: MaskedLMOptions,
  seed: number,
  start = 0,
): Masked {
  check.knownOptions('maskTokens', options, optionNames);
  const { maskTokenId, vocabSize, probability = 0.15, specialTokens = [] } = options;
  check.integer('maskTokens', 'vocabSize', vocabSize, 2);
  check.integer('maskTokens', 'maskTokenId', maskTokenId, 0);
  check.number('maskTokens', 'probability', probability, 0, 1);
  if (maskTokenId >= vocabSize)
    throw new OptionError(
      `maskTokens: maskTokenId ${maskTokenId} is not below vocabSize ${vocabSize}`,
    );
  const special = new Set([maskTokenId, ...specialTokens]);
  const ordinary = vocabSize - [...special].filter((t) => t < vocabSize).length;
  if (ordinary < 1) throw new OptionError('maskTokens: every token is special');
  const key = mix(seed >>> 0, Math.floor(seed / 2 ** 32));
  const uniform = (i: number): number => mix(key, mix(start + i, (start + i) / 2 ** 32)) / 2 ** 32;
  const inputIds = Int32Array.from(tokens);
  const labels = new Int32Array(tokens.length).fill(-100);
  let chosen = 0;
  const hide = (i: number): void => {
    labels[i] = tokens[i]!;
    chosen++;
    const u = uniform(2 * i + 1);
    if (u < 0.8) inputIds[i] = maskTokenId;
    else if (u < 0.9) {
      // what is left of u picks the token
      let other = Math.min(ordinary - 1, Math.floor(((u - 0.8) / 0.1) * ordinary));
      for (const t of [...special].toSorted((a, b) => a - b)) if (t <= other) other++;
      inputIds[i] = other;
    }
  };
  const free: number[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (special.has(tokens[i]!)) continue;
    free.push(i);
    if (uniform(2 * i) < probability) hide(i);
  }
  if (chosen === 0 && free.length > 0)
    hide(free[Math.floor(uniform(2 * tokens.length) * free.length)]!);
  return { inputIds, labels, chosen };
}

/** Masked-token prediction. Masks are drawn anew for every batch in training, and are the same in every evaluation. */
export function maskedLM(options: MaskedLMOptions): Objective<MaskedLanguageModel, TokenBatch> {
  return {
    loss: (model, batch) => {
      const n = batch.inputIds.length;
      const generator = defaultGenerator();
      const masked = model.training
        ? maskTokens(batch.inputIds, options, generator.seed, generator.take(2 * n + 1))
        : maskTokens(batch.inputIds, options, 0);
      return tidy(() => {
        const { loss } = model.forward({
          inputIds: ids(masked.inputIds, batch),
          labels: ids(masked.labels, batch),
        });
        if (!loss) throw new OptionError('maskedLM: the model gave no loss for its labels');
        return { loss, count: masked.chosen };
      });
    },
    tokens: (batch) => batch.inputIds.length,
  };
}
