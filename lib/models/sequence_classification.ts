// A decoder-only model with a classification head on the last real token, as GPT2ForSequenceClassification and
// LlamaForSequenceClassification have it: `score`, a linear layer without bias.
import type { JsonObject } from '../io/json.js';
import { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { crossEntropy } from '../ops/losses.js';
import { embedding } from '../ops/index_select.js';
import { reshape } from '../ops/view.js';
import { ConfigError, ShapeError } from '../tensor/errors.js';
import { randn } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { toDevice } from '../ops/cast.js';
import { tensor } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { CausalLM } from './causal_lm.js';

/** Which classification architecture belongs to a causal one. */
const headOf: Record<string, string> = {
  GPT2LMHeadModel: 'GPT2ForSequenceClassification',
  LlamaForCausalLM: 'LlamaForSequenceClassification',
  MistralForCausalLM: 'MistralForSequenceClassification',
  Qwen2ForCausalLM: 'Qwen2ForSequenceClassification',
};

/** The causal architecture behind a classification one, or undefined. */
export function baseArchitecture(name: string): string | undefined {
  return Object.keys(headOf).find((base) => headOf[base] === name);
}

export interface ClassificationInput {
  /** (B, T), padded on the right */
  inputIds: Tensor;
  /** (B, T) */
  attentionMask?: Tensor | null;
  /** Position of each row's last token; the last column by default. */
  last?: ArrayLike<number>;
  /** (B) class indices */
  labels?: Tensor | null;
}

export class SequenceClassifier extends Module {
  readonly base: CausalLM;
  readonly score: Linear;

  /** Takes over the base model and the head. */
  constructor(base: CausalLM, score: Linear) {
    super();
    if (score.inFeatures !== base.shape.hidden)
      throw new ConfigError(
        `the classification head reads ${score.inFeatures} channels, the model has ${base.shape.hidden}`,
      );
    // the body keeps its own names, as in the reference's checkpoints; an untied output head is not part of it
    this.base = base;
    this.score = score;
    for (const [name, p] of base.namedParameters())
      if (!name.startsWith('lm_head.')) this.register(name, p);
    this.register('score', score);
  }

  static create(base: CausalLM, labels: number, generator: Generator): SequenceClassifier {
    if (!Number.isInteger(labels) || labels < 2)
      throw new ConfigError(`classification needs at least 2 labels, got ${labels}`);
    return new SequenceClassifier(
      base,
      new Linear({ weight: randn([labels, base.shape.hidden], { std: 0.02, generator }) }),
    );
  }

  get numLabels(): number {
    return this.score.outFeatures;
  }

  get config(): JsonObject {
    const causal = (this.base.config['architectures'] as string[] | undefined)?.[0] ?? '';
    return {
      ...this.base.config,
      architectures: [headOf[causal] ?? causal],
      num_labels: this.numLabels,
    };
  }

  override train(mode = true): this {
    super.train(mode);
    this.base.train(mode);
    return this;
  }

  /** logits (B, labels); with labels the mean cross-entropy. */
  forward(input: ClassificationInput): { logits: Tensor; loss: Tensor | null } {
    const [b, t] = input.inputIds.shape as [number, number];
    const last = input.last ?? new Int32Array(b).fill(t - 1);
    if (last.length !== b)
      throw new ShapeError(`forward: ${last.length} last positions for ${b} rows`);
    return tidy(() => {
      const h = this.base.features({
        inputIds: input.inputIds,
        attentionMask: input.attentionMask ?? null,
      }); // (B, T, C)
      const { device } = h;
      const rows = tensor(
        Int32Array.from({ length: b }, (_, i) => i * t + last[i]!),
        { device },
      );
      const pooled = embedding(rows, reshape(h, [b * t, h.shape[2]!]));
      const logits = this.score.forward(pooled);
      const labels = input.labels && toDevice(input.labels, device);
      return { logits, loss: labels ? crossEntropy(logits, labels) : null };
    });
  }
}
