import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import {
  Trainer,
  TrainingArguments,
  memory,
  nn,
  setThreads,
  getThreads,
  tensor,
  trainLanguageModel,
  zeros,
} from '../../lib/index.js';
import type { TokenBatch } from '../../lib/data/token_dataset.js';
import { TokenDataset } from '../../lib/data/token_dataset.js';
import { crc32c } from '../../lib/train/tensorboard.js';
import { trainingReport } from '../../lib/report/training.js';
import type { TrainingOptions } from '../../lib/train/arguments.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { data, tinyModel, tinyTrainer, tokenizer } from './fixture.js';
import { temporaryFolder } from '../harness.js';

const folders: string[] = [];
function folder(): string {
  const f = temporaryFolder('train');
  folders.push(f);
  return f;
}
afterAll(() => folders.forEach((f) => rmSync(f, { recursive: true, force: true })));

/** SHA-256 of everything that a continued run depends on. */
function fingerprint(root: string, step: number): string {
  const hash = createHash('sha256');
  for (const name of ['model.safetensors', 'optimizer.safetensors'])
    hash.update(readFileSync(join(root, `checkpoint-${step}`, name)));
  const state = JSON.parse(
    readFileSync(join(root, `checkpoint-${step}`, 'trainer_state.json'), 'utf8'),
  ) as Record<string, unknown>;
  for (const key of ['step', 'epoch', 'position', 'tokens', 'generator', 'lossScale'])
    hash.update(JSON.stringify(state[key]));
  return hash.digest('hex');
}

type Args = Partial<TrainingOptions>;
async function run(root: string, args: Args, kind?: 'gpt2' | 'llama' | 'lstm'): Promise<void> {
  const trainer = await tinyTrainer({ outputDir: root, ...args }, kind ? { kind } : {});
  await trainer.train();
  trainer.optimizer.dispose();
  trainer.model.dispose();
}

const cases: [string, Args, ('gpt2' | 'llama' | 'lstm')?][] = [
  ['AdamW with dropout', {}],
  ['SGD with momentum', { optim: 'sgd', learningRate: 0.05 }],
  [
    'Adam, linear schedule with warm-up',
    { optim: 'adam', lrSchedulerType: 'linear', warmupSteps: 5 },
  ],
  ['Lion, cosine', { optim: 'lion', lrSchedulerType: 'cosine', learningRate: 3e-4 }],
  ['Adafactor', { optim: 'adafactor' }],
  ['8-bit AdamW', { optim: 'adamw_8bit' }],
  ['accumulation of 3', { gradientAccumulationSteps: 3 }],
  ['bf16 and activation checkpointing', { bf16: true, gradientCheckpointing: true }],
  ['fp16 with a loss scale', { fp16: true }],
  ['Llama', {}, 'llama'],
  ['LSTM', {}, 'lstm'],
];

