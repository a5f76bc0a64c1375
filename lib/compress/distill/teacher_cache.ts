// A teacher's most likely tokens, computed once and read from disk: training then needs no teacher in memory. Per position the k
// largest log-probabilities and their ids; what remains is one more bucket.
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { noGrad } from '../../autograd/modes.js';
import type { Dataset } from '../../data/dataset.js';
import type { TokenBatch, TokenDataset } from '../../data/token_dataset.js';
import { saveFolder, writeNewFile } from '../../io/checkpoint.js';
import { readJsonObject } from '../../io/json.js';
import type { CausalLM } from '../../models/causal_lm.js';
import { add, exp, log, maximum, mul, sub } from '../../ops/elementwise.js';
import { gather } from '../../ops/index_select.js';
import { mean, sum, topk } from '../../ops/reduce.js';
import { logSoftmax } from '../../ops/softmax.js';
import { reshape } from '../../ops/view.js';
import { full, tensor } from '../../tensor/create.js';
import { DataError, OptionError } from '../../tensor/errors.js';
import { tidy } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { ids } from '../../train/objectives.js';

export interface TeacherBatch extends TokenBatch {
  /** rows × width × k */
  topIndices: Int32Array;
  topLogProbs: Float32Array;
  k: number;
}

/** KL over k + 1 buckets: the teacher's k most likely tokens, and all others together. logits (B, T, V) → scalar */
export function cachedKl(logits: Tensor, batch: TeacherBatch): Tensor {
  const rows = batch.rows * batch.width;
  const { k } = batch;
  return tidy(() => {
    const lq = logSoftmax(reshape(logits, [rows, logits.shape.at(-1)!]));
    const at = tensor(BigInt64Array.from(batch.topIndices, BigInt), { shape: [rows, k] });
    const top = tensor(batch.topLogProbs, { shape: [rows, k] });
    const chosen = gather(lq, 1, at);
    const head = sum(mul(exp(top), sub(top, chosen)), { dim: -1 });
    const tiny = full([], 1e-7);
    const one = full([], 1);
    const tail = (lp: Tensor): Tensor => maximum(sub(one, sum(exp(lp), { dim: -1 })), tiny);
    const [p, q] = [tail(top), tail(chosen)];
    return mean(add(head, mul(p, sub(log(p), log(q)))));
  });
}

/** A data set whose batches carry what the teacher said about them. */
export class TeacherCache implements Dataset<TeacherBatch> {
  readonly length: number;
  readonly fingerprint: string;
  readonly k: number;
  readonly #text: TokenDataset;
  readonly #file: FileHandle;

  private constructor(text: TokenDataset, file: FileHandle, k: number) {
    this.#text = text;
    this.#file = file;
    this.k = k;
    this.length = text.length;
    this.fingerprint = `${text.fingerprint}+top${k}`;
  }

  /** Runs the teacher over every sample once and writes the cache; an existing one for the same text is used as it is. */
  static async create(
    folder: string,
    teacher: CausalLM,
    text: TokenDataset,
    options: { k?: number; onProgress?: (done: number) => void } = {},
  ): Promise<TeacherCache> {
    const { k = 64, onProgress } = options;
    if (!Number.isInteger(k) || k < 1 || k > teacher.shape.vocab)
      throw new OptionError(
        `TeacherCache: k must be an integer from 1 to the vocabulary's ${teacher.shape.vocab}, got ${k}`,
      );
    const existing = await TeacherCache.open(folder, text).catch(() => null);
    if (existing?.k === k) return existing;
    await existing?.close();
    await saveFolder(
      folder,
      async (temporary) => {
        const handle = await open(join(temporary, 'top.bin'), 'wx');
        try {
          const batch = 8;
          for (let from = 0; from < text.length; from += batch) {
            const count = Math.min(batch, text.length - from);
            const sample = await text.get(
              Array.from({ length: count }, (_, i) => from + i),
              0,
            );
            const { values, indices } = tidy(() =>
              noGrad(() => {
                const { logits } = teacher.forward({ inputIds: ids(sample.inputIds, sample) });
                return topk(logSoftmax(logits), k);
              }),
            );
            const v = (await values.data()) as Float32Array;
            const i = Int32Array.from((await indices.data()) as BigInt64Array, Number);
            values.dispose();
            indices.dispose();
            const per = text.context * k;
            for (let row = 0; row < count; row++) {
              await handle.writeFile(bytesOf(i.slice(row * per, (row + 1) * per)));
              await handle.writeFile(bytesOf(v.slice(row * per, (row + 1) * per)));
            }
            onProgress?.((from + count) / text.length);
          }
          await handle.sync();
        } finally {
          await handle.close();
        }
        await writeNewFile(
          join(temporary, 'index.json'),
          `${JSON.stringify({ version: 1, k, text: text.fingerprint, samples: text.length, context: text.context })}\n`,
        );
      },
      { overwrite: true, expectedBytes: text.length * text.context * k * 8 },
    );
    return TeacherCache.open(folder, text);
  }

  static async open(folder: string, text: TokenDataset): Promise<TeacherCache> {
    const index = await readJsonObject(join(folder, 'index.json'));
    if (index['version'] !== 1 || index['text'] !== text.fingerprint)
      throw new DataError(`${folder}: this teacher cache was made from another text`);
    return new TeacherCache(text, await open(join(folder, 'top.bin'), 'r'), index['k'] as number);
  }

  /** Windows do not move between epochs: the teacher saw them where they are. */
  async get(indices: readonly number[]): Promise<TeacherBatch> {
    const batch = await this.#text.get(indices, 0);
    const per = batch.width * this.k;
    const topIndices = new Int32Array(indices.length * per);
    const topLogProbs = new Float32Array(indices.length * per);
    for (const [row, index] of indices.entries()) {
      const bytes = new Uint8Array(per * 8);
      const { bytesRead } = await this.#file.read(bytes, 0, bytes.length, index * per * 8);
      if (bytesRead !== bytes.length) throw new DataError('teacher cache: the file is too short');
      topIndices.set(new Int32Array(bytes.buffer, 0, per), row * per);
      topLogProbs.set(new Float32Array(bytes.buffer, per * 4, per), row * per);
    }
    return { ...batch, topIndices, topLogProbs, k: this.k };
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}

function bytesOf(a: Int32Array | Float32Array): Uint8Array {
  return new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
}
