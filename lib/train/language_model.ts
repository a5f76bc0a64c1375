// Training of language models on text, from a fresh model or a checkpoint: what `roots train` and `roots finetune` run.
import { measureFmaPeak } from '../bench/peak.js';
import type { TokenBatch, TokenDataset } from '../data/token_dataset.js';
import { replaceFiles } from '../io/checkpoint.js';
import type { JsonObject } from '../io/json.js';
import type { CausalLM } from '../models/causal_lm.js';
import { writeModel } from '../models/registry.js';
import { flopsPerToken, parameterCount } from '../models/size.js';
import type { Module } from '../nn/module.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { TrainingArguments } from './arguments.js';
import type { PartialTrainingOptions } from './arguments.js';
import { causalLM } from './objectives.js';
import type { Objective } from './objectives.js';
import { Trainer } from './trainer.js';
import type { TrainerCallback, TrainResult } from './trainer.js';

export interface TrainLanguageModelOptions {
  model: CausalLM;
  tokenizer: Tokenizer;
  trainDataset: TokenDataset;
  evalDataset?: TokenDataset | null;
  args: TrainingArguments | PartialTrainingOptions;
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
  /** Mean over the steps of this call; null when a resumed run had none left. */
  trainLoss: number | null;
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
  const { model, tokenizer, trainDataset, evalDataset = null } = options;
  const args = new TrainingArguments(options.args);
  model.requiresGrad();
  const extra = { generationConfig: options.generationConfig ?? {}, files: tokenizer.files };
  const trainer = new Trainer<CausalLM, TokenBatch>({
    model,
    args,
    ...(options.objective && { objective: options.objective }),
    evalObjective: causalLM(),
    ...(options.auxiliary && { auxiliary: options.auxiliary }),
    trainDataset,
    evalDataset: args.evalStrategy === 'no' ? null : evalDataset,
    saveModel: (m, folder) => writeModel(folder, m, extra),
    // a backward pass costs twice a forward pass
    flopsPerToken: model.blocks.length > 0 ? 3 * flopsPerToken(model) : 0,
    // of a GPU's use nothing is said: its peak is not measured
    peakGflops: model.device === 'cpu' ? await measureFmaPeak() : 0,
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
  if (evalDataset && !result.interrupted && !result.evalIsCurrent)
    valLoss = (await trainer.evaluate(evalDataset)).evalLoss;
  trainer.optimizer.dispose();
  model.requiresGrad(false);
  if (!result.interrupted)
    await replaceFiles(args.outputDir, (folder) => writeModel(folder, model, extra));
  return {
    steps: result.steps,
    trainLoss: result.stepsDone > 0 ? result.trainLoss : null,
    valLoss,
    perplexity: valLoss === null ? null : Math.exp(valLoss),
    tokensPerSecond: result.tokensPerSecond,
    seconds: result.seconds,
    result,
  };
}
