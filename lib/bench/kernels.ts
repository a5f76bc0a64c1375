// Kernel benchmarks: each row is one kernel at one shape, timed many times, with its share of the measured peak.
import { cpus, totalmem } from 'node:os';
import {
  devices,
  getThreads,
  memory,
  releaseCachedMemory,
  setThreads,
  synchronize,
} from '../native/device.js';
import { attention } from '../ops/attention.js';
import { matmul, linear } from '../ops/matmul.js';
import { linearW8A16, linearW8A8, matmulI8, packI8, quantizeWeightI8 } from '../ops/matmul_i8.js';
import { cast } from '../ops/cast.js';
import { transpose } from '../ops/view.js';
import { randn } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { measurePeak } from './peak.js';
import type { Peak } from './peak.js';

export interface BenchRow {
  kernel: string;
  isa: string;
  shape: string;
  /** Median time of one call. */
  ms: number;
  p10: number;
  p90: number;
  /** 10^9 operations per second at the median (a multiply-add is two). */
  gflops: number;
  /** Share of the measured peak of this kind of arithmetic, in [0, 1]; null where there is none. */
  ofPeak: number | null;
}

export interface BenchResult {
  machine: {
    cpu: string;
    isa: string;
    threads: number;
    memoryBytes: number;
    node: string;
    date: string;
  };
  peak: Peak;
  rows: BenchRow[];
}

export interface BenchOptions {
  sizes?: readonly number[];
  threads?: number;
  onRow?: (row: BenchRow) => void;
}

/** Milliseconds per call: p10, median, p90 over at least 7 runs and about 0.4 s. Each run repeats short calls. */
async function time(fn: () => Tensor): Promise<[p10: number, median: number, p90: number]> {
  const once = async (repeat: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < repeat; i++) fn().dispose();
    await synchronize();
    return (performance.now() - start) / repeat;
  };
  await once(2);
  const repeat = Math.max(1, Math.ceil(5 / (await once(1))));
  const runs: number[] = [];
  const end = performance.now() + 400;
  while (runs.length < 7 || (performance.now() < end && runs.length < 200))
    runs.push(await once(repeat));
  runs.sort((a, b) => a - b);
  const at = (q: number): number => runs[Math.min(runs.length - 1, Math.floor(q * runs.length))]!;
  return [at(0.1), at(0.5), at(0.9)];
}

export type BenchName = 'gemm' | 'int8' | 'attention';

type Kind = 'f32' | 'i8';

interface Case {
  kernel: string;
  shape: string;
  operations: number;
  kind: Kind;
  inputs: () => Tensor[];
  run: (...inputs: Tensor[]) => Tensor;
}

function gemmCases(sizes: readonly number[]): Case[] {
  return sizes.flatMap((n) =>
    (['nn', 'nt', 'tn', 'tt'] as const).map((layout) => ({
      kernel: `gemm f32 ${layout}`,
      shape: `${n}x${n}x${n}`,
      operations: 2 * n ** 3,
      kind: 'f32' as const,
      inputs: () => [randn([n, n]), randn([n, n])],
      run: (a: Tensor, b: Tensor) => {
        const x = layout[0] === 't' ? transpose(a) : a;
        const y = layout[1] === 't' ? transpose(b) : b;
        const out = matmul(x, y);
        if (x !== a) x.dispose();
        if (y !== b) y.dispose();
        return out;
      },
    })),
  );
}

function int8Cases(sizes: readonly number[]): Case[] {
  const square = sizes.flatMap((n): Case[] => [
    {
      kernel: 'matmulI8 (int32 out)',
      shape: `${n}x${n}x${n}`,
      operations: 2 * n ** 3,
      kind: 'i8',
      inputs: () => {
        const [a, b] = [randn([n, n], { std: 40 }), randn([n, n], { std: 40 })];
        const out = [cast(a, 'int8'), cast(b, 'int8')];
        a.dispose();
        b.dispose();
        return out;
      },
      run: (a, b) => matmulI8(a!, b!),
    },
    weightCase('linear f32', n, n, n, 'f32'),
    weightCase('linear w8a8', n, n, n, 'i8'),
    weightCase('linear w8a16', n, n, n, 'f32'),
  ]);
  const decode = [1, 8, 64].flatMap((m): Case[] => [
    weightCase('linear f32', m, 3072, 768, 'f32'),
    weightCase('linear w8a8', m, 3072, 768, 'i8'),
    weightCase('linear w8a16', m, 3072, 768, 'f32'),
  ]);
  return [...square, ...decode];
}