describe('resume', () => {
  it.each(cases)(
    '%s: the same bits at depth 1, 2 and 5, across epochs (R8)',
    async (_, args, kind) => {
      const steps = args.gradientAccumulationSteps ? 22 : 60; // an epoch has 43 batches
      const whole = folder();
      await run(whole, { maxSteps: steps, saveSteps: 1000, ...args }, kind);
      const want = fingerprint(whole, steps);
      for (const stops of [[7], [10, 43], [1, 13, 30, 43, 44]]) {
        const root = folder();
        for (const stop of [...stops.filter((s) => s < steps), steps])
          // the schedule needs the full length: the stop is a callback's, not a shorter run
          await stopAt(
            root,
            stop,
            { maxSteps: steps, saveSteps: 1000, resumeFromCheckpoint: true, ...args },
            kind,
          );
        expect(fingerprint(root, steps), `stopped at ${stops.join(', ')}`).toBe(want);
      }
    },
  );

  async function stopAt(
    root: string,
    step: number,
    args: Args,
    kind?: 'gpt2' | 'llama' | 'lstm',
  ): Promise<void> {
    const trainer = await tinyTrainer(
      { outputDir: root, ...args },
      {
        ...(kind ? { kind } : {}),
        callbacks: [
          {
            onStepEnd: (state, control) => {
              if (state.step >= step) control.stop = true;
            },
          },
        ],
      },
    );
    await trainer.train();
    trainer.optimizer.dispose();
    trainer.model.dispose();
  }

  it('does not depend on the number of threads (N3)', async () => {
    const before = getThreads();
    const prints: string[] = [];
    try {
      for (const threads of [1, 2, 3, 7]) {
        setThreads(threads);
        const root = folder();
        await run(root, { maxSteps: 12 });
        prints.push(fingerprint(root, 12));
      }
    } finally {
      setThreads(before);
    }
    expect(new Set(prints).size).toBe(1);
  });

  it('refuses changed data, seed and batch size by name, and goes on when told to (5.4)', async () => {
    const root = folder();
    await run(root, { maxSteps: 4 });
    await expect(run(root, { maxSteps: 6 })).rejects.toThrow(/holds checkpoints of an earlier run/);
    const again = { maxSteps: 6, resumeFromCheckpoint: true };
    await expect(run(root, { ...again, seed: 1 })).rejects.toThrow(/seed was 42 .* is 1 now/);
    await expect(run(root, { ...again, perDeviceTrainBatchSize: 5 })).rejects.toThrow(
      /perDeviceTrainBatchSize/,
    );
    await run(root, { ...again, seed: 1, ignoreDataChanges: true });
    expect(existsSync(join(root, 'checkpoint-6'))).toBe(true);
  });

  it('a run that has reached its end does nothing', async () => {
    const root = folder();
    await run(root, { maxSteps: 4 });
    const want = fingerprint(root, 4);
    await run(root, { maxSteps: 4, resumeFromCheckpoint: true });
    expect(fingerprint(root, 4)).toBe(want);
  });

  it('a damaged checkpoint is moved aside and the one before is used; none left is an error (R4)', async () => {
    const damage: [string, (checkpoint: string) => void][] = [
      ['model.safetensors', (c) => truncateSync(join(c, 'model.safetensors'), 100)],
      [
        'bit',
        (c) => {
          const path = join(c, 'optimizer.safetensors');
          const bytes = readFileSync(path);
          bytes[bytes.length - 5]! ^= 1;
          writeFileSync(path, bytes);
        },
      ],
      ['manifest', (c) => writeFileSync(join(c, 'manifest.json'), '{}')],
      ['missing', (c) => rmSync(join(c, 'trainer_state.json'))],
    ];
    const whole = folder();
    await run(whole, { maxSteps: 10, saveSteps: 5 });
    const want = fingerprint(whole, 10);
    for (const [, hurt] of damage) {
      const root = folder();
      await run(root, { maxSteps: 10, saveSteps: 5 });
      hurt(join(root, 'checkpoint-10'));
      await run(root, { maxSteps: 10, saveSteps: 5, resumeFromCheckpoint: true });
      expect(fingerprint(root, 10)).toBe(want);
      expect(readdirSync(root).some((n) => n.startsWith('checkpoint-10.damaged-'))).toBe(true);
    }
    for (const name of ['checkpoint-5', 'checkpoint-10'])
      rmSync(join(whole, name, 'model.safetensors'));
    await expect(run(whole, { maxSteps: 10, resumeFromCheckpoint: true })).rejects.toThrow(
      /none of its 2 checkpoints/,
    );
  });
});

