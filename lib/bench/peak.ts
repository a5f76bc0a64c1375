// The most this machine's processor can do, measured in the same run as the kernels that are compared with it.
import { cpuIsa, getThreads, synchronize } from '../native/device.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, zeros } from '../tensor/create.js';

export interface Peak {
  /** Multiply-adds counted as two, in 10^9 per second; null where the instruction set has no such instruction. */
  f32: number;
  f64: number;
  bf16: number | null;
  i8: number | null;
  /** Reading memory beyond the caches, in 10^9 bytes per second. */
  readGBs: number;
  threads: number;
}

const vectorBytes: Record<string, number> = {
  baseline: 16,
  avx2: 32,
  avx512_core: 64,
  avx512_vnni: 64,
  amx: 64,
};

/** Best time of several runs of `fn`, in milliseconds, the queue drained each time. */
export async function bestMs(fn: () => void, runs: number): Promise<number> {
  let best = Infinity;
  for (let i = 0; i < runs; i++) {
    await synchronize();
    const start = performance.now();
    fn();
    await synchronize();
    best = Math.min(best, performance.now() - start);
  }
  return best;
}

/** float32 multiply-adds on registers alone, counted as two, in 10⁹ per second. Best of twenty short runs, a few hundredths of a second. */
export async function measureFmaPeak(): Promise<number> {
  const chunks = 8 * getThreads();
  const width = vectorBytes[cpuIsa()] ?? 16;
  const out = empty([chunks], 'float64', { device: 'cpu' });
  const iterations = 100_000;
  const ms = await bestMs(() => kernels.probe_fma(out, 0, iterations), 20);
  out.dispose();
  return (chunks * iterations * 12 * 2 * (width / 4)) / (ms * 1e6);
}

/** The better of two measurements: neighbours on the same machine can only take away. */
export function betterPeak(a: Peak, b: Peak): Peak {
  const better = (x: number | null, y: number | null): number | null =>
    x === null || y === null ? (x ?? y) : Math.max(x, y);
  return {
    f32: Math.max(a.f32, b.f32),
    f64: Math.max(a.f64, b.f64),
    bf16: better(a.bf16, b.bf16),
    i8: better(a.i8, b.i8),
    readGBs: Math.max(a.readGBs, b.readGBs),
    threads: a.threads,
  };
}

/** Register-only multiply-adds (about 0.2 s each) and a pass over 256 MB. */
export async function measurePeak(): Promise<Peak> {
  const threads = getThreads();
  const chunks = 8 * threads;
  const width = vectorBytes[cpuIsa()] ?? 16;
  const out = empty([chunks], 'float64', { device: 'cpu' });
  const rate = async (kind: 0 | 1 | 2 | 3, lanes: number): Promise<number | null> => {
    const iterations = 400_000;
    const ms = await bestMs(() => kernels.probe_fma(out, kind, iterations), 8);
    if (out.dataSync()[0] === -1) return null;
    return (chunks * iterations * 12 * 2 * lanes) / (ms * 1e6);
  };
  const f32 = (await rate(0, width / 4))!;
  const f64 = (await rate(1, width / 8))!;
  const bf16 = await rate(3, width / 2);
  const i8 = await rate(2, width);
  const data = zeros([1 << 26], { device: 'cpu' });
  const sums = empty([64], 'float64', { device: 'cpu' });
  const readMs = await bestMs(() => kernels.probe_read(data, sums), 6);
  const readGBs = (data.size * 4) / (readMs * 1e6);
  for (const t of [out, data, sums]) t.dispose();
  return { f32, f64, bf16, i8, readGBs, threads };
}
