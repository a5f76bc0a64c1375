// What every decoder-only language model here has in common: the forward contract, the parts that compression works
// on, and names for saving.
import { attention, attentionI8, packedAttention } from '../ops/attention.js';
import type { Int8Rows } from '../ops/attention.js';
import { checkpoint } from '../autograd/checkpoint.js';
import { autocast, isGradEnabled } from '../autograd/modes.js';
import { willRecord } from '../autograd/record.js';
import { dropout } from '../ops/dropout.js';
import { add, greaterEqual, mul, notEqual, sub, where } from '../ops/elementwise.js';
import { linearCrossEntropy } from '../ops/linear_cross_entropy.js';
import { crossEntropy } from '../ops/losses.js';
import { cast, contiguous, toDevice } from '../ops/cast.js';
import { matmul } from '../ops/matmul.js';
import { softmax } from '../ops/softmax.js';
import {
  concat,
  expand,
  permute,
  reshape,
  slice,
  transpose,
  tril,
  unsqueeze,
} from '../ops/view.js';
import type { JsonObject } from '../io/json.js';
import type { Embedding } from '../nn/embedding.js';
import { KVCache } from '../nn/kv_cache.js';
import type { CacheDType } from '../nn/kv_cache.js';
import type { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { hasOtherDevices } from '../native/device.js';
import type { Device } from '../native/device.js';
import * as check from '../ops/check.js';
import { arange, full, ones } from '../tensor/create.js';
import { OptionError, RootsError, ShapeError } from '../tensor/errors.js';
import { tidy, track, untracked } from '../tensor/scope.js';
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
  /** Also return what enters each block, and what leaves the final norm. */
  outputHiddenStates?: boolean;
  /** Also return the attention probabilities of every layer (computed beside the fused kernel, in full). */
  outputAttentions?: boolean;
  /** Called with what each layer attends with: q (B, H, T, D), k and v (B, Hkv, T, D). Handles live as long as the forward. */
  observeAttention?: (layer: number, q: Tensor, k: Tensor, v: Tensor) => void;
}

export interface ForwardOutput {
  /** (B, T, V) */
  logits: Tensor;
  /** Mean cross-entropy over labels, when labels were given. */
  loss: Tensor | null;
  /** layers + 1 tensors (B, T, C), when asked for: the embeddings, what leaves each block, the last one after the final norm. */
  hiddenStates?: Tensor[];
  /** One (B, H, T, Tk) per layer, when asked for. */
  attentions?: Tensor[];
}

/** What a loss needs: next-token targets beside the ids, or labels that are shifted inside. */
export type LossInput = Pick<ForwardInput, 'inputIds' | 'attentionMask' | 'positionIds'> & {
  /** (B, T): the token that follows each position; -100 is ignored. */
  targets?: Tensor;
  /** (B, T): shifted inside by one; -100 is ignored. */
  labels?: Tensor;
  labelSmoothing?: number;
};

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
  /** Probability of dropping an attention weight; above 0 the fused kernel is not used. */
  dropout?: number;
  observe?: ForwardInput['observeAttention'];
  /** Receives the attention probabilities. */
  attentions?: Tensor[] | null;
}

/** What hidden() collects on its way. */
export interface Collect {
  states: Tensor[] | null;
  attentions: Tensor[] | null;
}

export abstract class CausalLM extends Module {
  /** config.json as it would be saved. */
  abstract readonly config: JsonObject;
  abstract readonly shape: Readonly<Shape>;
  abstract readonly blocks: readonly Block[];
  abstract readonly tokenEmbedding: Embedding;
  /** null when tied to the token embedding. */
  abstract readonly head: Linear | null;

  /** Blocks recompute their inside in backward() instead of keeping it. */
  gradientCheckpointing = false;