describe('a killed process', () => {
  const child = fileURLToPath(new URL('./run_child.ts', import.meta.url));
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  const start = (root: string, steps: number) =>
    spawn(process.execPath, ['--import', tsx, child, root, String(steps)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });

  it('kill -9 at any moment loses nothing acknowledged, and the resumed run ends with the same bits (R1)', async () => {
    const whole = folder();
    await run(whole, { maxSteps: 60, saveSteps: 3 });
    const want = fingerprint(whole, 60);
    // ROOTS_SLOW: forty kills; otherwise enough to notice
    const rounds = process.env['ROOTS_SLOW'] ? 40 : 5;
    let kills = 0;
    while (kills < rounds) {
      const root = folder();
      let acknowledged = 0;
      for (let alive = true; alive;) {
        const running = start(root, 60);
        let seen = '';
        let armed = false;
        running.stdout.on('data', (d: Buffer) => {
          seen += d.toString();
          // somewhere inside the next steps and saves
          if (/step \d+/.test(seen) && !armed && kills < rounds) {
            armed = true;
            kills++;
            setTimeout(() => running.kill('SIGKILL'), Math.random() * 120);
          }
        });
        const code = await new Promise<number | null>((done) => running.on('exit', done));
        for (const match of seen.matchAll(/saved (\d+)/g))
          acknowledged = Math.max(acknowledged, Number(match[1]));
        const newest = Math.max(
          0,
          ...readdirSync(root)
            .flatMap((n) => /^checkpoint-(\d+)$/.exec(n)?.[1] ?? [])
            .map(Number),
        );
        expect(newest).toBeGreaterThanOrEqual(acknowledged);
        alive = code !== 0;
        if (alive && kills >= rounds) {
          const last = spawnSync(process.execPath, ['--import', tsx, child, root, '60'], {
            stdio: ['ignore', 'ignore', 'inherit'],
          });
          expect(last.status).toBe(0);
          alive = false;
        }
      }
      expect(fingerprint(root, 60)).toBe(want);
    }
  }, 600_000);

  it('SIGTERM finishes the step, saves, and ends with code 75; the run continues (R3)', async () => {
    const root = folder();
    const running = start(root, 100_000);
    const code = await new Promise<number | null>((done) => {
      running.on('exit', done);
      running.stdout.on('data', (d: Buffer) => {
        if (/step 20\n/.test(d.toString())) running.kill('SIGTERM');
      });
    });
    expect(code).toBe(75);
    const steps = readdirSync(root)
      .flatMap((n) => /^checkpoint-(\d+)$/.exec(n)?.[1] ?? [])
      .map(Number);
    expect(Math.max(...steps)).toBeGreaterThanOrEqual(20);
    const after = spawnSync(process.execPath, [
      '--import',
      tsx,
      child,
      root,
      String(Math.max(...steps) + 2),
    ]);
    expect(after.status).toBe(0);
  }, 60_000);

  it('a second training in the same folder is refused', async () => {
    const root = folder();
    const running = start(root, 100_000);
    await new Promise<void>((done) => running.stdout.once('data', () => done()));
    await expect(run(root, { maxSteps: 1 })).rejects.toThrow(/another training is running/);
    running.kill('SIGKILL');
    await new Promise((done) => running.on('exit', done));
  }, 60_000);
});

/** The data with a NaN-producing batch: targets stay valid, so the loss is made NaN by the weights. */
function poison(inner: Dataset<TokenBatch>, at: number, hit: () => void): Dataset<TokenBatch> {
  let calls = 0;
  return {
    length: inner.length,
    fingerprint: inner.fingerprint,
    get: (indices, epoch) => {
      if (++calls === at) hit();
      return inner.get(indices, epoch);
    },
  };
}

