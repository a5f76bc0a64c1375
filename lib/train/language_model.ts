// Training of language models on text, from a fresh model or a checkpoint: what `roots train` and `roots finetune` run.
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { measureFmaPeak } from '../bench/peak.js';
import type { TokenBatch, TokenDataset } from '../data/token_dataset.js';
import type { JsonObject } from '../io/json.js';
import type { CausalLM } from '../models/causal_lm.js';
import { writeModel } from '../models/registry.js';
import { flopsPerToken, parameterCount } from '../models/size.js';
import { native } from '../native/load.js';
import type { Module } from '../nn/module.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { TrainingOptions } from './arguments.js';
import { causalLM } from './objectives.js';
import type { Objective } from './objectives.js';
import { Trainer } from './trainer.js';
import type { TrainerCallback, TrainResult } from './trainer.js';

export interface TrainLanguageModelOptions {
  model: CausalLM;
  tokenizer: Tokenizer;
  trainDataset: TokenDataset;
  evalDataset?: TokenDataset | null;
  args: Partial<TrainingOptions> & { outputDir: string };
  generationConfig?: JsonObject;
  objective?: Objective<CausalLM, TokenBatch>;
  /** Trained beside the model, for objectives that need it. */
  auxiliary?: Module;
  callbacks?: readonly TrainerCallback[];
  facts?: readonly (readonly [name: string, value: string])[];
}

/** The final figures of a run. */
export interface TrainingSummary {
  steps: number;
  trainLoss: number;
  valLoss: number | null;
  perplexity: number | null;
  tokensPerSecond: number;
  seconds: number;
  result: TrainResult;
}

/** Trains, evaluates at the end, and leaves a model folder in outputDir beside the checkpoints. */
export async function trainLanguageModel(
  options: TrainLanguageModelOptions,
): Promise<TrainingSummary> {
  const { model, tokenizer, trainDataset, evalDataset = null, args } = options;
  model.requiresGrad();
  model.gradientCheckpointing = args.gradientCheckpointing ?? false;
  const extra = { generationConfig: options.generationConfig ?? {}, files: tokenizer.files };
  const trainer = new Trainer<CausalLM, TokenBatch>({
    model,
    args,
    objective: options.objective ?? causalLM({ labelSmoothing: args.labelSmoothingFactor ?? 0 }),
    evalObjective: causalLM(),
    ...(options.auxiliary && { auxiliary: options.auxiliary }),
    trainDataset,
    evalDataset,
    saveModel: (m, folder) => writeModel(folder, m, extra),
    // a backward pass costs twice a forward pass
    flopsPerToken: model.blocks.length > 0 ? 3 * flopsPerToken(model) : 0,
    peakGflops: await measureFmaPeak(),
    callbacks: options.callbacks ?? [],
    facts: [
      [
        'Model',
        `${String((model.config['architectures'] as string[])[0])}, ${parameterCount(model).toLocaleString('en-US')} parameters`,
      ],
      ['Training tokens', trainDataset.tokens.toLocaleString('en-US')],
      ['Validation tokens', evalDataset ? evalDataset.tokens.toLocaleString('en-US') : 'none'],
      ...(options.facts ?? []),
    ],
  });
  const result = await trainer.train();
  let valLoss = Number.isNaN(result.evalLoss) ? null : result.evalLoss;
  if (evalDataset && !result.interrupted) valLoss = (await trainer.evaluate()).evalLoss;
  trainer.optimizer.dispose();
  model.requiresGrad(false);
  if (!result.interrupted) await publishModel(trainer.args.outputDir, model, extra);
  return {
    steps: result.steps,
    trainLoss: result.trainLoss,
    valLoss,
    perplexity: valLoss === null ? null : Math.exp(valLoss),
    tokensPerSecond: result.tokensPerSecond,
    seconds: result.seconds,
    result,
  };
}

/** The model's files into the run folder itself, each durable before it replaces an older one. */
async function publishModel(
  folder: string,
  model: CausalLM,
  extra: { generationConfig: JsonObject; files: ReadonlyMap<string, Uint8Array> },
): Promise<void> {
  const temporary = join(folder, `.roots-tmp-model-${process.pid}`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary);
  try {
    await writeModel(temporary, model, extra);
    for (const name of await readdir(temporary)) {
      await native().fsyncPath(join(temporary, name));
      await rename(join(temporary, name), join(folder, name));
    }
    await native().fsyncPath(folder);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
