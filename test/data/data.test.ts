import { readFileSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TokenDataset, Tokenizer, byteTokenizer } from '../../lib/index.js';
import { permuted } from '../../lib/data/dataset.js';
import { documents, expandPaths } from '../../lib/data/sources.js';
import { TokenShards } from '../../lib/data/token_shards.js';
import { documentIds, pieces } from '../../lib/data/tokenize.js';
import { describeWithFixtures, fixture, temporaryFolder } from '../harness.js';
import { sentences } from '../../examples/grammar.js';

const root = temporaryFolder('data');
const file = (name: string, content: string | Uint8Array): string => {
  const path = join(root, name);
  writeFileSync(path, content);
  return path;
};
async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const out: T[] = [];
  for await (const item of source) out.push(item);
  return out;
}

describe('permuted', () => {
  it('is a permutation for every size, different for every epoch and seed', () => {
    for (const n of [1, 2, 3, 5, 16, 17, 255, 1000]) {
      const seen = new Set(Array.from({ length: n }, (_, i) => permuted(i, n, 1, 0)));
      expect(seen.size).toBe(n);
      expect(Math.max(...seen)).toBe(n - 1);
    }
    const order = (seed: number, epoch: number): string =>
      Array.from({ length: 100 }, (_, i) => permuted(i, 100, seed, epoch)).join();
    expect(new Set([order(1, 0), order(1, 1), order(2, 0), order(2 ** 40, 0)]).size).toBe(4);
  });
  it('shows no pattern: neighbours land far apart on average', () => {
    const n = 4096;
    let distance = 0;
    for (let i = 0; i + 1 < n; i++)
      distance += Math.abs(permuted(i, n, 7, 0) - permuted(i + 1, n, 7, 0));
    // the mean distance of two random positions is n / 3
    expect(distance / n / (n / 3)).toBeGreaterThan(0.95);
    expect(distance / n / (n / 3)).toBeLessThan(1.05);
  });
});

describe('sources', () => {
  it('text, JSON lines with a named field, patterns', async () => {
    const a = file('a1.txt', 'one');
    const b = file('a2.txt', 'two');
    const lines = file('c.jsonl', '{"text":"x","t":"y"}\n\n{"text":"z","t":"w"}\n');
    expect(await expandPaths(join(root, 'a?.txt'))).toEqual([a, b]);
    expect(await all(documents(a))).toEqual(['one']);
    expect(await all(documents(lines))).toEqual(['x', 'z']);
    expect(await all(documents(lines, { field: 't' }))).toEqual(['y', 'w']);
  });
  it('names what is wrong, with the line', async () => {
    await expect(expandPaths(join(root, 'none*.txt'))).rejects.toThrow(/no such file/);
    await expect(
      all(documents(file('bad.txt', new Uint8Array([0xff, 0xfe, 0x41])))),
    ).rejects.toThrow(/not UTF-8/);
    await expect(all(documents(file('bad.jsonl', '{"text":"x"}\n{')))).rejects.toThrow(
      /line 2: not JSON/,
    );
    await expect(all(documents(file('n.jsonl', '{"text":3}\n')))).rejects.toThrow(
      /line 1: no text in field "text"/,
    );
    await expect(all(documents(file('p.parquet', 'PAR1 nonsense PAR1')))).rejects.toThrow(
      /not readable as Parquet/,
    );
  });
  it('Parquet, a row per document', async () => {
    const { parquetWriteFile } = await import('hyparquet-writer');
    const path = join(root, 'rows.parquet');
    await parquetWriteFile({
      filename: path,
      columnData: [
        { name: 'text', data: ['erste Zeile', 'zweite 行'], type: 'STRING' },
        { name: 'n', data: [1, 2], type: 'INT32' },
      ],
    });
    expect(await all(documents(path))).toEqual(['erste Zeile', 'zweite 行']);
    await expect(all(documents(path, { field: 'body' }))).rejects.toThrow(
      /no column "body"; it has text, n/,
    );
    await expect(all(documents(path, { field: 'n' }))).rejects.toThrow(/is not text/);
  });
});

describe('tokenizing in pieces', () => {
  it('byte tokenizers: bytes in, bytes out; only the bytes of the text when asked', () => {
    const whole = byteTokenizer();
    expect(whole.vocabSize).toBe(257);
    const text = 'Grüße, 世界!\n\tEnd \u0000\u007f';
    expect(whole.encode(text).length).toBe(Buffer.byteLength(text));
    expect(whole.decode(whole.encode(text))).toBe(text);
    const small = byteTokenizer({ text: 'abc', eos: false });
    expect([small.vocabSize, small.eosTokenId]).toEqual([3, null]);
  });
  it('a text that does not fit gives the ids of the whole', async () => {
    const text = `${sentences(400, 3)}\n\n  indented\nx \ny\n`;
    const t = byteTokenizer();
    const parts = [...pieces(text, t, 100)];
    expect(parts.length).toBeGreaterThan(50);
    expect(parts.join('')).toBe(text);
    const ids = (await all(documentIds(text, t))).flat();
    expect(ids).toEqual([...t.encode(text), t.eosTokenId]);
  });
});

