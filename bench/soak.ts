// Does a long run grow, and does the event loop stay free? 10,000 steps of a small GPT by the Trainer: the slope of the resident
// memory after warm-up, the drift of live tensors and bytes, and the delay of the event loop.
//   npx tsx bench/soak.ts [--steps N] [--out FILE]
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import {
  Generator,
  TokenDataset,
  Trainer,
  byteTokenizer,
  createModel,
  devices,
  getThreads,
  memory,
} from '../lib/index.js';
import { sentences } from '../examples/grammar.js';

const { values } = parseArgs({
  options: { steps: { type: 'string', default: '10000' }, out: { type: 'string' } },
});
const steps = Number(values.steps);
const warmup = Math.floor(steps / 5);
const text = sentences(5000, 1);
const tokenizer = byteTokenizer({ text });
const shape = { layers: 2, heads: 4, dim: 64, context: 64 };
const model = createModel('gpt2', shape, tokenizer.vocabSize, 0, new Generator(1));
const outputDir = await mkdtemp(join(tmpdir(), 'roots-soak-'));

const samples: { step: number; rss: number }[] = [];
const live: { tensors: number; bytes: number }[] = [];
// sampled every 5 ms; what it measures is how late the timer fires beyond that
const resolution = 5;
const delay = monitorEventLoopDelay({ resolution });
const trainer = new Trainer({
  model,
  tokenizer,
  trainDataset: await TokenDataset.fromText(text, tokenizer, shape.context),
  args: {
    outputDir,
    maxSteps: steps,
    perDeviceTrainBatchSize: 8,
    learningRate: 1e-3,
    saveStrategy: 'no',
    loggingSteps: 100,
    reportTo: ['jsonl'],
  },
  callbacks: [
    {
      onStepEnd: ({ step }) => {
        if (step < warmup) return;
        if (step === warmup) delay.enable();
        if (step % 50 === 0) samples.push({ step, rss: process.memoryUsage.rss() });
        const { tensors, bytes } = memory();
        if (step === warmup || step === steps) live.push({ tensors, bytes });
      },
    },
  ],
});
const result = await trainer.train();
delay.disable();
await rm(outputDir, { recursive: true, force: true });

/** Least-squares slope of y over x. */
function slope(points: readonly { x: number; y: number }[]): number {
  const n = points.length;
  const mx = points.reduce((s, p) => s + p.x, 0) / n;
  const my = points.reduce((s, p) => s + p.y, 0) / n;
  const over = points.reduce((s, p) => s + (p.x - mx) * (p.y - my), 0);
  return over / points.reduce((s, p) => s + (p.x - mx) ** 2, 0);
}
const [first, last] = live as [(typeof live)[0], (typeof live)[0]];
const late = (p: number): number => Math.max(0, delay.percentile(p) / 1e6 - resolution);
const report = {
  command: `npx tsx bench/soak.ts --steps ${steps}`,
  machine: { ...devices()[0], threads: getThreads(), node: process.version },
  steps: result.steps,
  seconds: Math.round(result.seconds),
  msPerStep: (1000 * result.seconds) / result.steps,
  rssSlopeBytesPerStep: slope(samples.map(({ step, rss }) => ({ x: step, y: rss }))),
  rss: { first: samples[0]!.rss, last: samples.at(-1)!.rss },
  drift: { tensors: last.tensors - first.tensors, bytes: last.bytes - first.bytes },
  eventLoopDelayMs: { p50: late(50), p99: late(99), max: delay.max / 1e6 - resolution },
};
const json = `${JSON.stringify(report, null, 2)}\n`;
if (values.out) await writeFile(values.out, json);
process.stdout.write(json);
