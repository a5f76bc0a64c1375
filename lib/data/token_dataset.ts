// Packed windows for language modelling: a text cut into samples of `context` tokens, each with the tokens that follow.
import { createHash } from 'node:crypto';
import { DataError, OptionError } from '../tensor/errors.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { mix } from './dataset.js';
import type { Dataset } from './dataset.js';
import { TokenShards } from './token_shards.js';
import type { TokenizeOptions } from './token_shards.js';
import { documentIds } from './tokenize.js';

/** rows × width ids, and the id that follows each. */
export interface TokenBatch {
  inputIds: Int32Array;
  targets: Int32Array;
  rows: number;
  width: number;
}

interface Ids {
  readonly length: number;
  read(from: number, count: number, out: Int32Array, at: number): Promise<void> | void;
  close?(): void;
}

export class TokenDataset implements Dataset<TokenBatch> {
  readonly context: number;
  readonly length: number;
  readonly fingerprint: string;
  readonly tokens: number;
  readonly #ids: Ids;
  readonly #from: number;
  readonly #shift: boolean;

  private constructor(
    ids: Ids,
    from: number,
    to: number,
    context: number,
    key: string,
    shift: boolean,
  ) {
    if (!Number.isInteger(context) || context < 1)
      throw new OptionError(`TokenDataset: context must be a positive integer, got ${context}`);
    this.#ids = ids;
    this.#from = from;
    this.#shift = shift;
    this.context = context;
    this.tokens = to - from;
    this.length = Math.floor((this.tokens - 1) / context);
    this.fingerprint = `${key}:${from}-${to}/${context}`;
    if (this.length < 1)
      throw new DataError(
        `the text has ${this.tokens} tokens; a sample needs ${context + 1} (context ${context} and one to predict). Give more text or a smaller context`,
      );
  }

  /** From ids in memory. */
  static fromIds(ids: ArrayLike<number>, context: number): TokenDataset {
    const array = Int32Array.from(ids);
    const key = createHash('sha256')
      .update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength))
      .digest('hex');
    const source: Ids = {
      length: array.length,
      read: (from, count, out, at) => out.set(array.subarray(from, from + count), at),
    };
    return new TokenDataset(source, 0, array.length, context, key, true);
  }

  /** From a text in memory, tokenized piece by piece. */
  static async fromText(
    text: string,
    tokenizer: Tokenizer,
    context: number,
  ): Promise<TokenDataset> {
    const ids: number[] = [];
    for await (const part of documentIds(text, tokenizer)) for (const id of part) ids.push(id);
    return TokenDataset.fromIds(ids, context);
  }

  /** From text, JSON lines or Parquet files, tokenized once into shards under `cache`. */
  static async fromFiles(
    files: string | readonly string[],
    tokenizer: Tokenizer,
    options: TokenizeOptions & { context: number; cache: string },
  ): Promise<TokenDataset> {
    const { context, cache, ...rest } = options;
    const shards = await TokenShards.prepare(cache, files, tokenizer, rest);
    return new TokenDataset(shards, 0, shards.length, context, shards.key, true);
  }

  /** The first tokens for training and the last `share` of them for validation, which never overlap. */
  split(share: number): { train: TokenDataset; validation: TokenDataset } {
    if (!(share > 0 && share < 1))
      throw new OptionError(`split: expected a share between 0 and 1, got ${share}`);
    const at = this.#from + Math.floor(this.tokens * (1 - share));
    const end = this.#from + this.tokens;
    const [key] = this.fingerprint.split(':') as [string];
    return {
      train: new TokenDataset(this.#ids, this.#from, at, this.context, key, true),
      validation: new TokenDataset(this.#ids, at, end, this.context, key, false),
    };
  }

  /** Windows start a little later in every epoch (by less than a window), so that cuts fall elsewhere. */
  async get(indices: readonly number[], epoch: number): Promise<TokenBatch> {
    const { context } = this;
    const room = this.tokens - 1 - this.length * context;
    const shift = this.#shift && epoch > 0 ? mix(epoch, 0x51ed) % (room + 1) : 0;
    const rows = indices.length;
    const inputIds = new Int32Array(rows * context);
    const targets = new Int32Array(rows * context);
    await Promise.all(
      indices.map(async (index, row) => {
        if (!(index >= 0 && index < this.length))
          throw new DataError(`TokenDataset: no sample ${index}; there are ${this.length}`);
        const window = new Int32Array(context + 1);
        await this.#ids.read(this.#from + index * context + shift, context + 1, window, 0);
        inputIds.set(window.subarray(0, context), row * context);
        targets.set(window.subarray(1), row * context);
      }),
    );
    return { inputIds, targets, rows, width: context };
  }

  /** Closes the files behind it, for every part that split() made of it too. */
  close(): void {
    this.#ids.close?.();
  }
}
