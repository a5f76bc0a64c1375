// Devices: what holds without a GPU, and, where the emulated module is built (npm run build:cuda-emulated), the CUDA kernels themselves,
// run block by block on the CPU. The op suite runs on them with ROOTS_TEST_DEVICE=cuda; here is what only devices have.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { setDefaultDevice, tensor, toDevice } from '../lib/index.js';
import { temporaryFolder } from './harness.js';

const root = resolve(import.meta.dirname, '..');
const emulated = join(root, 'build/cuda-emulated/roots_cuda_emulated.so');

/** Runs a module in a process of its own, since a loaded backend stays; returns what it prints as JSON. */
function run(source: string, env: Record<string, string>): unknown {
  const file = join(temporaryFolder('cuda'), 'main.mts');
  writeFileSync(
    file,
    `import * as roots from ${JSON.stringify(join(root, 'lib/index.ts'))};\nconst print = (x: unknown) => console.log(JSON.stringify(x));\nconst failure = (f: () => unknown) => { try { f(); return null; } catch (e) { return [(e as { code: string }).code, (e as Error).message]; } };\n${source}`,
  );
  const clean = { ...process.env, ROOTS_TEST_DEVICE: '', ...env };
  const out = execFileSync(process.execPath, ['--expose-gc', '--import', 'tsx', file], {
    cwd: root,
    env: clean,
    encoding: 'utf8',
  });
  return JSON.parse(out.trim().split('\n').at(-1)!) as unknown;
}

describe('devices without a GPU', () => {
  it('moves to where a tensor is already without a copy, and rejects unknown names (P05)', () => {
    const x = tensor([1, 2], { device: 'cpu' });
    expect(toDevice(x, 'cpu').storage).toBe(x.storage);
    expect(x.device).toBe('cpu');
    expect(() => tensor([1], { device: 'gpu' as 'cuda' })).toThrow(
      /expected 'cpu', 'cuda' or 'auto'/,
    );
    expect(() => setDefaultDevice('tpu' as 'cuda')).toThrow(/unknown device "tpu"/);
  });
  it("says why 'cuda' cannot be used, and 'auto' falls back silently", () => {
    const source = `print([failure(() => roots.tensor([1], { device: 'cuda' })), roots.tensor([1], { device: 'auto' }).device, roots.devices().length]);`;
    const missing = run(source, { ROOTS_CUDA_MODULE: '/nowhere/roots_cuda.so' });
    expect(missing).toEqual([
      ['ERR_DEVICE', expect.stringMatching(/CUDA module is not installed.*nowhere/)],
      'cpu',
      1,
    ]);
    const wrong = run(source, { ROOTS_CUDA_MODULE: join(root, 'package.json') });
    expect(wrong).toEqual([['ERR_DEVICE', expect.stringMatching(/package\.json/)], 'cpu', 1]);
    const addon = join(root, 'build/Release/roots.node');
    if (existsSync(addon))
      expect(run(source, { ROOTS_CUDA_MODULE: addon })).toEqual([
        ['ERR_DEVICE', expect.stringMatching(/cannot be used here/)],
        'cpu',
        1,
      ]);
  });
  const compiler = ['gcc', 'cc', 'clang'].find(
    (name) => spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
  );
  it.skipIf(!compiler)('refuses a module of another build, and a library that is none', () => {
    const folder = temporaryFolder('backend');
    const library = (name: string, source: string): string => {
      const path = join(folder, `${name}.so`);
      writeFileSync(join(folder, `${name}.c`), source);
      execFileSync(compiler!, ['-shared', '-fPIC', '-o', path, join(folder, `${name}.c`)]);
      return path;
    };
    for (const [path, message] of [
      [
        // the first word of a backend is the hash of the kernels it was built with
        library(
          'old',
          'const void *backend_entry(unsigned long long abi) { static unsigned long long b[16]; b[0] = abi ^ 1; return b; }',
        ),
        /old\.so was built with another version of roots-llm/,
      ],
      [library('none', 'int other;'), /none\.so is not a backend/],
    ] as const)
      expect(
        run(`print(failure(() => roots.tensor([1], { device: 'cuda' })));`, {
          ROOTS_CUDA_MODULE: path,
        }),
      ).toEqual(['ERR_DEVICE', expect.stringMatching(message)]);
  });
  const real = join(root, 'build/Release/roots_cuda.so');
  it.skipIf(!existsSync(real))('opens the real module and names the missing driver', () => {
    const got = run(`print(failure(() => roots.tensor([1], { device: 'cuda' })));`, {
      ROOTS_CUDA_MODULE: real,
    });
    if (got !== null) expect(got).toEqual(['ERR_DEVICE', expect.stringMatching(/driver|GPU/)]);
  });
});