  /** Weights stored in bfloat16 ask for products, attention's included, of bfloat16 numbers. */
  #inOwnPrecision<T>(fn: () => T): T {
    return this.tokenEmbedding.storesBfloat16 && !isGradEnabled() ? autocast('bfloat16', fn) : fn();
  }

  /**
   * An empty cache for this model's context. What it holds is bfloat16 where weights are stored in bfloat16 or as integers, unless
   * `dtype` says otherwise: each token reads all of it, and it is rounded less than they are.
   */
  createCache(options: { dtype?: CacheDType } = {}): KVCache {
    const narrow =
      this.tokenEmbedding.storesBfloat16 ||
      this.blocks.some((block) => [...block.linears.values()].some((layer) => layer.scheme));
    return new KVCache(this.shape.context, narrow ? { dtype: 'bfloat16', ...options } : options);
  }

  /** (B, T) ids → (B, T, C), the final norm applied. */
  protected abstract hidden(input: ForwardInput, mask: Tensor | null, collect: Collect): Tensor;

  /** One block, by way of checkpoint() when that is wanted. */
  protected runBlock<H extends Record<string, Tensor | null>>(
    block: Module,
    x: Tensor,
    held: H,
    forward: (x: Tensor, held: H) => Tensor,
  ): Tensor {
    return this.gradientCheckpointing && isGradEnabled()
      ? checkpoint(forward, x, { parameters: block.parameters(), held })
      : forward(x, held);
  }

  /** The same model, sharing bytes, so that compression can try a stage and throw it away. */
  abstract share(): CausalLM;

  /** A block's heads and layers changed: a model of the new shape from these blocks. */
  abstract withBlocks(keep: readonly number[]): CausalLM;

  forward(given: ForwardInput): ForwardOutput {
    if (hasOtherDevices()) {
      const { device } = this;
      if (inputsOf(given).some((t) => t.device !== device))
        return tidy(() => this.forward(placed(given, device)));
    }
    const input = given;
    const { inputIds, labels } = input;
    check.tensor('forward', 'inputIds', inputIds);
    check.rank('forward', 'inputIds', inputIds, 2, '(B, T)');
    check.indexDtype('forward', 'inputIds', inputIds);
    const [b, t] = inputIds.shape as [number, number];
    const past = input.cache?.length ?? 0;
    this.#checkLength(past + t);
    if (t === 0) throw new ShapeError('forward: inputIds is empty');
    const keep = input.logitsToKeep ?? 0;
    check.integer('forward', 'logitsToKeep', keep, 0);
    if (labels && keep > 0)
      throw new OptionError('forward: labels need all logits; leave logitsToKeep at 0');
    return tidy(() => {
      const mask = this.#mask(input, b, past + t);
      const collect: Collect = {
        states: input.outputHiddenStates ? [] : null,
        attentions: input.outputAttentions ? [] : null,
      };
      let h = this.#inOwnPrecision(() => this.hidden(input, mask, collect));
      collect.states?.push(h);
      collect.attentions?.forEach(track);
      if (keep > 0 && keep < t) h = contiguous(slice(h, 1, -keep));
      const logits = this.project(h);
      input.cache?.advance(t);
      const loss = labels ? shiftedLoss(logits, labels) : null;
      return {
        logits,
        loss,
        ...(collect.states && { hiddenStates: collect.states }),
        ...(collect.attentions && { attentions: collect.attentions }),
      };
    });
  }

  /** (B, T, C): what the output head reads. */
  features(given: ForwardInput): Tensor {
    if (hasOtherDevices()) {
      const { device } = this;
      if (inputsOf(given).some((t) => t.device !== device))
        return tidy(() => this.features(placed(given, device)));
    }
    const input = given;
    const [b, t] = input.inputIds.shape as [number, number];
    this.#checkLength(t);
    return tidy(() =>
      this.#inOwnPrecision(() =>
        this.hidden(input, this.#mask(input, b, t), { states: null, attentions: null }),
      ),
    );
  }

  /** (…, C) features → (…, V) logits. */
  project(features: Tensor): Tensor {
    return this.head ? this.head.forward(features) : this.tokenEmbedding.project(features);
  }

  /** The output head's weight (V, C); float models only. */
  get outputWeight(): Tensor {
    return this.head ? this.head.weight : this.tokenEmbedding.weight;
  }

  /** Mean cross-entropy of the next token, without ever holding all logits. */
  loss(input: LossInput): Tensor {
    const { targets, labels, labelSmoothing = 0, ...rest } = input;
    if ((targets === undefined) === (labels === undefined))
      throw new OptionError('loss: give targets or labels, one of the two');
    return tidy(() => {
      const h = this.features(rest);
      const next = toDevice(targets ?? shifted(labels!, h.shape), h.device);
      if (this.head?.bias)
        return crossEntropy(this.head.forward(h), next, { ignoreIndex: -100, labelSmoothing });
      return linearCrossEntropy(h, this.outputWeight, next, { ignoreIndex: -100, labelSmoothing });
    });
  }

  #checkLength(tokens: number): void {
    if (tokens > this.shape.context)
      throw new RootsError(
        'ERR_CONTEXT',
        `forward: ${tokens} tokens exceed the model's context of ${this.shape.context}`,
      );
    if (tokens === 0) throw new ShapeError('forward: inputIds is empty');
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

const inputNames = ['inputIds', 'positionIds', 'attentionMask', 'labels'] as const;

function inputsOf(input: ForwardInput): Tensor[] {
  return inputNames.flatMap((name) => input[name] ?? []);
}

/** The integer inputs on the model's device, wherever the caller made them. */
function placed(input: ForwardInput, device: Device): ForwardInput {
  const moved = inputNames.flatMap((name) => {
    const t = input[name];
    return t ? [[name, toDevice(t, device)] as const] : [];
  });
  return { ...input, ...Object.fromEntries(moved) };
}

