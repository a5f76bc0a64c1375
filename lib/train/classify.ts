// Fine-tuning a classifier, and asking it: what LanguageModel.finetune and predict do.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { noGrad } from '../autograd/modes.js';
import { ClassificationDataset, rectangle } from '../data/classification_dataset.js';
import type { ClassificationBatch } from '../data/classification_dataset.js';
import { writeClassifier } from '../models/registry.js';
import type { SequenceClassifier } from '../models/sequence_classification.js';
import * as check from '../ops/check.js';
import { softmax } from '../ops/softmax.js';
import { DataError, OptionError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { TrainingOptions } from './arguments.js';
import { ids } from './objectives.js';
import { Trainer } from './trainer.js';
import type { TrainResult } from './trainer.js';

/** What a class is called: the type that was given comes back from predict(). */
export type Label = number | string | boolean;

/** The distinct labels, ordered: numbers and booleans by value, strings by code point. */
export function labelSet(labels: readonly Label[]): Label[] {
  const kinds = new Set(labels.map((l) => typeof l));
  if (kinds.size !== 1 || ![...kinds].every((k) => ['number', 'string', 'boolean'].includes(k)))
    throw new DataError(
      `finetune: labels must all be numbers, all strings or all booleans, got ${[...kinds].join(' and ')}`,
    );
  const distinct = [...new Set(labels)];
  if (distinct.some((l) => typeof l === 'number' && !Number.isFinite(l)))
    throw new DataError('finetune: a label is not a finite number');
  if (distinct.length < 2)
    throw new DataError(
      `finetune: all ${labels.length} labels are ${JSON.stringify(distinct[0])}; give texts of at least two classes`,
    );
  return distinct.toSorted((a, b) => (a < b ? -1 : 1));
}

export interface FinetuneOptions extends Partial<Omit<TrainingOptions, 'outputDir'>> {
  /** Keeps checkpoints, log and report there; without it nothing is written. */
  outputDir?: string;
  /** Tokens a text is cut to. Default: the model's context, at most 512. */
  maxLength?: number;
}

/** ids of a text, cut to the model's limit. Never empty. */
export function classifierIds(tokenizer: Tokenizer, text: string, limit: number): number[] {
  if (typeof text !== 'string')
    throw new TypeError(`expected a text, got ${text === null ? 'null' : typeof text}`);
  const out = tokenizer.encode(text).slice(0, limit);
  const filler = tokenizer.eosTokenId ?? tokenizer.bosTokenId ?? 0;
  return out.length > 0 ? out : [filler];
}

export async function finetuneClassifier(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  texts: readonly string[],
  labels: readonly number[],
  options: FinetuneOptions & { config: Record<string, unknown> },
): Promise<TrainResult> {
  const { outputDir, maxLength, config, ...args } = options;
  const limit = maxLength ?? Math.min(model.base.shape.context, 512);
  check.integer('finetune', 'maxLength', limit, 1);
  if (limit > model.base.shape.context)
    throw new OptionError(
      `finetune: maxLength ${limit} exceeds the model's context of ${model.base.shape.context}`,
    );
  const rows = texts.map((t) => classifierIds(tokenizer, t, limit));
  const data = new ClassificationDataset(rows, labels, tokenizer.padTokenId ?? 0);
  const folder = outputDir ?? (await mkdtemp(join(tmpdir(), 'roots-finetune-')));
  model.requiresGrad();
  const trainer = new Trainer<SequenceClassifier, ClassificationBatch>({
    model,
    trainDataset: data,
    saveModel: (m, f) => writeClassifier(f, m, { files: tokenizer.files, config: config as never }),
    args: {
      // small data: a rate above pre-training's and enough passes to leave the start
      learningRate: 5e-4,
      numTrainEpochs: Math.max(3, Math.min(40, Math.ceil(1200 / Math.max(1, texts.length)))),
      perDeviceTrainBatchSize: Math.min(16, texts.length),
      warmupRatio: 0.1,
      weightDecay: 0.01,
      saveStrategy: outputDir === undefined ? 'no' : 'epoch',
      ...(outputDir === undefined ? { reportTo: ['console'] as const } : {}),
      ...args,
      outputDir: folder,
    },
  });
  try {
    return await trainer.train();
  } finally {
    trainer.optimizer.dispose();
    model.requiresGrad(false);
    if (outputDir === undefined) await rm(folder, { recursive: true, force: true });
  }
}

/** Probabilities of every class, a row per text. */
export async function classify(
  model: SequenceClassifier,
  tokenizer: Tokenizer,
  texts: readonly string[],
  limit: number,
): Promise<number[][]> {
  const out: number[][] = [];
  const batch = 32;
  for (let from = 0; from < texts.length; from += batch) {
    const rows = texts.slice(from, from + batch).map((t) => classifierIds(tokenizer, t, limit));
    const padded = rectangle(rows, tokenizer.padTokenId ?? 0);
    const p = tidy(() =>
      noGrad(() =>
        softmax(
          model.forward({
            inputIds: ids(padded.inputIds, padded),
            attentionMask: ids(padded.attentionMask, padded),
            last: padded.last,
          }).logits,
        ),
      ),
    );
    try {
      const values = (await p.data()) as Float32Array;
      const n = model.numLabels;
      rows.forEach((_, i) => out.push([...values.subarray(i * n, (i + 1) * n)]));
    } finally {
      p.dispose();
    }
  }
  return out;
}
