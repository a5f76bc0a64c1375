// What every decoder-only language model here has in common: the forward contract, the parts that compression works
// on, and names for saving.
import { attention } from '../ops/attention.js';
import { notEqual } from '../ops/elementwise.js';
import { crossEntropy } from '../ops/losses.js';
import { contiguous } from '../ops/cast.js';
import { concat, reshape, slice } from '../ops/view.js';
import type { JsonObject } from '../io/json.js';
import type { Embedding } from '../nn/embedding.js';
import type { KVCache } from '../nn/kv_cache.js';
import type { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import * as check from '../ops/check.js';
import { full } from '../tensor/create.js';
import { OptionError, RootsError, ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

export interface ForwardInput {
  /** (B, T) int32 or int64 */
  inputIds: Tensor;
  /** (B, T), 1 for tokens and 0 for padding, on either side. With a cache: (B, past + T). */
  attentionMask?: Tensor | null;
  /** (B, T) or (T) positions; by default past, past + 1, … */
  positionIds?: Tensor | null;
  /** (B, T); shifted inside by one, -100 is ignored. */
  labels?: Tensor | null;
  cache?: KVCache | null;
  /** Only the logits of the last n positions; 0: all. */
  logitsToKeep?: number;
}

export interface ForwardOutput {
  /** (B, T, V) */
  logits: Tensor;
  /** Mean cross-entropy over labels, when labels were given. */
  loss: Tensor | null;
}

/** One transformer block, as compression sees it. */
export interface Block {
  /** Feed-forward layers whose outputs are the neurons (one, or gate and up). */
  readonly ffnInputs: readonly Linear[];
  /** The layer that reads the neurons. */
  readonly ffnOutput: Linear;
  /** The layer that reads the concatenated heads. */
  readonly attentionOutput: Linear;
  /** All linear layers with their names inside the block. */
  readonly linears: ReadonlyMap<string, Linear>;
}

/** Sizes that compression changes, in one vocabulary for all families. */
export interface Shape {
  layers: number;
  hidden: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  ffn: number;
  vocab: number;
  context: number;
}

/** What one layer needs to attend. */
export interface AttentionInput {
  cache: KVCache | null;
  layer: number;
  mask: Tensor | null;
}

export abstract class CausalLM extends Module {
  /** config.json as it would be saved. */
  abstract readonly config: JsonObject;
  abstract readonly shape: Readonly<Shape>;
  abstract readonly blocks: readonly Block[];
  abstract readonly tokenEmbedding: Embedding;
  /** null when tied to the token embedding. */
  abstract readonly head: Linear | null;

  /** (B, T) ids → (B, T, C), the final norm applied. */
  protected abstract hidden(input: ForwardInput, mask: Tensor | null): Tensor;

  /** The same model, sharing bytes, so that compression can try a stage and throw it away. */
  abstract share(): CausalLM;

  /** A block's heads and layers changed: a model of the new shape from these blocks. */
  abstract withBlocks(keep: readonly number[]): CausalLM;

  forward(input: ForwardInput): ForwardOutput {
    const { inputIds, labels } = input;
    check.tensor('forward', 'inputIds', inputIds);
    check.rank('forward', 'inputIds', inputIds, 2, '(B, T)');
    check.indexDtype('forward', 'inputIds', inputIds);
    const [b, t] = inputIds.shape as [number, number];
    const past = input.cache?.length ?? 0;
    if (past + t > this.shape.context)
      throw new RootsError(
        'ERR_CONTEXT',
        `forward: ${past + t} tokens exceed the model's context of ${this.shape.context}`,
      );
    if (t === 0) throw new ShapeError('forward: inputIds is empty');
    const keep = input.logitsToKeep ?? 0;
    check.integer('forward', 'logitsToKeep', keep, 0);
    if (labels && keep > 0)
      throw new OptionError('forward: labels need all logits; leave logitsToKeep at 0');
    return tidy(() => {
      const mask = this.#mask(input, b, past + t);
      let h = this.hidden(input, mask);
      if (keep > 0 && keep < t) h = contiguous(slice(h, 1, -keep));
      const logits = this.head ? this.head.forward(h) : this.tokenEmbedding.project(h);
      input.cache?.advance(t);
      return { logits, loss: labels ? shiftedLoss(logits, labels) : null };
    });
  }

  /** (B, 1, 1, Tk) bool from a 0/1 mask. */
  #mask(input: ForwardInput, b: number, keys: number): Tensor | null {
    const mask = input.attentionMask;
    if (!mask) return null;
    if (mask.rank !== 2 || mask.shape[0] !== b || mask.shape[1] !== keys)
      throw new ShapeError(
        `forward: attentionMask must have shape [${b}, ${keys}], got ${format(mask.shape)}`,
      );
    return reshape(notEqual(mask, 0), [b, 1, 1, keys]);
  }
}

/** Attention of one layer with its cache: q (B, H, T, D), k, v (B, Hkv, T, D). */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  input: AttentionInput,
  scale: number,
  window = 0,
): Tensor {
  const stored = input.cache?.append(input.layer, k, v);
  return attention(q, stored?.keys ?? k, stored?.values ?? v, {
    causal: true,
    scale,
    window,
    mask: input.mask,
    starts: input.cache?.starts ?? null,
  });
}

/** Mean cross-entropy of logits (B, T, V) against labels (B, T) one position later. */
export function shiftedLoss(logits: Tensor, labels: Tensor): Tensor {
  if (
    labels.rank !== 2 ||
    labels.shape[0] !== logits.shape[0] ||
    labels.shape[1] !== logits.shape[1]
  )
    throw new ShapeError(
      `forward: labels must have the shape of inputIds, [${logits.shape[0]}, ${logits.shape[1]}], got ${format(labels.shape)}`,
    );
  return tidy(() => {
    // the last position predicts nothing: label -100 there keeps the logits whole and uncopied
    const nothing = full([labels.shape[0]!, 1], -100, { dtype: labels.dtype });
    return crossEntropy(logits, concat([slice(labels, 1, 1), nothing], 1), { ignoreIndex: -100 });
  });
}