const like = (x: Tensor, q: Tensor): Tensor => (x.dtype === q.dtype ? x : cast(x, q.dtype));

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
  input.observe?.(input.layer, q, k, v);
  const drop = input.dropout ?? 0;
  const options = {
    causal: true,
    scale,
    window,
    mask: input.mask,
    starts: input.cache?.starts ?? null,
  };
  if (stored?.int8 && !input.attentions && drop === 0)
    return attentionI8(q, stored.int8.keys, stored.int8.values, options);
  const [keys, values] = !stored
    ? [k, v]
    : stored.int8
      ? [widened(stored.int8.keys), widened(stored.int8.values)]
      : [stored.keys, stored.values];
  if (input.attentions || drop > 0) {
    const probabilities = attentionWeights(q, like(keys, q), input, scale, window);
    // the block's tidy() ends before the forward does
    if (input.attentions) input.attentions.push(untracked(() => probabilities.detach()));
    if (drop > 0)
      return matmul(dropout(probabilities, drop), repeatHeads(like(values, q), q.shape[1]!));
  }
  return attention(q, keys, values, options);
}

const widened = ({ q, scale }: Int8Rows): Tensor =>
  mul(cast(q, 'float32'), reshape(scale, [...scale.shape, 1]));

/** The same for queries, keys and values side by side: (B, T, 3C) → (B, T, C), without a copy where nobody looks inside. */
export function attendPacked(
  qkv: Tensor,
  heads: number,
  input: AttentionInput,
  scale: number,
): Tensor {
  const { cache, mask, dropout: drop = 0, observe, attentions } = input;
  if (!cache && !mask && drop === 0 && !observe && !attentions)
    return packedAttention(qkv, heads, { causal: true, scale });
  const c = qkv.shape[2]! / 3;
  const [q, k, v] = [0, c, 2 * c].map((start) => splitHeads(qkv, heads, start, c)) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  return joinHeads(attend(q, k, v, input, scale));
}

/**
 * The heads of what a layer gives side by side: (B, T, …) of which channels [start, start + heads · D) are (heads, D) → (B, heads, T, D),
 * a view.
 */
export function splitHeads(x: Tensor, heads: number, start: number, channels: number): Tensor {
  const [b, t, width] = x.shape as [number, number, number];
  const d = channels / heads;
  if (x.isContiguous && !willRecord(x))
    return x.view([b, heads, t, d], [t * width, d, width, 1], x.offset + start);
  return permute(reshape(slice(x, 2, start, start + channels), [b, t, heads, d]), [0, 2, 1, 3]);
}

/** (B, H, T, D) → (B, T, H D) */
export function joinHeads(x: Tensor): Tensor {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  // as attention makes them
  const [, head, token, one] = x.strides as [number, number, number, number];
  if (head === d && token === h * d && one === 1 && !willRecord(x))
    return x.view([b, t, h * d], [t * h * d, h * d, 1], x.offset);
  return reshape(contiguous(permute(x, [0, 2, 1, 3])), [b, t, h * d]);
}

/** (B, Hkv, T, D) → (B, H, T, D): each key head serves its group. */
function repeatHeads(x: Tensor, heads: number): Tensor {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  if (h === heads) return x;
  return reshape(expand(unsqueeze(x, 2), [b, h, heads / h, t, d]), [b, heads, t, d]);
}

/** softmax(q kᵀ scale + masks), (B, H, T, Tk): what the fused kernel never writes down. */
function attentionWeights(
  q: Tensor,
  k: Tensor,
  input: AttentionInput,
  scale: number,
  window: number,
): Tensor {
  const [, h, t] = q.shape as [number, number, number, number];
  const keys = k.shape[2]!;
  const past = keys - t;
  return tidy(() => {
    // query i sees keys past + i - window < j <= past + i
    const triangle = (diagonal: number): Tensor =>
      tril(ones([t, keys], { dtype: q.dtype, device: q.device }), diagonal);
    const seen = notEqual(
      window > 0 ? sub(triangle(past), triangle(past - window)) : triangle(past),
      0,
    );
    const scores = mul(matmul(q, transpose(repeatHeads(k, h))), scale);
    let masked = where(seen, scores, -Infinity);
    const starts = input.cache?.starts;
    if (starts) {
      const begun = greaterEqual(
        arange(0, keys, 1, { dtype: 'int64', device: q.device }),
        unsqueeze(starts, 1),
      ); // (B, Tk)
      masked = where(reshape(begun, [starts.size, 1, 1, keys]), masked, -Infinity);
    }
    if (input.mask)
      masked =
        input.mask.dtype === 'bool'
          ? where(input.mask, masked, -Infinity)
          : add(masked, input.mask);
    return softmax(masked);
  });
}

/** Mean cross-entropy of logits (B, T, V) against labels (B, T) one position later. */
export function shiftedLoss(logits: Tensor, labels: Tensor): Tensor {
  return tidy(() => crossEntropy(logits, shifted(labels, logits.shape), { ignoreIndex: -100 }));
}

/** Labels moved one position to the left; the last position predicts nothing, which keeps logits whole and uncopied. */
function shifted(labels: Tensor, shape: readonly number[]): Tensor {
  if (labels.rank !== 2 || labels.shape[0] !== shape[0] || labels.shape[1] !== shape[1])
    throw new ShapeError(
      `forward: labels must have the shape of inputIds, [${shape[0]}, ${shape[1]}], got ${format(labels.shape)}`,
    );
  const nothing = full([labels.shape[0]!, 1], -100, { dtype: labels.dtype, device: labels.device });
  return concat([slice(labels, 1, 1), nothing], 1);
}
