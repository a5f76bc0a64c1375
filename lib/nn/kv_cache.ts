// Keys and values of the tokens seen so far, per layer, in buffers that grow by doubling.
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { untracked } from '../tensor/scope.js';
import { RootsError } from '../tensor/errors.js';
import type { Tensor } from '../tensor/tensor.js';
import type { RecurrentState } from './recurrent.js';

interface Layer {
  keys: Tensor;
  values: Tensor;
  capacity: number;
}

export class KVCache {
  readonly #layers = new Map<number, Layer>();
  readonly maxLength: number;
  #length = 0;
  /** (B) int64: where each row's text begins, for left-padded batches; null when all begin at 0. */
  starts: Tensor | null = null;
  #recurrent: RecurrentState | null = null;

  readonly #dtype: DType | null;

  /** `dtype`: of what is stored, by default that of the keys given; bfloat16 halves the memory. */
  constructor(maxLength: number, options: { dtype?: 'float32' | 'bfloat16' } = {}) {
    this.maxLength = maxLength;
    this.#dtype = options.dtype ?? null;
  }

  /** What recurrent layers carry from token to token, instead of keys and values. */
  get recurrent(): RecurrentState | null {
    return this.#recurrent;
  }

  /** Keeps copies that outlive the forward they came from. */
  setRecurrent(state: RecurrentState): void {
    const old = this.#recurrent;
    this.#recurrent = untracked(() => ({
      h: state.h.detach(),
      ...(state.c && { c: state.c.detach() }),
    }));
    old?.h.dispose();
    old?.c?.dispose();
  }

  /** Tokens stored so far. */
  get length(): number {
    return this.#length;
  }

  /** Call once per forward, after all layers. */
  advance(count: number): void {
    this.#length += count;
  }

  /** Forgets the tokens from `length` on; their room stays. */
  rewind(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length)
      throw new RangeError(
        `rewind: expected an integer from 0 to the ${this.#length} tokens stored, got ${length}`,
      );
    this.#length = length;
  }

  /** Stores k, v (B, Hkv, T, D) of one layer behind the tokens so far; returns views of everything stored. */
  append(layer: number, k: Tensor, v: Tensor): { keys: Tensor; values: Tensor } {
    const end = this.#length + k.shape[2]!;
    if (end > this.maxLength)
      throw new RootsError(
        'ERR_CONTEXT',
        `the text would be ${end} tokens long, beyond the context of ${this.maxLength}`,
      );
    const store = untracked(() => this.#room(layer, k, v, end));
    const part = (buffer: Tensor, from: number, to: number): Tensor =>
      buffer.view(
        buffer.shape.map((d, i) => (i === 2 ? to - from : d)),
        buffer.strides,
        buffer.offset + from * buffer.strides[2]!,
      );
    for (const [source, buffer] of [
      [k, store.keys],
      [v, store.values],
    ] as const) {
      const target = part(buffer, this.#length, end);
      kernels.copy(source, target);
      target.dispose();
    }
    return { keys: part(store.keys, 0, end), values: part(store.values, 0, end) };
  }

  #room(layer: number, k: Tensor, v: Tensor, end: number): Layer {
    const existing = this.#layers.get(layer);
    if (existing && existing.capacity >= end) return existing;
    const capacity = Math.min(this.maxLength, Math.max(64, end, 2 * (existing?.capacity ?? 0)));
    const grow = (like: Tensor, old: Tensor | undefined): Tensor => {
      const [b, h, , d] = like.shape as [number, number, number, number];
      const buffer = empty([b, h, capacity, d], this.#dtype ?? like.dtype);
      if (old) {
        const used = [b, h, this.#length, d];
        const from = old.view(used, old.strides, 0);
        const to = buffer.view(used, buffer.strides, 0);
        kernels.copy(from, to);
        from.dispose();
        to.dispose();
        old.dispose();
      }
      return buffer;
    };
    const grown = { keys: grow(k, existing?.keys), values: grow(v, existing?.values), capacity };
    this.#layers.set(layer, grown);
    return grown;
  }

  dispose(): void {
    for (const { keys, values } of this.#layers.values()) {
      keys.dispose();
      values.dispose();
    }
    this.#layers.clear();
    this.#recurrent?.h.dispose();
    this.#recurrent?.c?.dispose();
    this.#recurrent = null;
    this.starts?.dispose();
    this.starts = null;
    this.#length = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
