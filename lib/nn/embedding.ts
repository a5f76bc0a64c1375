// Embedding: a table of rows, float or int8 per row; also the output head of models that tie the two.
import { cast } from '../ops/cast.js';
import { embedding } from '../ops/index_select.js';
import { linear } from '../ops/matmul.js';
import { embeddingI8, linearW8A16, linearW8A8, packI8 } from '../ops/matmul_i8.js';
import { RootsError } from '../tensor/errors.js';
import { keep, tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Int8Scheme } from './linear.js';
import { Module } from './module.js';

export class Embedding extends Module {
  #weight: Tensor | null;
  #int8: { q: Tensor; scale: Tensor; scheme: Int8Scheme; packed: Tensor | null } | null = null;
  #shape: readonly [rows: number, width: number];
  #stored = false;

  constructor(weight: Tensor) {
    super();
    this.#weight = this.register('weight', weight);
    this.#shape = [weight.shape[0]!, weight.shape[1]!];
  }

  get numEmbeddings(): number {
    return this.#shape[0];
  }
  get width(): number {
    return this.#shape[1];
  }
  get scheme(): Int8Scheme | null {
    return this.#int8?.scheme ?? null;
  }
  get weight(): Tensor {
    if (!this.#weight)
      throw new RootsError('ERR_MODULE', 'Embedding: the table is int8; there is no float weight');
    return this.#weight;
  }

  /** Whether storeBfloat16() was called. */
  get storesBfloat16(): boolean {
    return this.#stored;
  }

  /** ids (…) → (…, C) */
  forward(ids: Tensor): Tensor {
    if (this.#int8) return embeddingI8(ids, this.#int8.q, this.#int8.scale);
    const rows = embedding(ids, this.#weight!);
    if (!this.#stored) return rows;
    const wide = cast(rows, 'float32');
    rows.dispose();
    return wide;
  }

  /** Stores the table in bfloat16 for inference; rows and projections stay float32. */
  storeBfloat16(): void {
    const weight = this.#weight;
    if (!weight) return;
    this.#stored = true;
    tidy(() => weight.setData(cast(weight.detach(), 'bfloat16')));
  }

  /** The tied output head: x (…, C) → (…, V) */
  project(x: Tensor): Tensor {
    const int8 = this.#int8;
    if (!int8) return linear(x, this.#weight!);
    // the product wants its own layout; made on first use, since an untied table never needs it
    int8.packed ??= this.register('packed', keep(packI8(int8.q)));
    return (int8.scheme === 'w8a8' ? linearW8A8 : linearW8A16)(x, int8.packed, int8.scale);
  }

  /** New float rows; takes over the tensor. */
  setWeight(weight: Tensor): void {
    this.replace('weight', weight);
    this.#weight = weight;
    this.#shape = [weight.shape[0]!, weight.shape[1]!];
  }

  /** Exchanges the table for int8 rows (V, C) with a scale per row. Takes over both tensors. */
  setInt8(q: Tensor, scale: Tensor, scheme: Int8Scheme): void {
    this.replace('weight', null);
    this.#weight = null;
    this.#int8 = {
      q: this.register('q', q),
      scale: this.register('scale', scale),
      scheme,
      packed: null,
    };
  }

  quantized(): { q: Tensor; scale: Tensor; scheme: Int8Scheme; group: number } | null {
    if (!this.#int8) return null;
    const { q, scale, scheme } = this.#int8;
    return { q, scale, scheme, group: this.width };
  }

  share(): Embedding {
    if (this.#int8)
      throw new RootsError(
        'ERR_MODULE',
        'Embedding: int8 tables cannot be shared; compress from the float model',
      );
    return new Embedding(this.#weight!.detach());
  }
}
