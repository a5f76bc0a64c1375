// What a step minimises: a batch and a model in, a scalar loss out. Synchronous, because it only issues operations.
import type { ClassificationBatch } from '../data/classification_dataset.js';
import type { TokenBatch } from '../data/token_dataset.js';
import type { CausalLM } from '../models/causal_lm.js';
import type { SequenceClassifier } from '../models/sequence_classification.js';
import { tensor } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

export interface StepLoss {
  /** Scalar mean over what counts. */
  loss: Tensor;
  /** Tokens (or samples) the mean is over, for weighting evaluations. */
  count: number;
  /** Further scalars worth logging, by name. */
  metrics?: Record<string, Tensor>;
}

export interface Objective<M, B> {
  loss(model: M, batch: B): StepLoss;
  /** Tokens a batch costs, for the rate. */
  tokens(batch: B): number;
}

export function ids(values: Int32Array, batch: { rows: number; width: number }): Tensor {
  return tensor(values, { shape: [batch.rows, batch.width] });
}

/** Next-token prediction on packed windows. */
export function causalLM(
  options: { labelSmoothing?: number } = {},
): Objective<CausalLM, TokenBatch> {
  const { labelSmoothing = 0 } = options;
  return {
    loss: (model, batch) =>
      tidy(() => ({
        loss: model.loss({
          inputIds: ids(batch.inputIds, batch),
          targets: ids(batch.targets, batch),
          labelSmoothing,
        }),
        count: batch.inputIds.length,
      })),
    tokens: (batch) => batch.inputIds.length,
  };
}

/** The right class of every text. */
export function classification(): Objective<SequenceClassifier, ClassificationBatch> {
  return {
    loss: (model, batch) =>
      tidy(() => ({
        loss: model.forward({
          inputIds: ids(batch.inputIds, batch),
          attentionMask: ids(batch.attentionMask, batch),
          last: batch.last,
          labels: tensor(batch.labels),
        }).loss!,
        count: batch.rows,
      })),
    tokens: (batch) => batch.inputIds.length,
  };
}