describeWithFixtures('tokenizing in pieces, real vocabularies', () => {
  it.each(['gpt2', 'llama2'])('%s: pieces have the ids of the whole text', async (name) => {
    const t = await Tokenizer.fromPretrained(fixture(`tokenizers/${name}`));
    const { readFileSync } = await import('node:fs');
    const text = readFileSync(fixture('datasets/webtext/grail.txt'), 'utf8').slice(0, 30_000);
    const whole = t.encode(text, { addSpecialTokens: false });
    const parts = [...pieces(text, t, 500)];
    expect(parts.length > 1).toBe(t.splitsAtLines);
    expect(parts.flatMap((p) => t.encode(p, { addSpecialTokens: false }))).toEqual(whole);
  });
});

describe('TokenDataset', () => {
  it('windows carry the token that follows each position', async () => {
    const data = TokenDataset.fromIds(
      Array.from({ length: 26 }, (_, i) => i),
      5,
    );
    expect(data.length).toBe(5);
    const batch = await data.get([0, 4], 0);
    expect([...batch.inputIds]).toEqual([0, 1, 2, 3, 4, 20, 21, 22, 23, 24]);
    expect([...batch.targets]).toEqual([1, 2, 3, 4, 5, 21, 22, 23, 24, 25]);
    await expect(data.get([5], 0)).rejects.toThrow(/no sample 5/);
  });
  it('a split never overlaps', async () => {
    const { train, validation } = TokenDataset.fromIds(
      Array.from({ length: 1000 }, (_, i) => i),
      16,
    ).split(0.2);
    const seen = new Set<number>();
    for (let epoch = 0; epoch < 5; epoch++)
      for (let i = 0; i < train.length; i++)
        for (const id of (await train.get([i], epoch)).targets) seen.add(id);
    expect(Math.max(...seen)).toBeLessThan(800);
    expect((await validation.get([0], 3)).inputIds[0]).toBe(800);
    expect(() => train.split(1)).toThrow(/between 0 and 1/);
  });
  it('shards on disk hold the same windows, are found again, and are made anew when the text changes', async () => {
    const text = sentences(300, 5);
    const t = byteTokenizer();
    const paths = [file('s1.txt', text.slice(0, 4000)), file('s2.txt', text.slice(4000))];
    const cache = join(root, 'cache');
    const a = await TokenDataset.fromFiles(paths, t, { context: 32, cache });
    const eos = t.eosTokenId!;
    const b = TokenDataset.fromIds(
      [...t.encode(text.slice(0, 4000)), eos, ...t.encode(text.slice(4000)), eos],
      32,
    );
    expect(a.length).toBe(b.length);
    const indices = Array.from({ length: a.length }, (_, i) => i);
    expect((await a.get(indices, 1)).targets).toEqual((await b.get(indices, 1)).targets);
    const again = await TokenDataset.fromFiles(paths, t, { context: 32, cache });
    expect(again.fingerprint).toBe(a.fingerprint);
    file('s2.txt', 'something else, long enough for one window of thirty-two tokens');
    const changed = await TokenDataset.fromFiles(paths, t, { context: 32, cache });
    expect(changed.fingerprint).not.toBe(a.fingerprint);
  });
  it('threads write what one thread writes', async () => {
    const t = byteTokenizer();
    const paths = [1, 2, 3].map((i) => file(`w${i}.txt`, sentences(50, i)));
    const one = await TokenShards.prepare(join(root, 'one'), paths, t, { workers: 1 });
    const two = await TokenShards.prepare(join(root, 'two'), paths, t, { workers: 2 });
    const read = async (s: TokenShards): Promise<Int32Array> => {
      const out = new Int32Array(s.length);
      await s.read(0, s.length, out, 0);
      return out;
    };
    expect(await read(two)).toEqual(await read(one));
    const bad = file('w4.jsonl', 'no json');
    await expect(
      TokenShards.prepare(join(root, 'three'), [paths[0]!, bad], t, { workers: 2 }),
    ).rejects.toThrow(/not JSON/);
    expect(readdirSync(root)).not.toContain('three');
  });
  it('a shard that was cut is refused', async () => {
    const t = byteTokenizer();
    const cache = join(root, 'cut');
    await TokenShards.prepare(cache, file('cut.txt', sentences(50, 1)), t);
    truncateSync(join(cache, 'tokens-00000.bin'), 100);
    await expect(TokenShards.open(cache)).rejects.toThrow(/100 bytes, expected/);
  });
  it('a shard whose bytes changed is made again', async () => {
    const t = byteTokenizer();
    const cache = join(root, 'flipped');
    const source = file('flipped.txt', sentences(50, 1));
    const good = await TokenShards.prepare(cache, source, t);
    const path = join(cache, 'tokens-00000.bin');
    const bytes = readFileSync(path);
    bytes[40]! ^= 1;
    writeFileSync(path, bytes);
    await TokenShards.prepare(cache, source, t);
    bytes[40]! ^= 1;
    expect(readFileSync(path).equals(bytes)).toBe(true);
    await good.close();
  });
});
