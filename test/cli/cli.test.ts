// The command line as another program uses it: JSON on standard output, one line and an exit code on failure.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { BenchResult } from '../../lib/bench/kernels.js';
import {
  describeWithFixtures,
  fixture,
  fixtureJson,
  hasFixtures,
  temporaryFolder,
} from '../harness.js';

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const work = temporaryFolder('cli');

function roots(...args: string[]): { status: number | null; out: string; err: string } {
  const r = spawnSync(process.execPath, [main, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  return { status: r.status, out: r.stdout, err: r.stderr };
}
const json = (...args: string[]): Record<string, never> => {
  const r = roots(...args, '--json');
  expect(r.err.replace(/^(warning|[a-z ]+: \d+ %).*\n/gm, '')).toBe('');
  expect(r.status).toBe(0);
  return JSON.parse(r.out) as Record<string, never>;
};

/** A benchmark's result; its rows also come, one by one, on standard error. */
const measured = (...args: string[]): BenchResult => {
  const r = roots('bench', ...args, '--json');
  expect(r.status).toBe(0);
  const result = JSON.parse(r.out) as BenchResult;
  expect(r.err.split('\n').slice(0, -1)).toEqual(
    result.rows.map((row) => expect.stringContaining(`${row.kernel.padEnd(30)} ${row.shape}`)),
  );
  return result;
};

beforeAll(() => {
  if (!existsSync(main)) throw new Error('dist/ is missing: run npm run build:ts');
});

describe('help and mistakes', () => {
  it('explains itself', () => {
    const r = roots('--help');
    expect(r.status).toBe(0);
    for (const name of [
      'info',
      'generate',
      'eval',
      'train',
      'finetune',
      'distill',
      'compress',
      'bench',
      'measure',
      'devices',
    ]) {
      expect(r.out).toContain(name);
      expect(roots(name, '--help').out).toMatch(new RegExp(`roots ${name}`));
    }
    expect(roots('--version').out.trim()).toBe(
      (
        JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
          version: string;
        }
      ).version,
    );
  });
  it.each([
    [['frobnicate'], /unknown command "frobnicate"; expected one of info, generate/],
    [['info'], /expected 1 argument, got 0/],
    [['info', 'x', '--nonsense'], /Unknown option '--nonsense'/],
    [['generate', 'x'], /--prompt is required/],
    [['generate', 'x', '--prompt', 'a', '--top-k', 'many'], /--top-k must be a number, got "many"/],
    [['compress', 'x', '--out', 'y', '--calibration', 'c', '--eval', 'e', '--prune', 'ffn'], /./],
    [['train', '--out', 'x'], /--text is required/],
    [['train', '--text', 'nowhere.txt', '--out', 'x'], /nowhere\.txt: no such file/],
    [
      ['train', '--text', 'x', '--out', 'y', '--model', 'bert'],
      /--model must be one of gpt2, llama, lstm/,
    ],
    [
      ['train', '--text', 'x', '--out', 'y', '--preset', 'big'],
      /--preset must be one of nanogpt-cpu/,
    ],
    [['distill', 'a', '--text', 'x', '--out', 'y'], /expected 2 arguments, got 1/],
    [['bench', 'everything'], /unknown benchmark "everything"/],
    [['eval', 'x', '--task', 'beauty', '--text', 'y'], /--task must be perplexity/],
  ])('%j fails with one line', (args, message) => {
    const r = roots(...args);
    expect(r.status).not.toBe(0);
    expect(r.err).toMatch(message);
    expect(r.err.trim().split('\n').length).toBe(1);
    expect(r.out).toBe('');
  });
  it('names a missing model and a missing text', () => {
    expect(roots('info', '/no/such').err).toMatch(/no such model folder \[ERR_FILE_NOT_FOUND\]/);
    expect(roots('info', '/no/such').status).toBe(1);
  });
  it('devices, the CPU first', () => {
    const [first, ...others] = json('devices') as unknown as { device: string }[];
    expect(first).toEqual({
      device: 'cpu',
      isa: expect.stringMatching(/baseline|avx|amx/),
      threads: expect.any(Number),
      others: [],
    });
    for (const other of others) expect(other.device).toBe('cuda'); // machines with a GPU
  });
});

describeWithFixtures('on checkpoints', () => {
  const gpt2 = fixture('checkpoints/gpt2-shakespeare');
  it('info', () => {
    const info = json('info', gpt2);
    expect(info).toMatchObject({
      architecture: 'GPT2LMHeadModel',
      parameters: 940800,
      dtype: 'float32',
      config: { n_layer: 4 },
    });
    expect(info['bytes']).toBeGreaterThan(3.7e6);
    expect(info['quantization']).toBeNull();
  });
  it('compress to int4 with an int4 table, whose info says so, and generate with an int8 cache', () => {
    const out = join(temporaryFolder('cli'), 'int4');
    const [train, held] = [join(work, 'train.txt'), join(work, 'held.txt')];
    const text = readFileSync(fixture('datasets/tinyshakespeare/input.txt'), 'utf8');
    writeFileSync(train, text.slice(0, 40_000));
    writeFileSync(held, text.slice(-8000));
    const words = ['compress', gpt2, '--out', out, '--calibration', train, '--eval', held];
    const int4 = [...words, '--quantize', 'w4a16', '--group', '32', '--quantize-embeddings'];
    expect(roots(...int4, '--embedding-bits', '4', '--calibration-tokens', '512').status).toBe(0);
    expect(json('info', out)['quantization']).toMatchObject([{ scheme: 'w4a16', group: 32 }]);
    expect(roots('info', out).out).toMatch(/w4a16 in groups of 32 \(Embedding, Linear\)/);
    const said = json('generate', out, '--prompt', 'The king', '--cache-dtype', 'int8');
    expect(said['tokens']).toHaveLength(40);
    expect(roots(...int4, '--embedding-bits', '3').err).toMatch(/embeddingBits must be 8 or 4/);
  });
  it('generate', () => {
    const ref = (
      fixtureJson('refs/gpt2-shakespeare/reference.json')['generation'] as {
        prompt: string;
        prompt_ids: number[];
        greedy: { ids: number[][]; text: string[] };
      }[]
    )[0]!;
    const r = json('generate', gpt2, '--prompt', ref.prompt, '--max-new-tokens', '40', '--greedy');
    expect(r['text']).toBe(ref.greedy.text[0]);
    expect(r['tokens']).toEqual(ref.greedy.ids[0]);
    expect(r['promptTokens']).toEqual(ref.prompt_ids);
    expect(r['tokensPerSecond']).toBeGreaterThan(1);
    expect(roots('generate', gpt2, '--prompt', ref.prompt, '--max-new-tokens', '40').out).toBe(
      `${ref.greedy.text[0]}\n`,
    );
    const [a, b] = [1, 1].map(
      (seed) =>
        json(
          'generate',
          gpt2,
          '--prompt',
          'A',
          '--max-new-tokens',
          '9',
          '--temperature',
          '0.8',
          '--top-p',
          '0.9',
          '--seed',
          String(seed),
        )['tokens'],
    );
    expect(a).toEqual(b);
  });
  it('export', () => {
    const folder = fixture('checkpoints/gpt2-shakespeare');
    const path = join(work, 'model.gguf');
    const r = json('export', folder, path, '--type', 'q8_0') as unknown as { bytes: number };
    expect(r).toMatchObject({ path, architecture: 'gpt2', tensors: 52 });
    expect(readFileSync(path).length).toBe(r.bytes);
    expect(roots('export', folder, path, '--type', 'q5').err).toMatch(/--type must be one of f32/);
    expect(roots('export', fixture('checkpoints/bert-tiny-sst2'), path).status).toBe(1);
  });
  it('eval', () => {
    const r = json(
      'eval',
      gpt2,
      '--task',
      'perplexity',
      '--text',
      fixture('refs/gpt2-shakespeare/ppl_text.txt'),
      '--context',
      '128',
    );
    expect(Math.abs(Number(r['perplexity']) / 43.14186800242309 - 1)).toBeLessThan(1e-3);
    expect(r['tokens']).toBe(8802);
    expect(roots('eval', gpt2, '--text', '/no/text').err).toMatch(/no such file/);
    expect(
      roots(
        'eval',
        gpt2,
        '--text',
        fixture('refs/gpt2-shakespeare/ppl_text.txt'),
        '--context',
        '4096',
      ).err,
    ).toMatch(/context must be an integer from 2 to the model's 128/);
  });
  it('compress', () => {
    const calibration = join(work, 'calibration.txt');
    writeFileSync(
      calibration,
      readFileSync(fixture('datasets/tinyshakespeare/input.txt'), 'utf8').slice(0, 100_000),
    );
    const out = join(work, 'small');
    const r = json(
      'compress',
      gpt2,
      '--out',
      out,
      '--calibration',
      calibration,
      '--eval',
      fixture('refs/gpt2-shakespeare/ppl_text.txt'),
      '--prune',
      'ffn=0.25',
      '--quantize',
      'w8a8',
      '--seed',
      '1',
    );
    expect(r['stages']).toHaveLength(2);
    expect(JSON.parse(readFileSync(join(out, 'report.json'), 'utf8'))).toEqual(r);
    expect(existsSync(join(out, 'report.html'))).toBe(true);
    expect(json('info', out)).toMatchObject({ architecture: 'GPT2LMHeadModel', dtype: 'int8' });
    expect(
      json('generate', out, '--prompt', 'ROMEO:', '--max-new-tokens', '5')['tokens'],
    ).toHaveLength(5);
    expect(
      roots(
        'compress',
        gpt2,
        '--out',
        out,
        '--calibration',
        calibration,
        '--eval',
        calibration,
        '--quantize',
        'w8a8',
      ).err,
    ).toMatch(/identical/);
    expect(
      roots(
        'compress',
        gpt2,
        '--out',
        out,
        '--calibration',
        calibration,
        '--eval',
        fixture('refs/gpt2-shakespeare/ppl_text.txt'),
        '--prune',
        'ffn=lots',
      ).err,
    ).toMatch(/--prune takes parts like/);
  });
});

describe('bench', () => {
  it('train times the nanoGPT step in both precisions; other sizes are named (G28)', () => {
    const r = measured('train', '--threads', '2');
    expect(r.rows.map((row) => row.kernel)).toEqual(['train step f32', 'train step bf16']);
    for (const row of r.rows) expect(row.gflops).toBeGreaterThan(0.1);
    expect(roots('bench', 'train', '--sizes', '99').err).toMatch(/sizes must be among 128, 768/);
  });
  it.skipIf(!hasFixtures)(
    'model times prefill and one token in five forms, and with an int8 cache (G28)',
    () => {
      const folder = fixture('checkpoints/gpt2-shakespeare');
      const r = measured('model', folder, '--threads', '2');
      expect(r.rows.map((row) => row.kernel)).toEqual([
        ...['float32', 'bfloat16', 'int8', 'int4', 'int4 throughout'].flatMap((form) => [
          `prefill ${form}`,
          `decode one token ${form}`,
        ]),
        'decode one token int4 throughout, int8 cache',
      ]);
      for (const row of r.rows) expect(row.gflops).toBeGreaterThan(0.01);
    },
  );
  it('ends quietly when nobody reads its output any more', () => {
    const r = spawnSync(
      'bash',
      ['-c', `"${process.execPath}" "${main}" bench gemm --sizes 32,48,64 --threads 1 | head -1`],
      { encoding: 'utf8' },
    );
    expect([r.stderr, r.stdout.split('\n').length]).toEqual(['', 2]);
  });
  it('model wants a folder, and no other suite takes one', () => {
    expect(roots('bench', 'model').err).toMatch(/wants the folder/);
    expect(roots('bench', 'gemm', '/tmp').err).toMatch(/unexpected argument/);
    expect(roots('bench', 'gemm', '--device', 'tpu').err).toMatch(
      /--device must be one of cpu, cuda/,
    );
  });
  it.each(['gemm', 'linear', 'attention', 'int8', 'decode', 'memory'])(
    '%s prints machine, peak and rows (G28)',
    (name) => {
      const size = name === 'decode' || name === 'memory' ? '16' : '64';
      const r = measured(name, '--sizes', size, '--threads', '1');
      expect(r.peak!.f32).toBeGreaterThan(1);
      expect(r.rows.length).toBeGreaterThan(1);
      for (const row of r.rows)
        expect([row.ms > 0, row.gflops > 0, row.ofPeak === null || row.ofPeak > 0]).toEqual([
          true,
          true,
          true,
        ]);
    },
  );
  it('names absent peers, compares with a baseline, and writes a page', () => {
    const small = ['gemm', '--sizes', '32', '--threads', '1'];
    const result = measured(...small, '--peers', 'auto');
    if (process.env['ROOTS_PEER_PYTHON'] === undefined)
      expect(result.peers.torch).toMatch(/^absent: ROOTS_PEER_PYTHON names no Python/);
    else expect(result.rows[0]!.peers.torch!.ratio).toBeGreaterThan(0);
    // nobody is a million times faster or slower than himself
    const file = join(work, 'baseline.json');
    const scaled = (factor: number): void =>
      writeFileSync(
        file,
        JSON.stringify({ ...result, rows: result.rows.map((r) => ({ ...r, ms: r.ms * factor })) }),
      );
    scaled(1e6);
    const html = join(work, 'bench.html');
    const good = roots('bench', ...small, '--baseline', file, '--html', html);
    expect([good.status, good.err]).toEqual([0, '']);
    expect(good.out).toMatch(/gemm f32 nn .* was/);
    expect(readFileSync(html, 'utf8')).toContain('<svg');
    scaled(1e-6);
    const bad = roots('bench', ...small, '--baseline', file);
    expect(bad.status).toBe(1);
    expect(bad.err).toMatch(`${result.rows.length} rows are more than 10 % slower`);
    writeFileSync(file, '[]x');
    expect(roots('bench', ...small, '--baseline', file).err).toMatch(/not a result of roots bench/);
    expect(roots('bench', ...small, '--peers', 'mkl').err).toMatch(/--peers must be one of/);
    const lost = roots('bench', ...small, '--html', join(work, 'none', 'x.html'));
    expect([lost.status, lost.out]).toEqual([1, '']);
    expect(lost.err).toMatch(/--html .* is no folder; make it first/);
    const compared = measured(...small, '--compare', 'baseline,naive');
    expect(compared.rows.map((r) => r.isa)).toContain('baseline');
    expect(compared.rows[0]!.peers.naive!.ratio).toBeGreaterThan(0);
    expect(compared.peers).toHaveProperty('naive.settings', '1 thread, plain TypeScript loops');
    expect(compared.rows.filter((r) => r.kernel.endsWith('[baseline]')).length).toBe(
      result.rows.length,
    );
    expect(roots('bench', ...small, '--compare', 'sse').err).toMatch(/--compare must be one of/);
  });
});
