// Kernel benchmarks and small-operation costs, for the repository: writes dated JSON under bench/results.
//   npm run bench            all suites, one and two threads
import { writeFileSync, mkdirSync } from 'node:fs';
import { Bench } from 'tinybench';
import { bench, add, memory, randn, synchronize, tensor, tidy } from '../lib/index.js';
import { benchNames } from '../lib/bench/kernels.js';
import type { BenchResult } from '../lib/bench/kernels.js';

const results: Record<string, BenchResult> = {};
for (const threads of [1, 2])
  for (const name of benchNames) {
    const result = await bench(name, { threads });
    results[`${name}, ${threads} threads`] = result;
    console.log(
      `${name}, ${threads} threads: peak float32 ${result.peak?.f32.toFixed(0) ?? '-'} GFLOP/s`,
    );
    for (const r of result.rows)
      console.log(
        `  ${r.kernel.padEnd(24)} ${r.shape.padEnd(16)} ${r.ms.toFixed(3)} ms ${r.gflops.toFixed(1)} G/s ${r.ofPeak === null ? '' : `${(100 * r.ofPeak).toFixed(1)} %`}`,
      );
  }

// What one small operation costs the JavaScript thread.
const small = new Bench({ time: 500 });
const x = randn([256]);
small
  .add('add of 1 KB', () => add(x, x).dispose())
  .add('view (transpose)', () => x.reshape([16, 16]).dispose())
  .add('tidy around an add', () => tidy(() => void add(x, x)))
  .add('tensor from 3 numbers', () => tensor([1, 2, 3]).dispose());
await small.run();
await synchronize();
console.table(small.table());
const microseconds = Object.fromEntries(
  small.tasks.map((t) => [t.name, 'latency' in t.result ? t.result.latency.p50 * 1000 : null]),
);

mkdirSync(new URL('./results/', import.meta.url), { recursive: true });
const date = new Date().toISOString().slice(0, 10);
writeFileSync(
  new URL(`./results/${date}-kernels.json`, import.meta.url),
  `${JSON.stringify({ command: 'npm run bench', microseconds, memory: memory(), results }, null, 1)}\n`,
);
