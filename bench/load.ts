// What a busy machine costs: the same product alone, and beside one process per core that never rests, in turns with PyTorch. A pool
// that waits for a worker the system has not scheduled becomes many times slower; one that does not slows down in proportion.
//   ROOTS_PEER_PYTHON=/path/python npx tsx bench/load.ts [--size 512] [--seconds 6] [--out FILE]
import { spawn } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { Peer } from '../lib/bench/peers.js';
import { devices, getThreads, matmul, randn, synchronize } from '../lib/index.js';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '512' },
    seconds: { type: 'string', default: '6' },
    out: { type: 'string' },
  },
});
const n = Number(values.size);
const turns = Math.max(2, Math.round(Number(values.seconds)));
const [a, b] = [randn([n, n]), randn([n, n])];

/** Milliseconds per product over about a second. */
async function ours(): Promise<number> {
  const start = performance.now();
  let count = 0;
  while (performance.now() - start < 1000) {
    for (let i = 0; i < 8; i++) matmul(a, b).dispose();
    await synchronize();
    count += 8;
  }
  return (performance.now() - start) / count;
}

const median = (v: readonly number[]): number => v.toSorted((x, y) => x - y)[v.length >> 1]!;
const gflops = (ms: number): number => (2 * n ** 3) / ms / 1e6;
const peer = await Peer.start('torch', getThreads());
if (typeof peer === 'string') console.error(`torch ${peer}`);
else await peer.prepare({ op: 'matmul', m: n, n, k: n, layout: 'nn' });

async function measure(): Promise<{ roots: number; torch: number | null }> {
  const times = { roots: [] as number[], torch: [] as number[] };
  for (let turn = 0; turn < turns; turn++) {
    times.roots.push(await ours());
    // as many calls as take about a second when the machine is free
    if (typeof peer !== 'string')
      times.torch.push(await peer.run(Math.max(1, Math.round(300 / median(times.roots)))));
  }
  return {
    roots: gflops(median(times.roots)),
    torch: times.torch.length > 0 ? gflops(median(times.torch)) : null,
  };
}

await ours();
const alone = await measure();
const cores = availableParallelism();
const busy = Array.from({ length: cores }, () => spawn(process.execPath, ['-e', 'for (;;);']));
await new Promise((resolve) => setTimeout(resolve, 500));
const loaded = await measure();
for (const child of busy) child.kill();
if (typeof peer !== 'string') peer.close();

const report = {
  command: `npx tsx bench/load.ts ${process.argv.slice(2).join(' ')}`.trim(),
  date: new Date().toISOString(),
  machine: { cpu: cpus()[0]?.model.trim(), ...devices()[0], node: process.versions.node },
  product: `${n}x${n}x${n} float32`,
  busyProcesses: cores,
  torch: typeof peer === 'string' ? peer : peer.info,
  gflops: { alone, loaded },
  kept: {
    roots: loaded.roots / alone.roots,
    torch: alone.torch && loaded.torch ? loaded.torch / alone.torch : null,
  },
};
console.log(JSON.stringify(report, null, 2));
if (values.out) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`);
process.exit(0);
