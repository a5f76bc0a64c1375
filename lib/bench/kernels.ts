// Runs benchmark suites: every case is timed many times, in turns with the peers that know the operation, and compared with the
// peak that the same run measured.
import { cpus, totalmem } from 'node:os';
import {
  devices,
  getThreads,
  memory,
  releaseCachedMemory,
  setThreads,
  synchronize,
} from '../native/device.js';
import { defaultDevice } from '../tensor/device.js';
import { OptionError } from '../tensor/errors.js';
import { suites } from './cases.js';
import type { BenchName, Case, Kind } from './cases.js';
import { modelCases } from './model_cases.js';
import { betterPeak, measurePeak } from './peak.js';
import type { Peak } from './peak.js';
import { Peer } from './peers.js';
import type { PeerInfo, PeerName } from './peers.js';
import { NaivePeer } from './naive.js';

export { benchNames, suites } from './cases.js';
export type { BenchName } from './cases.js';

export interface BenchRow {
  kernel: string;
  isa: string;
  shape: string;
  /** Median time of one call. */
  ms: number;
  p10: number;
  p90: number;
  /** 10^9 operations (a multiply-add is two) or, for kernels bound by memory, bytes per second at the median. */
  gflops: number;
  unit: 'GFLOP/s' | 'GOP/s' | 'GB/s';
  /** Operations per byte of operands and results; null for kernels counted in bytes. */
  intensity: number | null;
  /** Share of the measured peak of this kind of arithmetic, in [0, 1]; null where there is none. */
  ofPeak: number | null;
  /** Median time of each peer, and how many times as long as ours that is. */
  peers: Partial<Record<PeerName, { ms: number; ratio: number }>>;
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
  /** null on a GPU: the probes measure processors. */
  peak: Peak | null;
  /** What each peer is, or why it is absent. */
  peers: Partial<Record<PeerName, PeerInfo | string>>;
  rows: BenchRow[];
}

export interface BenchOptions {
  sizes?: readonly number[];
  /** For 'model': the checkpoint to run. */
  folder?: string;
  threads?: number;
  peers?: readonly PeerName[];
  onRow?: (row: BenchRow) => void;
}

/** One turn of each lasts about this long. */
const turnMs = 15;
const turns = 9;
/**
 * A peer that took this long for a row gets no more turns, and one whose first call did is not called again: some libraries have no
 * kernel for what a processor lacks.
 */
const mostPeerMs = 4000;

/** Milliseconds per call. The first 10 ms of a turn are not timed, here and in every peer: threads wake and caches fill. */
async function ours(c: Case, inputs: readonly never[], repeat: number): Promise<number> {
  const warm = performance.now();
  do {
    c.run(...inputs)?.dispose();
    await synchronize();
  } while (performance.now() - warm < 10);
  const start = performance.now();
  for (let i = 0; i < repeat; i++) c.run(...inputs)?.dispose();
  await synchronize();
  return (performance.now() - start) / repeat;
}

/** How many calls last about a turn. */
async function calibrate(once: (repeat: number) => Promise<number>): Promise<number> {
  if ((await once(1)) > turnMs) return 1;
  return Math.max(1, Math.min(10_000, Math.ceil(turnMs / Math.max(1e-4, await once(2)))));
}

function at(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!;
}

function shareOf(rate: number, kind: Kind, peak: Peak | null): number | null {
  if (!peak) return null;
  const top = { f32: peak.f32, bf16: peak.bf16, i8: peak.i8, bytes: null }[kind];
  return top === null ? null : rate / top;
}

