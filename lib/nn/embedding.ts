// Embedding: a table of rows, float, int8 per row or int4 per row and group; also the output head of models that tie the two.
import { cast } from '../ops/cast.js';
import * as check from '../ops/check.js';
import { embedding } from '../ops/index_select.js';
import { linear } from '../ops/matmul.js';
import { embeddingI4, linearW4A16, packI4, unpackI4 } from '../ops/matmul_i4.js';
import { embeddingI8, linearW8A16, linearW8A8, packI8, unpackI8 } from '../ops/matmul_i8.js';
import { empty } from '../tensor/create.js';
import { RootsError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Int8Scheme, QuantScheme } from './linear.js';
import { normal } from './init.js';
import type { ParameterOptions } from './init.js';
import { Module } from './module.js';

function initialTable(rows: number, width: number, options: ParameterOptions): Tensor {
  check.integer('Embedding', 'numEmbeddings', rows, 1);
  check.integer('Embedding', 'width', width, 1);
  check.knownOptions('Embedding', options, ['generator', 'dtype']);
  const { generator = defaultGenerator(), dtype = 'float32' } = options;
  return normal(empty([rows, width], dtype), { generator });
}

export class Embedding extends Module {
  #weight: Tensor | null;
  /** `table`: rows as they are, or packed, once the table has been an output head. */
  #int8: { table: Tensor; packed: boolean; scale: Tensor; scheme: Int8Scheme } | null = null;
  #int4: { packed: Tensor; group: number } | null = null;
  #shape: readonly [rows: number, width: number];
  #stored = false;

  /** A new table with torch.nn.Embedding's initial values: normal with mean 0 and variance 1. */
  constructor(numEmbeddings: number, width: number, options?: ParameterOptions);
  /** A given table (rows, width), which the module takes over. */
  constructor(weight: Tensor);
  constructor(first: Tensor | number, width: number = 0, options: ParameterOptions = {}) {
    super();
    const weight = typeof first === 'number' ? initialTable(first, width, options) : first;
    check.tensor('Embedding', 'weight', weight);
    check.rank('Embedding', 'weight', weight, 2, '(rows, width)');
    this.#weight = this.register('weight', weight);
    this.#shape = [weight.shape[0]!, weight.shape[1]!];
  }

  get numEmbeddings(): number {
    return this.#shape[0];
  }
  get width(): number {
    return this.#shape[1];
  }
  get scheme(): QuantScheme | null {
    return this.#int4 ? 'w4a16' : (this.#int8?.scheme ?? null);
  }
  get weight(): Tensor {
    if (!this.#weight)
      throw new RootsError(
        'ERR_MODULE',
        `Embedding: the table is quantized (${this.scheme}); there is no float weight`,
      );
    return this.#weight;
  }

  /** Whether storeBfloat16() was called. */
  get storesBfloat16(): boolean {
    return this.#stored;
  }

  /** ids (…) → (…, C) */
  forward(ids: Tensor): Tensor {
    if (this.#int8) {
      const { table, packed, scale } = this.#int8;
      return embeddingI8(ids, table, scale, packed ? { width: this.width } : {});
    }
    if (this.#int4) {
      const { packed, group } = this.#int4;
      return embeddingI4(ids, packed, { rows: this.numEmbeddings, width: this.width, group });
    }
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
    if (this.#int4) {
      const { packed, group } = this.#int4;
      return linearW4A16(x, packed, null, { outputs: this.numEmbeddings, group });
    }
    const int8 = this.#int8;
    if (!int8) return linear(x, this.#weight!);
    // the product wants its own layout; made on first use, since an untied table never needs it
    if (!int8.packed) {
      int8.table = this.replaceAs(
        'q',
        'packed',
        untracked(() => packI8(int8.table)),
      );
      int8.packed = true;
    }
    return (int8.scheme === 'w8a8' ? linearW8A8 : linearW8A16)(x, int8.table, int8.scale);
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
      table: this.register('q', q),
      packed: false,
      scale: this.register('scale', scale),
      scheme,
    };
  }

  /** Exchanges the table for int4 values (V, C) with a scale (V, ⌈C / group⌉). Takes over both tensors. */
  setInt4(q: Tensor, scale: Tensor, group: number): void {
    const packed = packI4(q, scale, { group });
    q.dispose();
    scale.dispose();
    this.replace('weight', null);
    this.#weight = null;
    this.#int4 = { packed: this.register('packed', packed), group };
  }

  override numParameters(): number {
    // panels are padded
    return this.#weight ? super.numParameters() : this.numEmbeddings * this.width;
  }

  /** The quantized values (V, C) in int8 and their scale, which belong to the caller; null for float tables. */
  quantized(): { q: Tensor; scale: Tensor; scheme: QuantScheme; group: number } | null {
    if (this.#int4) {
      const { packed, group } = this.#int4;
      const values = unpackI4(packed, this.numEmbeddings, this.width, { group });
      return { ...values, scheme: 'w4a16', group };
    }
    if (!this.#int8) return null;
    const { table, packed, scale, scheme } = this.#int8;
    const q = packed ? unpackI8(table, this.numEmbeddings, this.width) : table.detach();
    return { q, scale: scale.detach(), scheme, group: this.width };
  }

  share(): Embedding {
    if (!this.#weight)
      throw new RootsError(
        'ERR_MODULE',
        'Embedding: quantized tables cannot be shared; compress from the float model',
      );
    return new Embedding(this.#weight.detach());
  }
}
