// Keys and values of the tokens seen so far, per layer, in buffers that grow by doubling: as floats, or int8 with a scale per row.
import * as kernels from '../native/kernels.gen.js';
import type { Int8Rows } from '../ops/attention.js';
import * as check from '../ops/check.js';
import { empty } from '../tensor/create.js';
import type { DType } from '../tensor/dtype.js';
import { untracked } from '../tensor/scope.js';
import { RootsError } from '../tensor/errors.js';
import type { Tensor } from '../tensor/tensor.js';
import type { RecurrentState } from './recurrent.js';

interface Layer {
  keys: Rows;
  values: Rows;
  capacity: number;
}

/** (B, Hkv, T, D), and of int8 rows their scales (B, Hkv, T). */
interface Rows {
  readonly data: Tensor;
  readonly scale: Tensor | null;
}

export type CacheDType = 'float32' | 'bfloat16' | 'int8';

/** What a layer has stored: tensors for `attention`, or for `attentionI8` where the cache is int8. */
export type Stored =
  | { readonly keys: Tensor; readonly values: Tensor; readonly int8: null }
  | { readonly int8: { readonly keys: Int8Rows; readonly values: Int8Rows } };

/** Tokens [from, to) of a buffer, its third axis. */
const part = (buffer: Tensor, from: number, to: number): Tensor =>
  buffer.view(
    buffer.shape.map((d, i) => (i === 2 ? to - from : d)),
    buffer.strides,
    buffer.offset + from * buffer.strides[2]!,
  );

export class KVCache {
  readonly #layers = new Map<number, Layer>();
  readonly maxLength: number;
  #length = 0;
  /** (B) int64: where each row's text begins, for left-padded batches; null when all begin at 0. */
  starts: Tensor | null = null;
  #recurrent: RecurrentState | null = null;

  readonly #dtype: DType | null;

  /**
   * `dtype`: of what is stored, by default that of the keys given; bfloat16 halves the memory of float32, int8 with a scale per token
   * and head quarters it.
   */
  constructor(maxLength: number, options: { dtype?: CacheDType } = {}) {
    check.knownOptions('KVCache', options, ['dtype']);
    if (options.dtype !== undefined)
      check.oneOf('KVCache', 'dtype', options.dtype, ['float32', 'bfloat16', 'int8']);
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
  append(layer: number, k: Tensor, v: Tensor): Stored {
    const end = this.#length + k.shape[2]!;
    if (end > this.maxLength)
      throw new RootsError(
        'ERR_CONTEXT',
        `the text would be ${end} tokens long, beyond the context of ${this.maxLength}`,
      );
    const { keys, values } = untracked(() => this.#room(layer, k, v, end));
    for (const [source, buffer] of [
      [k, keys],
      [v, values],
    ] as const) {
      const target = part(buffer.data, this.#length, end);
      if (buffer.scale) {
        const scale = part(buffer.scale, this.#length, end);
        kernels.quantize_rows_i8(source, target, scale);
        scale.dispose();
      } else kernels.copy(source, target);
      target.dispose();
    }
    const all = (t: Tensor): Tensor => part(t, 0, end);
    if (!keys.scale || !values.scale)
      return { keys: all(keys.data), values: all(values.data), int8: null };
    return {
      int8: {
        keys: { q: all(keys.data), scale: all(keys.scale) },
        values: { q: all(values.data), scale: all(values.scale) },
      },
    };
  }

  #room(layer: number, k: Tensor, v: Tensor, end: number): Layer {
    const existing = this.#layers.get(layer);
    if (existing && existing.capacity >= end) return existing;
    const capacity = Math.min(this.maxLength, Math.max(64, end, 2 * (existing?.capacity ?? 0)));
    const grow = (
      shape: readonly number[],
      dtype: DType,
      old: Tensor | null | undefined,
    ): Tensor => {
      const buffer = empty(shape, dtype);
      if (old) {
        const from = part(old, 0, this.#length);
        const to = part(buffer, 0, this.#length);
        kernels.copy(from, to);
        from.dispose();
        to.dispose();
        old.dispose();
      }
      return buffer;
    };
    const rows = (like: Tensor, old: Rows | undefined): Rows => {
      const [b, h, , d] = like.shape as [number, number, number, number];
      const dtype = this.#dtype ?? like.dtype;
      return {
        data: grow([b, h, capacity, d], dtype, old?.data),
        scale: dtype === 'int8' ? grow([b, h, capacity], 'float32', old?.scale) : null,
      };
    };
    const grown = { keys: rows(k, existing?.keys), values: rows(v, existing?.values), capacity };
    this.#layers.set(layer, grown);
    return grown;
  }

  dispose(): void {
    for (const { keys, values } of this.#layers.values())
      for (const { data, scale } of [keys, values]) {
        data.dispose();
        scale?.dispose();
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