// ROOTS_REQUIRE_EMULATED: a missing module fails here instead of being skipped (.ci/run has just built it)
const describeEmulated =
  existsSync(emulated) || process.env['ROOTS_REQUIRE_EMULATED'] ? describe : describe.skip;
describeEmulated(
  `CUDA kernels, emulated${existsSync(emulated) ? '' : ' (skipped: npm run build:cuda-emulated first)'}`,
  () => {
    const env = { ROOTS_CUDA_MODULE: emulated };
    const hopper = { ...env, ROOTS_CUDA_HOPPER: '1' };
    const graphs = { ...env, ROOTS_CUDA_GRAPHS: '1' };
    it('devices() names the one in use and the others', () => {
      const source = `print(roots.devices().map((d) => [d.device, d.isa.split(' ')[0], d.others.length]));`;
      expect(run(source, env)).toEqual([
        ['cpu', expect.any(String), 0],
        ['cuda', 'emulated', 1],
      ]);
    });
    it('worker threads, each with its own environment, share the device', () => {
      const job = `import(${JSON.stringify(join(root, 'dist/index.js'))}).then(async (roots) => {
        const { parentPort, workerData } = await import('node:worker_threads');
        const a = roots.full([40, 40], workerData, { device: 'cuda' });
        let y = a;
        for (let i = 0; i < 20; i++) y = y.matmul(a).mul(1 / 40);
        parentPort.postMessage([y.device, (await y.data())[7]]);
      })`;
      const got = run(
        `import { Worker } from 'node:worker_threads';
         const mine = roots.full([40, 40], 1, { device: 'cuda' });
         const start = (value) => new Promise((resolve, reject) => {
           const worker = new Worker(${JSON.stringify(job)}, { eval: true, workerData: value });
           worker.once('message', resolve).once('error', reject);
         });
         const answers = await Promise.all([1, 1.5, 0.5].map(start));
         print([...answers, (await mine.add(1).data())[3]]);`,
        env,
      );
      expect(got).toEqual([
        ['cuda', 1],
        ['cuda', expect.closeTo(1.5 ** 21, 1)],
        ['cuda', expect.closeTo(0.5 ** 21, 9)],
        2,
      ]);
    });
    it('results follow their inputs; mixing devices names both', () => {
      expect(
        run(
          `const a = roots.tensor([[1, 2], [3, 4]], { device: 'cuda' });
           const y = a.matmul(a).add(1).softmax();
           print([a.device, y.device, Array.from(await a.matmul(a).data()), failure(() => roots.add(a, roots.ones([2, 2])))]);`,
          env,
        ),
      ).toEqual([
        'cuda',
        'cuda',
        [7, 10, 15, 22],
        [
          'ERR_DEVICE',
          'add: expected tensors on one device, got cuda and cpu; move one with .to()',
        ],
      ]);
    });
    it('copies both ways keep every bit, views included, and gradients come home', () => {
      expect(
        run(
          `const x = roots.tensor(Float32Array.from({ length: 12 }, (_, i) => i / 3), { shape: [3, 4] }).setRequiresGrad();
           const y = roots.transpose(x).toDevice('cuda');
           roots.sum(roots.square(y)).backward();
           const back = y.toDevice('cpu');
           print([y.device, y.shape, Array.from(await back.data()), x.grad!.device, Array.from(await x.grad!.data())]);`,
          env,
        ),
      ).toEqual([
        'cuda',
        [4, 3],
        [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11].map((i) => Math.fround(i / 3)),
        'cpu',
        Array.from({ length: 12 }, (_, i) => Math.fround(2 * Math.fround(i / 3))),
      ]);
    });
    it('a model moves, trains and generates as on the CPU', () => {
      const got = run(
        `const config = { architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 16, vocab_size: 29, rms_norm_eps: 1e-5, tie_word_embeddings: true };
         const losses: number[][] = [];
         for (const device of ['cpu', 'cuda'] as const) {
           const model = roots.LlamaForCausalLM.create(config, new roots.Generator(5)).to(device).requiresGrad();
           const optimizer = new roots.AdamW(model.parameters(), { lr: 1e-2 });
           const ids = roots.tensor(Int32Array.from({ length: 32 }, (_, i) => (i * 5) % 29), { shape: [2, 16] });
           const own: number[] = [];
           for (let i = 0; i < 6; i++) {
             const loss = model.loss({ inputIds: ids, labels: ids });
             loss.backward();
             optimizer.step({ scale: roots.gradientScale(model.parameters(), { maxNorm: 1, loss }) });
             optimizer.zeroGrad();
             own.push(await loss.item());
           }
           own.push(model.device === device ? 0 : 1);
           losses.push(own);
         }
         print(losses);`,
        env,
      ) as [number[], number[]];
      expect(got[0].at(-1)).toBe(0);
      got[0].forEach((want, i) => expect(got[1][i]).toBeCloseTo(want, 4));
      expect(got[1][5]!).toBeLessThan(got[1][0]! - 0.5);
    });
    it('memory is counted per device, refused beyond its limit, and given back', () => {
      expect(
        run(
          `const before = roots.memory('cuda');
           const x = roots.zeros([1000], { device: 'cuda' });
           const during = roots.memory('cuda').bytes;
           x.dispose();
           await roots.synchronize();
           roots.setMemoryLimit(1e6, 'cuda');
           const refused = failure(() => roots.zeros([1e6], { device: 'cuda' }));
           print([before.tensors, during, roots.memory('cuda').bytes, refused?.[0], /on cuda/.test(refused![1])]);`,
          env,
        ),
      ).toEqual([0, 4000, 0, 'ERR_OUT_OF_MEMORY', true]);
    });
    it('an index out of range is reported at the next read, and the one after is clean', () => {
      expect(
        run(
          `const w = roots.ones([3, 2], { device: 'cuda' });
           const bad = roots.embedding(roots.tensor(Int32Array.of(1, 7), { device: 'cuda' }), w);
           const first = failure(() => bad.dataSync());
           print([first, Array.from(w.dataSync())]);`,
          env,
        ),
      ).toEqual([
        ['ERR_ROOTS_NATIVE', 'embedding_forward: index out of range'],
        [1, 1, 1, 1, 1, 1],
      ]);
    });
    it.each([
      [64, 64, 64],
      [128, 256, 320],
      [130, 304, 200],
      [257, 70, 449],
    ])('Hopper products of %ix%ix%i, of all layouts and both sources', (m, n, k) => {
      // operands with few bits, so that float32 sums are exact in any order
      const source = `
        const kernels = await import(${JSON.stringify(join(root, 'lib/native/kernels.gen.ts'))});
        const matrix = (rows, columns, seed) => Float32Array.from({ length: rows * columns }, (_, i) => ((Math.imul(i + seed, 2654435761) >>> 20) & 63) / 8 - 4);
        const [m, n, k] = [${m}, ${n}, ${k}];
        const wrong = [];
        for (const turnA of [false, true]) for (const turnB of [false, true]) for (const dtype of ['float32', 'bfloat16']) {
          const [a, b] = [matrix(m, k, 1), matrix(k, n, 7)];
          const place = (values, rows, columns, turn) => {
            const x = roots.tensor(values, { shape: [rows, columns] });
            const laid = roots.toDevice((turn ? x.transpose().clone() : x).cast(dtype), 'cuda');
            return turn ? laid.transpose() : laid;
          };
          const out = roots.zeros([m, n], { device: 'cuda' });
          kernels.matmul_bf16(place(a, m, k, turnA), place(b, k, n, turnB), out, 0);
          const got = await out.data();
          let different = 0;
          for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) {
            let sum = 0;
            for (let l = 0; l < k; l++) sum += a[i * k + l] * b[l * n + j];
            if (got[i * n + j] !== sum) different++;
          }
          if (different) wrong.push([turnA, turnB, dtype, different]);
        }
        print(wrong);`;
      expect(run(source, hopper)).toEqual([]);
    });
    it('Hopper products of int8 give W8A8 the numbers of the CPU', () => {
      const source = `
        const x = roots.randn([150, 96]), w = roots.randn([70, 96]), bias = roots.randn([70]);
        const { q, scale } = roots.quantizeWeightI8(w);
        const want = roots.linearW8A8(x, roots.packI8(q), scale, bias, { activation: 'gelu_tanh' }).dataSync();
        const [cx, cq, cs, cb] = [x, q, scale, bias].map((t) => roots.toDevice(t, 'cuda'));
        const got = roots.linearW8A8(cx, roots.packI8(cq), cs, cb, { activation: 'gelu_tanh' }).dataSync();
        print(Math.max(...want.map((v, i) => Math.abs(v - got[i]))));`;
      expect(run(source, hopper)).toBeLessThan(2e-5);
    });
    it('roots train --device cuda --bf16 follows the CPU', () => {
      const folder = temporaryFolder('cuda-train');
      const text = join(folder, 'text.txt');
      writeFileSync(text, 'the quick brown fox jumps over the lazy dog. '.repeat(120));
      const train = (
        device: string,
        more: Record<string, string>,
      ): { trainLoss: number; valLoss: number } => {
        const size = '--model gpt2 --layers 1 --heads 2 --dim 64 --context 64 --steps 4 --batch 2';
        const rest = ['--bf16', '--seed', '3', '--device', device, '--json', '--text', text];
        const cli = ['--import', 'tsx', join(root, 'lib/cli/main.ts'), 'train', ...size.split(' ')];
        const out = execFileSync(
          process.execPath,
          [...cli, ...rest, '--out', join(folder, device + Object.keys(more).join(''))],
          { cwd: root, env: { ...process.env, ROOTS_TEST_DEVICE: '', ...more }, stdio: 'pipe' },
        );
        return JSON.parse(String(out)) as { trainLoss: number; valLoss: number };
      };
      const here = train('cpu', {});
      for (const more of [env, hopper]) {
        const there = train('cuda', more);
        expect(there.trainLoss).toBeCloseTo(here.trainLoss, 2);
        expect(there.valLoss).toBeCloseTo(here.valLoss, 2);
      }
      // the same kernels with the same arguments in the same order: the same bits
      const single = train('cuda', { ...env, AGAIN: '1' });
      const { trainLoss, valLoss } = train('cuda', graphs);
      expect([trainLoss, valLoss]).toEqual([single.trainLoss, single.valLoss]);
    }, 240_000);
    it('graphs of decoded tokens and of steps give the same bits, and are updated instead of made anew', () => {
      const source = `
        const config = { architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', n_embd: 32, n_layer: 2, n_head: 2, n_positions: 48, vocab_size: 29, layer_norm_epsilon: 1e-5 };
        const model = roots.GPT2LMHeadModel.create(config, new roots.Generator(5)).to('cuda');
        const { generateIds } = await import(${JSON.stringify(join(root, 'lib/generate/generate.ts'))});
        const tokens: unknown[] = [];
        for await (const step of generateIds(model, [[1, 2, 3], [4, 5, 6]], { maxNewTokens: 24, greedy: true })) tokens.push(step);
        const decoded = roots.graphCounts('cuda');
        model.requiresGrad();
        const optimizer = new roots.AdamW(model.parameters(), { lr: 1e-2 });
        const losses: number[] = [];
        for (let i = 0; i < 6; i++) {
          optimizer.scaleLr(1 / (i + 1)); // an argument that changes
          const ids = roots.tensor(Int32Array.from({ length: 32 }, (_, j) => (j * 5 + i) % 29), { shape: [2, 16], device: 'cuda' });
          const loss = roots.asGraph('cuda', 'step', () => {
            const l = roots.tidy(() => { const l = model.loss({ inputIds: ids, labels: ids }); l.backward(); return l.detach(); });
            optimizer.step();
            return l;
          });
          optimizer.zeroGrad();
          losses.push(await loss.item());
        }
        print([tokens, losses, decoded, roots.graphCounts('cuda')]);`;
      type Got = [
        unknown[],
        number[],
        Record<'sent' | 'made', number>,
        Record<'sent' | 'made', number>,
      ];
      const one = run(source, env) as Got;
      const all = run(source, graphs) as Got;
      expect(one[2]).toEqual({ sent: 0, made: 0 });
      expect(all.slice(0, 2)).toEqual(one.slice(0, 2));
      expect(new Set(one[1]).size).toBe(6);
      expect(all[2].sent).toBe(23); // the first token comes from the prompt
      expect(all[2].made).toBeLessThanOrEqual(2);
      const steps = all[3].sent - all[2].sent;
      expect(steps).toBeGreaterThanOrEqual(6);
      // moments are made in the first step
      expect(all[3].made - all[2].made).toBeLessThanOrEqual((2 * steps) / 6);
    });
    it('a graph is divided by what cannot be captured: uploads, reads, memory given back', () => {
      const source = `
        const x = roots.tensor([1, 2, 3, 4], { device: 'cuda' });
        const seen: number[][] = [];
        for (let i = 0; i < 3; i++)
          roots.asGraph('cuda', 'outer', () => {
            const a = x.mul(2);
            seen.push(Array.from(a.dataSync()));
            const b = a.add(roots.tensor([i, i, i, i], { device: 'cuda' }));
            a.dispose();
            roots.releaseCachedMemory();
            const c = roots.asGraph('cuda', 'inner', () => b.mul(b));
            b.dispose();
            seen.push(Array.from(c.dataSync()));
          });
        const wrong = failure(() => roots.asGraph('cuda', 'bad', () => { throw new RangeError('mine'); }));
        const after = Array.from(x.add(1).dataSync());
        print([seen, wrong, after, roots.graphCounts('cuda').sent > 5]);`;
      const want = [0, 1, 2].flatMap((i) => [[2, 4, 6, 8], [2, 4, 6, 8].map((v) => (v + i) ** 2)]);
      expect(run(source, graphs)).toEqual([want, [null, 'mine'], [2, 3, 4, 5], true]);
    });
    it('asGraph just runs on the CPU', () => {
      expect(
        run(`print([roots.asGraph('cpu', 'x', () => 3), roots.graphCounts('cpu')]);`, env),
      ).toEqual([3, { sent: 0, made: 0 }]);
    });
    it('prunes, repairs by least squares and quantizes there, as on the CPU', () => {
      const folder = temporaryFolder('cuda-compress');
      const words = ['the', 'cat', 'saw', 'a', 'dog', 'and', 'ran', 'home', 'in', 'rain'];
      const text = (seed: number): string =>
        Array.from({ length: 400 }, (_, i) => words[((i * i + 7 * i + seed) % 97) % 10]).join(' ');
      const train = join(folder, 'text.txt');
      writeFileSync(train, text(1));
      const model = ['--model', 'llama', '--layers', '2', '--heads', '4', '--kv-heads', '2'];
      const data = ['--text', train, '--out', join(folder, 'model')];
      const size = ['--dim', '16', '--context', '32', '--steps', '300', '--lr', '0.01'];
      execFileSync(
        process.execPath,
        ['--import', 'tsx', join(root, 'lib/cli/main.ts'), 'train', ...model, ...size, ...data],
        { cwd: root, env: { ...process.env, ROOTS_TEST_DEVICE: '' }, stdio: 'pipe' },
      );
      const compressed = (device: string): [string, boolean, number, number][] =>
        run(
          `roots.setDefaultDevice('${device}');
           const report = await roots.compress(${JSON.stringify(join(folder, 'model'))}, {
             out: ${JSON.stringify(join(folder, device))}, calibrationTokens: 512, turns: 1, measureMs: 1, maxKld: 5,
             calibrationText: ${JSON.stringify(text(2).slice(0, 1500))}, evalText: ${JSON.stringify(text(3).slice(0, 600))},
             prune: { ffn: 0.25, heads: 0.5 }, quantize: 'w8a8' });
           print(report.stages.map((s) => [s.stage, s.accepted, s.kld, s.perplexity]));`,
          env,
        ) as [string, boolean, number, number][];
      const [here, there] = [compressed('cpu'), compressed('cuda')];
      expect(here.map((s) => s[1])).toEqual([true, true, true]);
      expect(there.map((s) => s.slice(0, 2))).toEqual(here.map((s) => s.slice(0, 2)));
      for (const [i, s] of there.entries()) {
        expect(here[i]![2]).toBeGreaterThan(0.01); // pruning moves this model
        expect(s[2] / here[i]![2]).toBeCloseTo(1, 5);
        expect(s[3] / here[i]![3]).toBeCloseTo(1, 5);
      }
    }, 120_000);
    it('kernels that CUDA lacks say so', () => {
      expect(
        run(
          `const w = roots.tensor([[4, 2], [2, 3]], { device: 'cuda' });
           print(failure(() => roots.packLinear(w).dataSync()));`,
          env,
        ) as string[],
      ).toEqual(['ERR_ROOTS_NATIVE', expect.stringMatching(/no CUDA kernel.*\.to\('cpu'\)/)]);
    });
  },
);
