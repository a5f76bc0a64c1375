// GGUF files, read back here by a reader of their own (ggml's docs/gguf.md), and, where node-llama-cpp is installed beside, by llama.cpp.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { quantize } from '../../lib/models/quantize.js';
import { exportGguf, LanguageModel } from '../../lib/index.js';
import { openSafetensors } from '../../lib/io/safetensors.js';
import { loadModel, writeModel } from '../../lib/models/registry.js';
import { describeWithFixtures, expectNoLeak, fixture, temporaryFolder } from '../harness.js';

const work = temporaryFolder('gguf');
const gpt2 = fixture('checkpoints/gpt2-shakespeare');
const llama = fixture('checkpoints/stories260K-llama');

type Value = number | boolean | string | Value[];
interface Read {
  metadata: Map<string, Value>;
  tensors: Map<string, { dims: number[]; type: number; values: number[] }>;
}

function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

function read(path: string): Read {
  const file = readFileSync(path);
  let at = 0;
  const u32 = (): number => file.readUInt32LE((at += 4) - 4);
  const u64 = (): number => Number(file.readBigUInt64LE((at += 8) - 8));
  const text = (): string => {
    const n = u64();
    return file.toString('utf8', at, (at += n));
  };
  const value = (type: number): Value => {
    if (type === 4) return u32();
    if (type === 5) return file.readInt32LE((at += 4) - 4);
    if (type === 6) return file.readFloatLE((at += 4) - 4);
    if (type === 7) return file[at++] === 1;
    if (type === 8) return text();
    expect(type).toBe(9);
    const [item, count] = [u32(), u64()];
    return Array.from({ length: count }, () => value(item));
  };
  expect(file.toString('latin1', 0, 4)).toBe('GGUF');
  at = 4;
  expect(u32()).toBe(3);
  const [tensorCount, keyCount] = [u64(), u64()];
  const metadata = new Map<string, Value>();
  for (let i = 0; i < keyCount; i++) metadata.set(text(), value(u32()));
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const dims = Array.from({ length: u32() }, u64).toReversed();
    return { name, dims, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / 32) * 32;
  const tensors: Read['tensors'] = new Map();
  for (const { name, dims, type, offset } of infos) {
    expect(offset % 32).toBe(0);
    const size = dims.reduce((n, d) => n * d, 1);
    const from = start + offset;
    const one = (i: number): number => {
      if (type === 0) return file.readFloatLE(from + 4 * i);
      if (type === 1) return half(file.readUInt16LE(from + 2 * i));
      const block = from + Math.floor(i / 32) * (type === 8 ? 34 : 18);
      const d = half(file.readUInt16LE(block));
      if (type === 8) return d * file.readInt8(block + 2 + (i % 32));
      expect(type).toBe(2);
      const byte = file[block + 2 + (i % 16)]!;
      return d * ((i % 32 < 16 ? byte & 15 : byte >> 4) - 8);
    };
    tensors.set(name, { dims, type, values: Array.from({ length: size }, (_, i) => one(i)) });
  }
  return { metadata, tensors };
}

async function original(folder: string, name: string): Promise<number[]> {
  const file = await openSafetensors(join(folder, 'model.safetensors'));
  return [...((await (await file.get(name)).data()) as Float32Array)];
}

