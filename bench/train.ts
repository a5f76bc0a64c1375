// A training step against PyTorch: the same GPT shape, batch, AdamW and clipping, in turns (A B A B) in one run, so that the state of the
// machine is the same for both. PyTorch comes from the Python named by ROOTS_PEER_PYTHON; without one, ours alone is timed.
//   ROOTS_PEER_PYTHON=/path/python npx tsx bench/train.ts nanogpt|gpt2 [--dtype float32|bfloat16] [--rounds N] [--compile]
import { spawn } from 'node:child_process';
import { cpus } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  AdamW,
  Generator,
  autocast,
  createModel,
  devices,
  getThreads,
  gradientScale,
  tensor,
  tidy,
} from '../lib/index.js';

const shapes = {
  nanogpt: { layers: 4, heads: 4, dim: 128, context: 64, batch: 12, vocab: 65, steps: 40 },
  gpt2: { layers: 12, heads: 12, dim: 768, context: 256, batch: 4, vocab: 50257, steps: 1 },
};
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dtype: { type: 'string', default: 'float32' },
    rounds: { type: 'string', default: '6' },
    compile: { type: 'boolean', default: false },
  },
});
const name = positionals[0] ?? 'nanogpt';
if (!Object.hasOwn(shapes, name))
  throw new RangeError(`shape must be nanogpt or gpt2, got ${name}`);
const shape = shapes[name as keyof typeof shapes];
const dtype = values.dtype as 'float32' | 'bfloat16';
const rounds = Number(values.rounds);

interface Runner {
  run(steps: number): Promise<{ ms: number[]; rss: number; loss: number }>;
  close(): void;
}

function ours(): Runner {
  const { batch, context } = shape;
  const model = createModel('gpt2', shape, shape.vocab, null, new Generator(1)).requiresGrad();
  model.train();
  const optimizer = new AdamW(model.parameters(), { lr: 1e-4 });
  const ids = Int32Array.from({ length: batch * context }, (_, i) => (i * 7919) % shape.vocab);
  const step = async (): Promise<number> => {
    const loss = tidy(() => {
      const x = tensor(ids, { shape: [batch, context] });
      const l = autocast(dtype, () =>
        (model as ReturnType<typeof createModel>).loss({ inputIds: x, targets: x }),
      );
      l.backward();
      return l.detach();
    });
    const scale = gradientScale(model.parameters(), { maxNorm: 1, loss });
    optimizer.step({ scale });
    optimizer.zeroGrad();
    const [value] = await Promise.all([loss.item(), scale.read()]);
    scale.dispose();
    loss.dispose();
    return value;
  };
  return {
    async run(steps) {
      const ms: number[] = [];
      let loss = NaN;
      for (let i = 0; i < steps; i++) {
        const start = performance.now();
        loss = await step();
        ms.push(performance.now() - start);
      }
      return { ms, rss: process.resourceUsage().maxRSS * 1024, loss };
    },
    close: () => model.dispose(),
  };
}

async function torch(python: string): Promise<Runner & { version: string }> {
  const script = fileURLToPath(new URL('./peers/torch_train.py', import.meta.url));
  const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<Record<string, unknown>> => {
    const { value, done } = await lines.next();
    if (done) throw new Error('the PyTorch process ended');
    return JSON.parse(value as string) as Record<string, unknown>;
  };
  const options = { ...shape, threads: getThreads(), dtype, compile: values.compile, warmup: 2 };
  child.stdin.write(`${JSON.stringify(options)}\n`);
  const { version } = await next();
  return {
    version: version as string,
    async run(steps) {
      child.stdin.write(`steps ${steps}\n`);
      return (await next()) as { ms: number[]; rss: number; loss: number };
    },
    close: () => void child.stdin.end(),
  };
}

const median = (v: readonly number[]): number => v.toSorted((a, b) => a - b)[v.length >> 1]!;
const python = process.env['ROOTS_PEER_PYTHON'];
const mine = ours();
const peer = python ? await torch(python) : null;
await mine.run(2);
const times: { roots: number[]; torch: number[] } = { roots: [], torch: [] };
let rss = { roots: 0, torch: 0 };
for (let round = 0; round < rounds; round++) {
  const a = await mine.run(shape.steps);
  times.roots.push(...a.ms);
  rss = { ...rss, roots: a.rss };
  if (peer) {
    const b = await peer.run(shape.steps);
    times.torch.push(...b.ms);
    rss = { ...rss, torch: b.rss };
  }
}
peer?.close();
mine.close();
console.log(
  JSON.stringify(
    {
      command: `npx tsx bench/train.ts ${process.argv.slice(2).join(' ')}`,
      date: new Date().toISOString(),
      machine: { cpu: cpus()[0]?.model.trim(), ...devices()[0], node: process.versions.node },
      shape,
      dtype,
      roots: {
        medianMs: median(times.roots),
        bestMs: Math.min(...times.roots),
        peakRss: rss.roots,
      },
      torch: peer
        ? {
            version: peer.version,
            mode: values.compile ? 'torch.compile' : 'eager',
            optimizer: 'AdamW(fused=True)',
            medianMs: median(times.torch),
            bestMs: Math.min(...times.torch),
            peakRss: rss.torch,
          }
        : 'absent: set ROOTS_PEER_PYTHON',
      ratio: peer
        ? { time: median(times.roots) / median(times.torch), memory: rss.roots / rss.torch }
        : null,
    },
    null,
    2,
  ),
);
