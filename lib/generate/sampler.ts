// From the logits of one position to a token: the processors of Hugging Face generate(), in its order, then a draw.
import { OptionError, RootsError } from '../tensor/errors.js';

export interface SamplingOptions {
  /** Always the most likely token; the other sampling options are then refused. Default when none of them is given. */
  greedy?: boolean;
  temperature?: number;
  /** Keep the k most likely tokens. */
  topK?: number;
  /** Keep the smallest set of tokens whose probability reaches p (Holtzman et al., arXiv 1904.09751). */
  topP?: number;
  /** Drop tokens less likely than this share of the most likely one (arXiv 2407.01082). */
  minP?: number;
  /** Divide positive and multiply negative logits of tokens already seen (Keskar et al., arXiv 1909.05858). */
  repetitionPenalty?: number;
  seed?: number;
}

const samplingKeys = ['temperature', 'topK', 'topP', 'minP'] as const;

export interface Sampler {
  /** Chooses a token; `seen` are the tokens so far, prompt included. `logits` is changed. */
  next(logits: Float32Array, seen: readonly number[]): number;
}

function inRange(name: string, value: number | undefined, low: number, high: number): void {
  if (value !== undefined && !(typeof value === 'number' && value >= low && value <= high))
    throw new OptionError(
      `generate: ${name} must be a number from ${low} to ${high}, got ${String(value)}`,
    );
}

/** Checks the options and makes the sampler of one sequence. */
export function makeSampler(options: SamplingOptions, stream = 0): Sampler {
  inRange('temperature', options.temperature, 1e-6, 1e6);
  inRange('topP', options.topP, 0, 1);
  inRange('minP', options.minP, 0, 1);
  inRange('repetitionPenalty', options.repetitionPenalty, 1e-6, 1e6);
  inRange('seed', options.seed, 0, Number.MAX_SAFE_INTEGER);
  if (options.topK !== undefined && !(Number.isInteger(options.topK) && options.topK >= 1))
    throw new OptionError(`generate: topK must be an integer from 1, got ${String(options.topK)}`);
  const given = samplingKeys.filter((k) => options[k] !== undefined);
  if (options.greedy === true && given.length > 0)
    throw new OptionError(
      `generate: greedy excludes ${given.join(', ')}; leave greedy out to sample`,
    );
  const greedy = options.greedy ?? (given.length === 0 && options.seed === undefined);
  const random = counterRandom(options.seed ?? 0, stream);
  return {
    next(logits, seen) {
      checkNumbers(logits);
      if (options.repetitionPenalty !== undefined)
        penalise(logits, seen, options.repetitionPenalty);
      return greedy ? argmax(logits) : draw(process(logits, options), random());
    },
  };
}

/** No draw makes sense of NaN, and the most likely of NaNs would be token 0. */
function checkNumbers(logits: Float32Array): void {
  for (let i = 0; i < logits.length; i++)
    if (!(logits[i]! < Infinity))
      throw new RootsError(
        'ERR_NOT_FINITE',
        `generate: the model gave ${logits[i]} for token ${i}; its weights are damaged, or its activations overflow (try dtype float32)`,
      );
}

export function argmax(x: Float32Array): number {
  let best = 0;
  for (let i = 1; i < x.length; i++) if (x[i]! > x[best]!) best = i;
  return best;
}

export function penalise(logits: Float32Array, seen: readonly number[], penalty: number): void {
  for (const id of new Set(seen)) {
    const value = logits[id]!;
    logits[id] = value < 0 ? value * penalty : value / penalty;
  }
}

/** Temperature, top-k, top-p, min-p; removed tokens become -Infinity. Changes and returns `logits`. */
export function process(logits: Float32Array, options: SamplingOptions): Float32Array {
  const { temperature, topK, topP, minP } = options;
  if (temperature !== undefined)
    for (let i = 0; i < logits.length; i++) logits[i] = logits[i]! / temperature;
  if (topK !== undefined && topK < logits.length) {
    const threshold = logits.toSorted((a, b) => b - a)[topK - 1]!;
    for (let i = 0; i < logits.length; i++) if (logits[i]! < threshold) logits[i] = -Infinity;
  }
  if (topP !== undefined && topP < 1) {
    // ascending: drop while the probability up to and including a token is at most 1 - p; the last always stays
    const order = Uint32Array.from(logits.keys()).toSorted(
      (a, b) => logits[a]! - logits[b]! || a - b,
    );
    const p = probabilities(logits);
    let sum = 0;
    for (let i = 0; i < order.length - 1; i++) {
      sum += p[order[i]!]!;
      if (sum > 1 - topP) break;
      logits[order[i]!] = -Infinity;
    }
  }
  if (minP !== undefined && minP > 0) {
    const p = probabilities(logits);
    const floor = minP * p.reduce((a, b) => Math.max(a, b), 0);
    for (let i = 0; i < logits.length; i++) if (p[i]! < floor) logits[i] = -Infinity;
  }
  return logits;
}

export function probabilities(logits: Float32Array): Float64Array {
  let top = -Infinity;
  for (const x of logits) if (x > top) top = x;
  const p = Float64Array.from(logits, (x) => Math.exp(x - top));
  const total = p.reduce((a, b) => a + b, 0);
  return p.map((x) => x / total);
}

/** The first token whose cumulative probability exceeds u. */
function draw(logits: Float32Array, u: number): number {
  const p = probabilities(logits);
  let sum = 0;
  let last = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] === 0) continue;
    sum += p[i]!;
    last = i;
    if (u < sum) return i;
  }
  return last;
}

/** Uniform numbers in [0, 1) that depend on (seed, stream, count) alone: a 32-bit mixer over a counter. */
function counterRandom(seed: number, stream: number): () => number {
  let count = 0;
  const mix = (h: number): number => {
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return (h ^ (h >>> 16)) >>> 0;
  };
  const low = seed >>> 0;
  const high = Math.floor(seed / 2 ** 32) >>> 0;
  return () => {
    const a = mix((count = (count + 1) >>> 0) ^ mix(low ^ mix(high ^ mix(stream + 0x9e3779b9))));
    const b = mix(a ^ 0x6a09e667);
    return ((a >>> 5) * 67108864 + (b >>> 6)) / 2 ** 53;
  };
}
