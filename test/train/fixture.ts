// A tiny run that every trainer test varies: a GPT of 4,000 parameters on a text of the project's own grammar.
import { byteTokenizer } from '../../lib/text/byte_tokenizer.js';
import { TokenDataset } from '../../lib/data/token_dataset.js';
import { Generator } from '../../lib/tensor/random.js';
import { createModel } from '../../lib/train/presets.js';
import type { ModelKind } from '../../lib/train/presets.js';
import { Trainer } from '../../lib/train/trainer.js';
import type { TrainerCallback } from '../../lib/train/trainer.js';
import type { TrainingOptions } from '../../lib/train/arguments.js';
import type { CausalLM } from '../../lib/models/causal_lm.js';
import type { TokenBatch } from '../../lib/data/token_dataset.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { sentences } from '../../examples/grammar.js';

export const text = sentences(60, 1);
export const tokenizer = byteTokenizer({ text });

export async function data(): Promise<TokenDataset> {
  return TokenDataset.fromText(text, tokenizer, 16);
}

export function tinyModel(kind: ModelKind = 'gpt2', dropout = 0.1): CausalLM {
  return createModel(
    kind,
    { layers: 1, heads: 2, dim: 16, context: 16, dropout },
    tokenizer.vocabSize,
    0,
    new Generator(7),
  ).requiresGrad() as CausalLM;
}

export async function tinyTrainer(
  args: Partial<TrainingOptions> & { outputDir: string },
  options: {
    kind?: ModelKind;
    dropout?: number;
    callbacks?: TrainerCallback[];
    train?: Dataset<TokenBatch>;
  } = {},
): Promise<Trainer<CausalLM, TokenBatch>> {
  const whole = await data();
  const { train, validation } = whole.split(0.2);
  return new Trainer<CausalLM, TokenBatch>({
    model: tinyModel(options.kind, options.dropout),
    args: {
      disableProgress: true,
      perDeviceTrainBatchSize: 4,
      learningRate: 3e-3,
      loggingSteps: 1,
      ...args,
    },
    trainDataset: options.train ?? train,
    evalDataset: validation,
    tokenizer,
    callbacks: options.callbacks ?? [],
  });
}
