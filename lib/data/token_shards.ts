// Tokenized text on disk: numbered files of little-endian ids, read by position. Made once per text and tokenizer, complete or not
// there at all, and found again by what they were made from. Positioned reads go through the system's page cache, so memory stays
// bounded however large the corpus is (docs/decisions/0009).
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, openSync, read as readCallback } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { saveFolder, writeNewFile } from '../io/checkpoint.js';
import { readJsonObject } from '../io/json.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { DataError } from '../tensor/errors.js';
import { documents, expandPaths } from './sources.js';
import type { SourceOptions } from './sources.js';
import { documentIds } from './tokenize.js';

export interface TokenizeOptions extends SourceOptions {
  /** Threads that tokenize; the caller's own when 1. Default: by the size of the text. */
  workers?: number;
  onProgress?: (done: number) => void;
}

interface Shard {
  file: string;
  tokens: number;
  sha256: string;
}

interface Index {
  version: 1;
  key: string;
  bytesPerToken: 2 | 4;
  vocabSize: number;
  shards: Shard[];
}

const bytesPerWorker = 4 << 20;

const read = promisify(readCallback);
/** Closes the files of shards that nobody closed. */
const forgotten = new FinalizationRegistry<readonly number[]>((files) => files.forEach(closeSync));

async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}

/** What the shards of these files depend on. */
async function keyOf(
  paths: readonly string[],
  tokenizer: Tokenizer,
  field: string | undefined,
): Promise<string> {
  const hash = createHash('sha256').update(`1\0${field ?? 'text'}\0`);
  hash.update(tokenizer.files.get('tokenizer.json') ?? '');
  hash.update(String(tokenizer.eosTokenId));
  for (const path of paths) hash.update(await fileHash(path));
  return hash.digest('hex');
}

/** Whether every shard has the bytes it was written with. */
async function intact(folder: string): Promise<boolean> {
  const index = (await readJsonObject(join(folder, 'index.json'))) as unknown as Index;
  for (const shard of index.shards)
    if ((await fileHash(join(folder, shard.file))) !== shard.sha256) return false;
  return true;
}

/** Token ids in files. */
export class TokenShards {
  readonly key: string;
  readonly length: number;
  readonly vocabSize: number;
  readonly #bytes: 2 | 4;
  #shards: { file: number; start: number; tokens: number }[];