describeWithFixtures('GGUF (G11)', () => {
  it('holds the numbers of GPT-2, its transposed layers turned, its settings and its vocabulary', async () => {
    const path = join(work, 'gpt2.gguf');
    const done: number[] = [];
    const result = await exportGguf(gpt2, path, { type: 'f32', onProgress: (d) => done.push(d) });
    expect(result).toMatchObject({ architecture: 'gpt2', tensors: 52, warnings: [] });
    expect(done.at(-1)).toBe(1);
    const { metadata, tensors } = read(path);
    expect(metadata.get('gpt2.embedding_length')).toBe(128);
    expect(metadata.get('tokenizer.ggml.pre')).toBe('gpt-2');
    expect((metadata.get('tokenizer.ggml.tokens') as string[]).length).toBe(1024);
    expect(tensors.get('token_embd.weight')!.values).toEqual(
      await original(gpt2, 'transformer.wte.weight'),
    );
    const turned = await original(gpt2, 'transformer.h.1.mlp.c_fc.weight'); // (128, 512)
    const { dims, values } = tensors.get('blk.1.ffn_up.weight')!;
    expect(dims).toEqual([512, 128]);
    expect(values).toEqual(values.map((_, i) => turned[(i % 128) * 512 + Math.floor(i / 128)]));
  });

  it('rounds q8_0 and q4_0 to the nearest step of each block, and keeps what must not be rounded', async () => {
    for (const [type, id, levels] of [
      ['q8_0', 8, 127],
      ['q4_0', 2, 8],
    ] as const) {
      const path = join(work, `${type}.gguf`);
      await exportGguf(gpt2, path, { type });
      const { tensors } = read(path);
      expect(tensors.get('blk.0.ffn_norm.weight')!.type).toBe(0);
      expect(tensors.get('position_embd.weight')!.type).toBe(0);
      expect(tensors.get('token_embd.weight')!.type).toBe(8);
      const got = tensors.get('blk.0.attn_output.weight')!;
      expect(got.type).toBe(id);
      const stored = await original(gpt2, 'transformer.h.0.attn.c_proj.weight'); // (in, out)
      const want = got.values.map((_, i) => stored[(i % 128) * 128 + Math.floor(i / 128)]!);
      for (let b = 0; b < want.length; b += 32) {
        const block = want.slice(b, b + 32);
        const top = block.reduce((x, y) => (Math.abs(y) > Math.abs(x) ? y : x));
        const step = type === 'q8_0' ? Math.abs(top) / levels : -top / levels;
        // half a step, and the rounding of the scale to float16; q4_0 has no level for the largest number with the other sign
        const excess = block.map((v, i) => {
          const limit = Math.abs(step) * (type === 'q4_0' && v / step > 7.5 ? 1 : 0.5);
          return Math.abs(got.values[b + i]! - v) - limit - Math.abs(v) * 2 ** -11;
        });
        expect(Math.max(...excess)).toBeLessThan(1e-7);
      }
    }
  });

  it('interleaves the halves of the heads of Llama, and stores short rows as float16', async () => {
    const path = join(work, 'llama.gguf');
    await exportGguf(llama, path, { type: 'q8_0' });
    const { metadata, tensors } = read(path);
    expect(metadata.get('llama.attention.head_count_kv')).toBe(4);
    expect(metadata.get('tokenizer.ggml.model')).toBe('llama');
    expect(metadata.get('tokenizer.ggml.add_bos_token')).toBe(true);
    expect(tensors.get('blk.0.ffn_down.weight')).toMatchObject({ type: 1, dims: [64, 172] });
    await expectNoLeak(() => exportGguf(llama, path, { type: 'f32' }).then(() => undefined));
    const q = read(path).tensors.get('blk.0.attn_q.weight')!.values;
    const want = await original(llama, 'model.layers.0.self_attn.q_proj.weight');
    for (let head = 0; head < 8; head++)
      for (let row = 0; row < 8; row++) {
        const from = head * 8 + (row % 2) * 4 + Math.floor(row / 2);
        const to = head * 8 + row;
        expect(q.slice(to * 64, to * 64 + 64)).toEqual(want.slice(from * 64, from * 64 + 64));
      }
  });

  it('replaces a file in one step, leaves none behind after a failure, and refuses what llama.cpp has no equal of', async () => {
    const path = join(work, 'again.gguf');
    writeFileSync(path, 'what was there');
    const folder = join(work, 'changed');
    await cp(gpt2, folder, { recursive: true });
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
    const withConfig = (changes: object): void =>
      writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...changes }));
    withConfig({ activation_function: 'gelu' });
    await expect(exportGguf(folder, path)).rejects.toThrow(/activation_function gelu_new.*"gelu"/);
    withConfig({ scale_attn_by_inverse_layer_idx: true });
    await expect(exportGguf(folder, path)).rejects.toThrow(/scale_attn_by_inverse_layer_idx/);
    await expect(exportGguf(gpt2, path, { type: 'q3' as 'f16' })).rejects.toThrow(/f32.*"q3"/);
    await expect(exportGguf(gpt2, join(work, 'no/such/place.gguf'))).rejects.toThrow(
      /cannot save to .*place\.gguf: the folder it should stand in does not exist/,
    );
    await expect(exportGguf(gpt2, folder)).rejects.toThrow(/a folder stands there/);
    const quantized = join(work, 'w8a8');
    const { model } = await loadModel(gpt2);
    quantize(model, { scheme: 'w8a8' });
    await writeModel(quantized, model);
    model.dispose();
    await expect(exportGguf(quantized, path)).rejects.toThrow(
      /quantized \(w8a8\).*float checkpoint/,
    );
    expect(readFileSync(path, 'utf8')).toBe('what was there');
    expect(readdirSync(work).filter((n) => n.startsWith('.roots-tmp'))).toEqual([]);
    await exportGguf(gpt2, path);
    expect(readFileSync(path, 'latin1').slice(0, 4)).toBe('GGUF');
  });
});

const beside = process.env['ROOTS_PEER_NODE_MODULES'];
describe.skipIf(!beside || !existsSync(gpt2))('llama.cpp (needs ROOTS_PEER_NODE_MODULES)', () => {
  // in a process of its own: node-llama-cpp tries its library in a child process, which the test runner is not
  const program = `
    import { createRequire } from 'node:module';
    import { pathToFileURL } from 'node:url';
    const [beside, path, text, ids, count] = JSON.parse(process.argv[2]);
    const { getLlama } = await import(pathToFileURL(createRequire(beside + '/package.json').resolve('node-llama-cpp')).href);
    const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'disabled' });
    const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
    const context = await model.createContext({ contextSize: 128, sequences: 1 });
    const tokens = [];
    for await (const id of context.getSequence().evaluate(ids, { temperature: 0, yieldEogToken: true })) {
      tokens.push(id);
      if (tokens.length === count) break;
    }
    console.log(JSON.stringify({ pieces: model.tokenize(text, false), tokens }));
    process.exit(0);`;
  it.each([gpt2, llama])(
    'reads %s: the pieces of a text and 64 greedy tokens are ours (G11)',
    async (folder) => {
      const path = join(work, 'peer.gguf');
      await exportGguf(folder, path, { type: 'f32' });
      const own = await LanguageModel.fromPretrained(folder);
      const text = 'First Citizen: Before we proceed, once upon a time';
      const mine = await own.generate(text, { maxNewTokens: 64, greedy: true });
      const pieces = own.tokenizer.encode(text, { addSpecialTokens: false });
      own.dispose();
      writeFileSync(join(work, 'peer.mjs'), program);
      const request = JSON.stringify([beside, path, text, mine.promptTokens, mine.tokens.length]);
      const out = execFileSync(process.execPath, [join(work, 'peer.mjs'), request], {
        encoding: 'utf8',
      });
      expect(JSON.parse(out)).toEqual({ pieces: [...pieces], tokens: mine.tokens });
    },
    60_000,
  );
});
