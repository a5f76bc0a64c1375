// Labelled texts for classification: padded on the right to the longest of a batch.
import { createHash } from 'node:crypto';
import { DataError } from '../tensor/errors.js';
import type { Dataset } from './dataset.js';

export interface ClassificationBatch {
  inputIds: Int32Array;
  attentionMask: Int32Array;
  /** Position of each row's last token. */
  last: Int32Array;
  labels: Int32Array;
  rows: number;
  width: number;
}

/** Rows of ids as one rectangle; `pad` fills the right. */
export function rectangle(
  rows: readonly (readonly number[])[],
  pad: number,
): Omit<ClassificationBatch, 'labels'> {
  const width = Math.max(1, ...rows.map((r) => r.length));
  const inputIds = new Int32Array(rows.length * width).fill(pad);
  const attentionMask = new Int32Array(rows.length * width);
  rows.forEach((r, i) => {
    inputIds.set(r, i * width);
    attentionMask.fill(1, i * width, i * width + r.length);
  });
  return {
    inputIds,
    attentionMask,
    last: Int32Array.from(rows, (r) => r.length - 1),
    rows: rows.length,
    width,
  };
}

export class ClassificationDataset implements Dataset<ClassificationBatch> {
  readonly length: number;
  readonly fingerprint: string;
  readonly #ids: readonly (readonly number[])[];
  readonly #labels: readonly number[];
  readonly #pad: number;

  constructor(ids: readonly (readonly number[])[], labels: readonly number[], pad: number) {
    if (ids.length !== labels.length)
      throw new DataError(`${ids.length} texts, but ${labels.length} labels; one label per text`);
    const empty = ids.findIndex((r) => r.length === 0);
    if (empty >= 0) throw new DataError(`text ${empty} has no tokens`);
    this.#ids = ids;
    this.#labels = labels;
    this.#pad = pad;
    this.length = ids.length;
    this.fingerprint = createHash('sha256')
      .update(JSON.stringify([ids, labels]))
      .digest('hex');
  }

  get(indices: readonly number[]): ClassificationBatch {
    return {
      ...rectangle(
        indices.map((i) => this.#ids[i]!),
        this.#pad,
      ),
      labels: Int32Array.from(indices, (i) => this.#labels[i]!),
    };
  }
}