describe('losses that are not finite (N5)', () => {
  const setUp = async (policy: Args['nanPolicy'], root: string) => {
    const { train } = (await data()).split(0.2);
    let broken = 0;
    const trainer = await tinyTrainer(
      { outputDir: root, maxSteps: 12, saveSteps: 2, ...(policy ? { nanPolicy: policy } : {}) },
      { dropout: 0, train: poison(train, 6, () => broken++) },
    );
    // the sixth batch meets an objective that returns infinity
    const model = trainer.model;
    const loss = model.loss.bind(model);
    let used = 0;
    model.loss = (input) => {
      if (broken > used) {
        used = broken;
        return loss(input).mul(tensor(Infinity));
      }
      return loss(input);
    };
    return trainer;
  };
  it('halt: says the real value, and the weights are those of the step before', async () => {
    const root = folder();
    const trainer = await setUp('halt', root);
    await expect(trainer.train()).rejects.toThrow(
      /step 6: loss Infinity, gradient norm .*not changed/,
    );
    expect(trainer.state.step).toBe(5);
    const lines = readFileSync(join(root, 'log.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((l) => JSON.parse(l) as Record<string, unknown>);
    expect(lines.at(-1)!['nonFiniteLoss']).toBe('Infinity');
    for (const p of trainer.model.parameters())
      for (const v of (await p.data()) as Float32Array) expect(Number.isFinite(v)).toBe(true);
  });
  it('skip: goes on, and counts', async () => {
    const trainer = await setUp('skip', folder());
    const result = await trainer.train();
    expect([result.steps, result.skippedSteps]).toEqual([12, 1]);
    expect(Number.isFinite(result.trainLoss)).toBe(true);
  });
  it('fp16: gradients that overflow lower the loss scale, and the run learns as in float32', async () => {
    const args: Args = { maxSteps: 40, loggingSteps: 1, saveStrategy: 'no' };
    const losses: number[][] = [];
    for (const fp16 of [false, true]) {
      const trainer = await tinyTrainer({ outputDir: folder(), ...args, fp16 }, { dropout: 0 });
      // far too large: 2^40 times a gradient is beyond 65504
      trainer.state.lossScale.factor = 2 ** 40;
      const result = await trainer.train();
      expect(result.steps).toBe(40);
      const { factor, steps } = trainer.state.lossScale;
      if (fp16) {
        expect(result.skippedSteps).toBeGreaterThan(5);
        expect(factor).toBe(2 ** (40 - result.skippedSteps));
        expect(steps).toBeGreaterThan(20);
      } else expect([result.skippedSteps, factor]).toEqual([0, 2 ** 40]);
      losses.push(trainer.state.history.flatMap((e) => e['loss'] ?? []));
    }
    const [wide, half] = losses as [number[], number[]];
    expect(half.at(-1)!).toBeLessThan(wide[0]! - 0.3);
    // skipped batches shift the data, so only the level can be compared
    expect(Math.abs(half.at(-1)! - wide.at(-1)!)).toBeLessThan(0.3);
  });
  it('rollback: goes back to the last checkpoint and past the bad batch', async () => {
    const trainer = await setUp('rollback', folder());
    const result = await trainer.train();
    expect([result.steps, result.skippedSteps]).toEqual([12, 1]);
  });
});

describe('Trainer', () => {
  it('learns, evaluates, keeps the best, and writes logs, a report and a loadable model', async () => {
    const root = folder();
    const seen: string[] = [];
    const trainer = await tinyTrainer(
      {
        outputDir: root,
        maxSteps: 60,
        evalStrategy: 'steps',
        evalSteps: 20,
        saveStrategy: 'steps',
        saveSteps: 20,
        saveTotalLimit: 1,
        loadBestModelAtEnd: true,
        reportTo: ['jsonl', 'csv', 'tensorboard'],
        learningRate: 1e-2,
      },
      {
        callbacks: [
          {
            onTrainBegin: () => void seen.push('begin'),
            onEvaluate: () => void seen.push('evaluate'),
            onSave: () => void seen.push('save'),
            onTrainEnd: () => void seen.push('end'),
          },
        ],
      },
    );
    const first = (await trainer.evaluate()).evalLoss;
    const result = await trainer.train();
    expect(result.evalLoss).toBeLessThan(0.8 * first);
    expect(seen).toEqual([
      'begin',
      'evaluate',
      'save',
      'evaluate',
      'save',
      'evaluate',
      'save',
      'end',
    ]);
    expect(readdirSync(root).filter((n) => n.startsWith('checkpoint-')).length).toBeLessThanOrEqual(
      2,
    );
    const csv = readFileSync(join(root, 'log.csv'), 'utf8').split('\n');
    expect(csv[0]).toBe('step,loss,evalLoss,learningRate,gradNorm,tokensPerSecond,epoch');
    expect(csv.length).toBeGreaterThan(60);
    const events = readdirSync(join(root, 'runs'));
    expect(events[0]).toMatch(/^events\.out\.tfevents\./);
    expect(statSync(join(root, 'runs', events[0]!)).size).toBeGreaterThan(1000);
    const html = readFileSync(join(root, 'report.html'), 'utf8');
    expect(html).toContain('<svg');
    expect(html).not.toMatch(/https?:\/\/(?!www\.w3)/);
  });
  it('takes a model, arguments and data alone, resumes by train(), and keeps two checkpoints (C08, X17)', async () => {
    const { train, validation } = (await data()).split(0.2);
    const outputDir = folder();
    const options = { outputDir, maxSteps: 4, saveSteps: 1, saveTotalLimit: 2, reportTo: [] };
    const run = (maxSteps: number) => {
      const args = new TrainingArguments({ ...options, maxSteps });
      const model = tinyModel();
      model.requiresGrad(false); // as a loaded model comes
      return new Trainer({ model, args, trainDataset: train, evalDataset: validation });
    };
    const warnings: string[] = [];
    const write = process.stderr.write.bind(process.stderr);
    process.stderr.write = ((chunk: string) => warnings.push(chunk) > 0) as typeof write;
    try {
      const first = await run(3).train();
      expect([first.steps, first.evalLoss]).toEqual([3, NaN]);
      const again = await run(5).train({ resumeFromCheckpoint: true });
      expect([again.steps, again.stepsDone]).toEqual([5, 2]);
    } finally {
      process.stderr.write = write;
    }
    expect(warnings.join('')).toMatch(/evalDataset, but evalStrategy is "no"/);
    const left = readdirSync(outputDir).filter((n) => n.startsWith('checkpoint-'));
    expect(left.toSorted()).toEqual(['checkpoint-4', 'checkpoint-5']);
    expect(new TrainingArguments({ outputDir }).numTrainEpochs).toBe(3);
    expect(
      () =>
        new Trainer({
          model: new nn.Linear({ weight: zeros([2, 2]) }),
          args: { outputDir },
          trainDataset: train,
        }),
    ).toThrow(/no default objective for a Linear/);
  });
  it('a final evaluation is not done twice', async () => {
    const { train, validation } = (await data()).split(0.2);
    const seen: number[] = [];
    const summary = await trainLanguageModel({
      model: tinyModel(),
      tokenizer,
      trainDataset: train,
      evalDataset: validation,
      callbacks: [{ onEvaluate: (metrics) => void seen.push(metrics['evalLoss']!) }],
      args: {
        outputDir: folder(),
        maxSteps: 4,
        evalStrategy: 'steps',
        evalSteps: 2,
        disableProgress: true,
      },
    });
    expect(seen.length).toBe(2);
    expect(summary.valLoss).toBe(seen[1]);
  });
  it('stops early', async () => {
    const trainer = await tinyTrainer({
      outputDir: folder(),
      maxSteps: 50,
      evalStrategy: 'steps',
      evalSteps: 2,
      earlyStoppingPatience: 3,
      earlyStoppingThreshold: 100,
    });
    const result = await trainer.train();
    expect([result.stopReason, result.steps]).toEqual(['earlyStopping', 8]);
  });
  it('holds memory constant over steps (B5)', async () => {
    let first: { tensors: number; bytes: number } | null = null;
    let last: { tensors: number; bytes: number } | null = null;
    const trainer = await tinyTrainer(
      {
        outputDir: folder(),
        maxSteps: process.env['ROOTS_SLOW'] ? 10_000 : 300,
        saveStrategy: 'no',
        reportTo: [],
      },
      {
        callbacks: [
          {
            onStepEnd: async (state) => {
              if (state.step === 50) {
                // garbage of earlier tests would be collected in between: let it go first
                for (let i = 0; i < 3; i++) {
                  globalThis.gc?.();
                  await new Promise((resolve) => setImmediate(resolve));
                }
                first = { ...memory() };
              }
              last = { ...memory() };
            },
          },
        ],
      },
    );
    await trainer.train();
    expect(last!.tensors).toBe(first!.tensors);
    expect(last!.bytes).toBe(first!.bytes);
  }, 600_000);
  it('names wrong options', async () => {
    const bad: [Args, RegExp][] = [
      [{ learningRate: -1 }, /learningRate must be a number from 0/],
      [{ fp16: true, bf16: true }, /fp16 and bf16 exclude each other/],
      [{ tf32: true, bf16: true }, /tf32 is a precision/],
      [{ perDeviceTrainBatchSize: 0 }, /perDeviceTrainBatchSize/],
      [{ optim: 'adamax' as 'adam' }, /optim must be one of/],
      [{ lrSchedulerType: 'cos' as 'cosine' }, /lrSchedulerType/],
      [{ loadBestModelAtEnd: true }, /loadBestModelAtEnd needs/],
      [{ earlyStoppingPatience: 1 }, /needs an evalStrategy/],
      [{ batchSize: 3 } as Args, /unknown option "batchSize"/],
    ];
    for (const [args, message] of bad)
      await expect(tinyTrainer({ outputDir: folder(), ...args })).rejects.toThrow(message);
    expect(() => TokenDataset.fromIds([1, 2, 3], 16)).toThrow(/3 tokens; a sample needs 17/);
    const file = join(folder(), 'file');
    writeFileSync(file, '');
    const trainer = await tinyTrainer({ outputDir: join(file, 'run'), maxSteps: 1 });
    await expect(trainer.train()).rejects.toThrow(/cannot be made/);
  });
  it('CRC-32C as in RFC 3720', () => {
    expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  });
  it('a report of nothing is still a page', () => {
    expect(trainingReport({ history: [], facts: [] })).toContain('no data');
  });
});