function weightCase(
  kernel: 'linear f32' | 'linear w8a8' | 'linear w8a16',
  m: number,
  n: number,
  k: number,
  kind: Kind,
): Case {
  return {
    kernel,
    shape: `${m}x${n}x${k}`,
    operations: 2 * m * n * k,
    kind,
    inputs: () => {
      const x = randn([m, k]);
      const w = randn([n, k], { std: 0.02 });
      if (kernel === 'linear f32') return [x, w];
      const { q, scale } = quantizeWeightI8(w, { clip: false });
      const packed = packI8(q);
      w.dispose();
      q.dispose();
      return [x, packed, scale];
    },
    run: (x, w, scale) =>
      kernel === 'linear f32'
        ? linear(x!, w!)
        : (kernel === 'linear w8a8' ? linearW8A8 : linearW8A16)(x!, w!, scale!),
  };
}

function attentionCases(sizes: readonly number[]): Case[] {
  return sizes.flatMap((t) =>
    [true, false].map((causal) => ({
      kernel: `attention f32 ${causal ? 'causal' : 'full'}`,
      shape: `b1h12t${t}d64`,
      // Q Kᵀ and P V; causal counts the half that is needed
      operations: (2 * 2 * 12 * t * t * 64) / (causal ? 2 : 1),
      kind: 'f32' as const,
      inputs: () => [0, 1, 2].map(() => randn([1, 12, t, 64])),
      run: (q: Tensor, k: Tensor, v: Tensor) => attention(q, k, v, { causal }),
    })),
  );
}

const suites: Record<
  BenchName,
  { cases: (sizes: readonly number[]) => Case[]; sizes: readonly number[] }
> = {
  gemm: { cases: gemmCases, sizes: [256, 512, 1024, 2048] },
  int8: { cases: int8Cases, sizes: [512, 1024, 2048] },
  attention: { cases: attentionCases, sizes: [256, 512, 1024] },
};

export const benchNames: readonly BenchName[] = Object.keys(suites) as BenchName[];

/** Runs one suite. */
export async function bench(name: BenchName, options: BenchOptions = {}): Promise<BenchResult> {
  const before = getThreads();
  if (options.threads !== undefined) setThreads(options.threads);
  try {
    const { isa } = devices()[0]!;
    const peak = await measurePeak();
    const suite = suites[name];
    const rows: BenchRow[] = [];
    for (const c of suite.cases(options.sizes ?? suite.sizes)) {
      const inputs = c.inputs();
      const [p10, ms, p90] = await time(() => c.run(...(inputs as [Tensor, Tensor, Tensor])));
      for (const t of inputs) t.dispose();
      const gflops = c.operations / (ms * 1e6);
      const top = c.kind === 'i8' ? peak.i8 : peak.f32;
      const row: BenchRow = {
        kernel: c.kernel,
        isa,
        shape: c.shape,
        ms,
        p10,
        p90,
        gflops,
        ofPeak: top === null ? null : gflops / top,
      };
      rows.push(row);
      options.onRow?.(row);
    }
    if (memory().cachedBytes > 1 << 30) releaseCachedMemory();
    return {
      machine: {
        cpu: cpus()[0]?.model.trim() ?? 'unknown',
        isa,
        threads: getThreads(),
        memoryBytes: totalmem(),
        node: process.versions.node,
        date: new Date().toISOString(),
      },
      peak,
      rows,
    };
  } finally {
    setThreads(before);
  }
}
