// The generation loop: prefill, then one token at a time from the cache. Asynchronous: the event loop is free while
// the native core works.
import { noGrad } from '../autograd/modes.js';
import { asGraph } from '../native/device.js';
import type { CausalLM } from '../models/causal_lm.js';
import type { CacheDType } from '../nn/kv_cache.js';
import { tensor } from '../tensor/create.js';
import { OptionError, RootsError } from '../tensor/errors.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { makeSampler } from './sampler.js';
import type { SamplingOptions } from './sampler.js';

export interface GenerateIdsOptions extends SamplingOptions {
  /** Tokens to generate at most. */
  maxNewTokens: number;
  /** How keys and values are kept (KVCache); by default as the model's createCache() does. */
  cacheDtype?: CacheDType;
  /** Tokens that end a sequence. */
  eosTokenIds?: readonly number[];
  signal?: AbortSignal;
}

/** Why a sequence ended: an end token, the limit, the model's context, a stop string, or the caller. */
export type FinishReason = 'eos' | 'length' | 'context' | 'stop';

/** One step of all sequences: the new token of each, or null for those that have ended. */
export type Step = (number | null)[];

/**
 * Token ids after each prompt, step by step. Prompts may differ in length: they are aligned at their ends. The consumer
 * may stop a sequence early by setting its entry of `stopped`.
 */
export async function* generateIds(
  model: CausalLM,
  prompts: readonly (readonly number[])[],
  options: GenerateIdsOptions,
  stopped: boolean[] = prompts.map(() => false),
  reasons: (FinishReason | null)[] = prompts.map(() => null),
): AsyncGenerator<Step> {
  const { maxNewTokens, signal } = options;
  if (!Number.isSafeInteger(maxNewTokens) || maxNewTokens < 0)
    throw new OptionError(
      `generate: maxNewTokens must be an integer from 0, got ${String(maxNewTokens)}`,
    );
  const width = Math.max(...prompts.map((p) => p.length));
  if (prompts.length === 0 || prompts.some((p) => p.length === 0))
    throw new OptionError(
      'generate: a prompt without tokens has nothing to continue; give some text, or a tokenizer that adds a beginning-of-text token',
    );
  const { context, vocab } = model.shape;
  if (width > context || (width === context && maxNewTokens > 0))
    throw new RootsError(
      'ERR_CONTEXT',
      `generate: the prompt has ${width} tokens, the model's context is ${context}; shorten the prompt`,
    );
  for (const p of prompts)
    for (const id of p)
      if (!(id >= 0 && id < vocab))
        throw new OptionError(
          `generate: token id ${id} lies outside the model's vocabulary of ${vocab}`,
        );
  if (maxNewTokens === 0) return;
  signal?.throwIfAborted();

  const samplers = prompts.map((_, i) => makeSampler(options, i));
  const seen = prompts.map((p) => [...p]);
  const eos = new Set(options.eosTokenIds ?? []);
  const ragged = prompts.some((p) => p.length !== width);
  const cache = model.createCache(
    options.cacheDtype === undefined ? {} : { dtype: options.cacheDtype },
  );
  if (ragged)
    cache.starts = untracked(() =>
      tensor(
        BigInt64Array.from(prompts, (p) => BigInt(width - p.length)),
        { device: model.device },
      ),
    );
  const { device } = model;
  const forward = (ids: Int32Array, t: number, positions: Int32Array | null): Tensor =>
    tidy(() => {
      // on the device before the graph begins, which an upload would divide
      const place = { shape: [prompts.length, t], device };
      const inputIds = tensor(ids, place);
      const positionIds = positions && tensor(positions, place);
      const run = (): Tensor =>
        noGrad(() => model.forward({ inputIds, positionIds, cache, logitsToKeep: 1 }).logits);
      return t === 1 ? asGraph(device, 'decode', run) : run();
    });
  try {
    const ids = new Int32Array(prompts.length * width);
    const positions = new Int32Array(prompts.length * width);
    prompts.forEach((p, b) => {
      const start = width - p.length;
      ids.set(p, b * width + start);
      p.forEach((_, i) => (positions[b * width + start + i] = i));
    });
    let logits = forward(ids, width, ragged ? positions : null);
    for (let step = 0; ; step++) {
      const values = (await readAndDispose(logits)) as Float32Array;
      signal?.throwIfAborted();
      const tokens: Step = prompts.map((_, b) => {
        if (stopped[b]) return null;
        const token = samplers[b]!.next(values.subarray(b * vocab, (b + 1) * vocab), seen[b]!);
        seen[b]!.push(token);
        if (eos.has(token)) {
          stopped[b] = true;
          reasons[b] = 'eos';
        }
        return token;
      });
      yield tokens;
      const last = step + 1 === maxNewTokens;
      const full = cache.length >= context;
      if (last || full)
        prompts.forEach(
          (_, b) => (reasons[b] ??= stopped[b] ? 'stop' : last ? 'length' : 'context'),
        );
      if (last || full || stopped.every(Boolean)) return;
      signal?.throwIfAborted();
      const next = Int32Array.from(tokens, (t) => t ?? 0);
      const at = ragged ? Int32Array.from(prompts, (p) => p.length + step) : null;
      logits = forward(next, 1, at);
    }
  } finally {
    cache.dispose();
  }
}

async function readAndDispose(t: Tensor): Promise<ArrayLike<number>> {
  try {
    return (await t.data()) as Float32Array;
  } finally {
    t.dispose();
  }
}