/** Times one case in turns (A B C A B C …) with the peers that have it. */
async function measure(
  c: Case,
  isa: string,
  peak: Peak | null,
  peers: ReadonlyMap<PeerName, Peer | NaivePeer>,
): Promise<BenchRow> {
  const inputs = c.inputs();
  try {
    const mine = (repeat: number): Promise<number> => ours(c, inputs as never[], repeat);
    const warm = performance.now() + (c.warmMs ?? 0);
    while (performance.now() < warm) await mine(1);
    const repeat = await calibrate(mine);
    const rivals: { name: PeerName; run: () => Promise<number>; leftMs: number; ms: number[] }[] =
      [];
    if (c.peer)
      for (const [name, peer] of peers) {
        const start = performance.now();
        const first = await peer.prepare(c.peer);
        if (first === null) continue;
        const slow = first > mostPeerMs;
        const n = slow ? 1 : await calibrate((times) => peer.run(times));
        const leftMs = mostPeerMs - (performance.now() - start);
        rivals.push({ name, run: () => peer.run(n), leftMs, ms: slow ? [first] : [] });
      }
    const ms: number[] = [];
    for (let turn = 0; turn < turns; turn++) {
      ms.push(await mine(repeat));
      for (const r of rivals) {
        if (r.leftMs < 0 && r.ms.length > 0) continue;
        const start = performance.now();
        r.ms.push(await r.run());
        r.leftMs -= performance.now() - start;
      }
    }
    const sort = (values: number[]): number[] => values.toSorted((a, b) => a - b);
    const sorted = sort(ms);
    const median = at(sorted, 0.5);
    const gflops = c.operations / (median * 1e6);
    return {
      kernel: c.kernel,
      isa,
      shape: c.shape,
      ms: median,
      p10: at(sorted, 0.1),
      p90: at(sorted, 0.9),
      gflops,
      unit: c.kind === 'bytes' ? 'GB/s' : c.kind === 'i8' ? 'GOP/s' : 'GFLOP/s',
      intensity: c.kind === 'bytes' ? null : c.operations / c.bytes,
      ofPeak: shareOf(gflops, c.kind, peak),
      peers: Object.fromEntries(
        rivals.map((r) => {
          const theirs = at(sort(r.ms), 0.5);
          return [r.name, { ms: theirs, ratio: theirs / median }];
        }),
      ),
    };
  } finally {
    for (const t of inputs) t.dispose();
    c.dispose?.();
  }
}

async function casesOf(
  name: BenchName | 'model',
  options: BenchOptions,
): Promise<{ cases: Case[]; dispose: () => void }> {
  if (name === 'model') {
    if (options.folder === undefined)
      throw new OptionError('bench: give the folder of the model to run');
    return modelCases(options.folder);
  }
  const suite = suites[name];
  return { cases: suite.cases(options.sizes ?? suite.sizes), dispose: () => {} };
}

/** Runs one suite, or prefill and decoding of a model folder, on the default device. */
export async function bench(
  name: BenchName | 'model',
  options: BenchOptions = {},
): Promise<BenchResult> {
  const before = getThreads();
  if (options.threads !== undefined) setThreads(options.threads);
  const running = new Map<PeerName, Peer | NaivePeer>();
  const peers: BenchResult['peers'] = {};
  try {
    const device = defaultDevice();
    const { isa } = devices().find((d) => d.device === device)!;
    let peak = device === 'cpu' ? await measurePeak() : null;
    for (const peer of options.peers ?? []) {
      const started = peer === 'naive' ? new NaivePeer() : await Peer.start(peer, getThreads());
      if (typeof started === 'string') peers[peer] = started;
      else {
        running.set(peer, started);
        peers[peer] = started.info;
      }
    }
    const { cases, dispose } = await casesOf(name, options);
    const rows: BenchRow[] = [];
    try {
      for (const c of cases) {
        const row = await measure(c, isa, peak, running);
        rows.push(row);
        options.onRow?.(row);
        if (memory().cachedBytes > 1 << 30) releaseCachedMemory();
      }
    } finally {
      dispose();
    }
    if (peak) {
      // once more: the first time may have fallen on a moment when others were busy
      const final = betterPeak(peak, await measurePeak());
      rows.forEach((row, i) => (row.ofPeak = shareOf(row.gflops, cases[i]!.kind, final)));
      peak = final;
    }
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
      peers,
      rows,
    };
  } finally {
    for (const peer of running.values()) peer.close();
    setThreads(before);
  }
}
