// What a Trainer does when only a model is given: the objective and the file layout that go with the model's head.
import type { ClassificationBatch } from '../data/classification_dataset.js';
import type { TokenBatch } from '../data/token_dataset.js';
import { CausalLM } from '../models/causal_lm.js';
import { writeClassifier, writeModel } from '../models/registry.js';
import { SequenceClassifier } from '../models/sequence_classification.js';
import type { Module } from '../nn/module.js';
import { OptionError } from '../tensor/errors.js';
import type { TrainingArguments } from './arguments.js';
import { causalLM, classification } from './objectives.js';
import type { Objective } from './objectives.js';

export function defaultObjective(
  model: Module,
  args: TrainingArguments,
): Objective<CausalLM, TokenBatch> | Objective<SequenceClassifier, ClassificationBatch> {
  if (model instanceof CausalLM) return causalLM({ labelSmoothing: args.labelSmoothingFactor });
  if (model instanceof SequenceClassifier) return classification();
  throw new OptionError(
    `Trainer: there is no default objective for a ${model.constructor.name}; pass objective: { loss(model, batch), tokens(batch) }`,
  );
}

/** Turns the recomputation of blocks in the backward pass on or off. */
export function enableCheckpointing(model: Module, on: boolean): void {
  const lm = model instanceof SequenceClassifier ? model.base : model;
  if (lm instanceof CausalLM) lm.gradientCheckpointing = on;
  else if (on)
    throw new OptionError(
      `Trainer: gradientCheckpointing is for language models, not for a ${model.constructor.name}; use checkpoint() inside its forward`,
    );
}

export async function saveModelFolder(
  model: Module,
  folder: string,
  files: ReadonlyMap<string, Uint8Array> = new Map(),
): Promise<void> {
  if (model instanceof CausalLM) return writeModel(folder, model, { files });
  if (model instanceof SequenceClassifier) return writeClassifier(folder, model, { files });
  throw new OptionError(
    `Trainer: there is no default layout for a ${model.constructor.name}; pass saveModel(model, folder), or saveStrategy: 'no'`,
  );
}