  private constructor(index: Index, files: readonly number[]) {
    this.key = index.key;
    this.vocabSize = index.vocabSize;
    this.#bytes = index.bytesPerToken;
    let start = 0;
    this.#shards = index.shards.map((s, i) => {
      const shard = { file: files[i]!, start, tokens: s.tokens };
      start += s.tokens;
      return shard;
    });
    this.length = start;
    forgotten.register(this, files, this);
  }

  /** Opens the shards in `folder` when they were made from these files with this tokenizer, else makes them. */
  static async prepare(
    folder: string,
    files: string | readonly string[],
    tokenizer: Tokenizer,
    options: TokenizeOptions = {},
  ): Promise<TokenShards> {
    const paths = await expandPaths(files);
    const key = await keyOf(paths, tokenizer, options.field);
    const existing = await TokenShards.open(folder).catch(() => null);
    if (existing?.key === key && (await intact(folder))) return existing;
    existing?.close();
    await saveFolder(folder, (temporary) => write(temporary, key, paths, tokenizer, options), {
      overwrite: true,
    });
    return TokenShards.open(folder);
  }

  static async open(folder: string): Promise<TokenShards> {
    const index = (await readJsonObject(join(folder, 'index.json'))) as unknown as Index;
    if (index.version !== 1)
      throw new DataError(
        `${folder}: token shards of version ${String(index.version)}, expected 1`,
      );
    const files: number[] = [];
    try {
      for (const shard of index.shards) {
        const path = join(folder, shard.file);
        const { size } = await stat(path);
        if (size !== shard.tokens * index.bytesPerToken)
          throw new DataError(
            `${path}: ${size} bytes, expected ${shard.tokens * index.bytesPerToken}; remove ${folder} to make it again`,
          );
        files.push(openSync(path, 'r'));
      }
      return new TokenShards(index, files);
    } catch (error) {
      files.forEach(closeSync);
      throw error;
    }
  }

  /** Ids [from, from + count) into `out` at `at`. */
  async read(from: number, count: number, out: Int32Array, at: number): Promise<void> {
    let left = count;
    let position = from;
    let to = at;
    for (const { file, start, tokens } of this.#shards) {
      if (left === 0) return;
      if (position >= start + tokens) continue;
      const n = Math.min(left, start + tokens - position);
      const bytes = Buffer.allocUnsafe(n * this.#bytes);
      const { bytesRead } = await read(
        file,
        bytes,
        0,
        bytes.length,
        (position - start) * this.#bytes,
      );
      if (bytesRead !== bytes.length)
        throw new DataError('token shards: a file became shorter while it was read');
      for (let i = 0; i < n; i++)
        out[to + i] = this.#bytes === 2 ? bytes.readUInt16LE(2 * i) : bytes.readInt32LE(4 * i);
      position += n;
      to += n;
      left -= n;
    }
    if (left > 0) throw new DataError(`token shards: ids ${from} + ${count} lie beyond the end`);
  }

  /** Closes the files; calling it again does nothing. */
  close(): void {
    forgotten.unregister(this);
    for (const { file } of this.#shards) closeSync(file);
    this.#shards = [];
  }
}

/** Encodes little-endian ids. */
export function packIds(ids: readonly number[], bytesPerToken: 2 | 4): Buffer {
  const out = Buffer.allocUnsafe(ids.length * bytesPerToken);
  ids.forEach((id, i) =>
    bytesPerToken === 2 ? out.writeUInt16LE(id, 2 * i) : out.writeInt32LE(id, 4 * i),
  );
  return out;
}

/** One file of ids from one source file. */
export async function writeShard(
  path: string,
  source: string,
  tokenizer: Tokenizer,
  bytesPerToken: 2 | 4,
  options: SourceOptions,
  onBytes: (count: number) => void = () => undefined,
): Promise<{ tokens: number; sha256: string }> {
  const handle = await open(path, 'wx');
  const hash = createHash('sha256');
  let tokens = 0;
  try {
    for await (const text of documents(source, options)) {
      for await (const ids of documentIds(text, tokenizer)) {
        const bytes = packIds(ids, bytesPerToken);
        hash.update(bytes);
        await handle.writeFile(bytes);
        tokens += ids.length;
        onBytes(bytes.length);
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { tokens, sha256: hash.digest('hex') };
}

async function write(
  folder: string,
  key: string,
  paths: readonly string[],
  tokenizer: Tokenizer,
  options: TokenizeOptions,
): Promise<void> {
  const sizes = await Promise.all(paths.map(async (p) => (await stat(p)).size));
  const total = sizes.reduce((a, b) => a + b, 0);
  const vocabSize = tokenizer.vocabSize;
  const bytesPerToken = vocabSize <= 65536 ? 2 : 4;
  const name = (i: number): string => `tokens-${String(i).padStart(5, '0')}.bin`;
  const workers = Math.min(
    paths.length,
    options.workers ??
      (total < bytesPerWorker ? 1 : Math.min(availableParallelism(), paths.length)),
  );
  const results: { tokens: number; sha256: string }[] = [];
  let done = 0;
  const finished = (i: number): void => {
    done += sizes[i]!;
    options.onProgress?.(total === 0 ? 1 : done / total);
  };
  const source: SourceOptions = options.field === undefined ? {} : { field: options.field };
  if (workers <= 1) {
    for (const [i, path] of paths.entries()) {
      results[i] = await writeShard(join(folder, name(i)), path, tokenizer, bytesPerToken, source);
      finished(i);
    }
  } else {
    let next = 0;
    const files = Object.fromEntries(tokenizer.files);
    const run = async (): Promise<void> => {
      const worker = new Worker(workerFile(), { workerData: { files, bytesPerToken, source } });
      try {
        while (next < paths.length) {
          const i = next++;
          results[i] = await ask(worker, { path: join(folder, name(i)), from: paths[i]! });
          finished(i);
        }
      } finally {
        await worker.terminate();
      }
    };
    await Promise.all(Array.from({ length: workers }, run));
  }
  const index: Index = {
    version: 1,
    key,
    bytesPerToken,
    vocabSize,
    shards: results.map((r, i) => ({ file: name(i), ...r })),
  };
  await writeNewFile(join(folder, 'index.json'), `${JSON.stringify(index, null, 2)}\n`);
}

function ask(
  worker: Worker,
  job: { path: string; from: string },
): Promise<{ tokens: number; sha256: string }> {
  return new Promise((done, fail) => {
    const stopped = (code: number): void =>
      fail(new DataError(`the tokenizing thread ended with code ${code}`));
    worker.once('error', fail);
    worker.once('exit', stopped);
    worker.once('message', (m: { tokens: number; sha256: string } | { error: string }) => {
      worker.off('error', fail);
      worker.off('exit', stopped);
      if ('error' in m) fail(new DataError(m.error));
      else done(m);
    });
    worker.postMessage(job);
  });
}

/** The compiled worker; from a checkout, the one of the last build. */
function workerFile(): URL {
  return new URL(
    import.meta.url.endsWith('.ts') ? '../../dist/data/tokenize_worker.js' : './tokenize_worker.js',
    import.meta.url,
  );
}
