// What a model folder costs on this machine: bytes, parameters, arithmetic, time and memory. Time and memory are
// measured in processes of their own, the models taking turns, so that neither profits from the other's caches.
import { spawn } from 'node:child_process';
import { readFile, readdir, stat } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { noGrad } from '../autograd/modes.js';
import { loadModel } from '../models/registry.js';
import type { KVCache } from '../nn/kv_cache.js';
import { tensor } from '../tensor/create.js';
import { defaultDevice } from '../tensor/device.js';
import { RootsError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';

export interface RunMeasurement {
  /** Time to process `prefillTokens` at once, logits of the last one. */
  prefillMs: number;
  prefillTokens: number;
  decodeTokensPerSecond: number;
  /** Highest resident memory of a process that loaded and ran the model. */
  peakRssBytes: number;
  threads: number;
}

export interface Measurement extends RunMeasurement {
  parameters: number;
  /** All files of the folder but reports. */
  diskBytes: number;
  /** Multiply-adds times two for one token of a full context. */
  flopsPerToken: number;
}

export async function folderBytes(folder: string): Promise<number> {
  let total = 0;
  for (const name of await readdir(folder)) {
    if (name.startsWith('report.')) continue;
    const info = await stat(join(folder, name));
    if (info.isFile()) total += info.size;
  }
  return total;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

/** How long each figure is measured, after as long a warm-up. */
export const defaultMeasureMs = 800;

/**
 * Highest resident memory of this process. Not `resourceUsage().maxRSS`: on Linux that starts at the size of the
 * process that spawned this one.
 */
async function peakRss(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8').catch(() => '');
  const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1];
  return kilobytes ? Number(kilobytes) * 1024 : process.resourceUsage().maxRSS * 1024;
}

/** Loads and times a model in this process: what a measuring child runs. */
export async function measureHere(
  folder: string,
  threads: number,
  milliseconds: number = defaultMeasureMs,
): Promise<RunMeasurement> {
  const { model } = await loadModel(folder);
  const { context, vocab } = model.shape;
  const prefillTokens = Math.min(512, context);
  const ids = Int32Array.from({ length: prefillTokens }, (_, i) => (i * 7919 + 13) % vocab);
  const step = async (cache: KVCache | null, chunk: Int32Array): Promise<void> => {
    const logits = tidy(() =>
      noGrad(
        () =>
          model.forward({
            inputIds: tensor(chunk, { shape: [1, chunk.length] }),
            cache,
            logitsToKeep: 1,
          }).logits,
      ),
    );
    await logits.data();
    logits.dispose();
  };
  // The compiler of the JavaScript engine needs about a second of calls before times are steady.
  const timed = async (run: () => Promise<number>): Promise<number> => {
    const warm = performance.now() + milliseconds;
    while (performance.now() < warm) await run();
    const values: number[] = [];
    const end = performance.now() + milliseconds;
    while (values.length < 5 || performance.now() < end) values.push(await run());
    return median(values);
  };
  const prefillMs = await timed(async () => {
    const start = performance.now();
    await step(null, ids);
    return performance.now() - start;
  });
  const steps = Math.min(64, context - 8);
  const decodeTokensPerSecond = await timed(async () => {
    const cache = model.createCache();
    await step(cache, ids.subarray(0, 4));
    const start = performance.now();
    for (let t = 0; t < steps; t++) await step(cache, ids.subarray(t, t + 1));
    const rate = (1000 * steps) / (performance.now() - start);
    cache.dispose();
    return rate;
  });
  model.dispose();
  return {
    prefillMs,
    prefillTokens,
    decodeTokensPerSecond,
    peakRssBytes: await peakRss(),
    threads,
  };
}

/** The command line of this package as a child process. */
function childArguments(): string[] {
  if (!import.meta.url.endsWith('.ts'))
    return [fileURLToPath(new URL('../cli/main.js', import.meta.url))];
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  return ['--import', tsx, fileURLToPath(new URL('../cli/main.ts', import.meta.url))];
}

function measureInChild(
  folder: string,
  threads: number,
  milliseconds: number,
): Promise<RunMeasurement> {
  const options = ['--milliseconds', String(milliseconds), '--device', defaultDevice()];
  return new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [...childArguments(), 'measure', folder, '--json', ...options],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, ROOTS_THREADS: String(threads), NODE_OPTIONS: '' },
      },
    );
    let out = '';
    let problems = '';
    child.stdout.on('data', (chunk) => (out += chunk));
    child.stderr.on('data', (chunk) => (problems += chunk));
    child.on('error', reject);
    child.on('close', (code) => {
      if (code !== 0)
        reject(
          new RootsError('ERR_MEASURE', `measuring ${folder} failed: ${problems.slice(-500)}`),
        );
      else resolve(JSON.parse(out) as RunMeasurement);
    });
  });
}

/** Measures several folders, A B A B, `turns` times each; times are medians, memory the highest seen. */
export async function measureFolders(
  folders: readonly string[],
  threads: number,
  turns: number = 3,
  milliseconds: number = defaultMeasureMs,
  onProgress?: (done: number) => void,
): Promise<RunMeasurement[]> {
  const runs: RunMeasurement[][] = folders.map(() => []);
  for (let turn = 0; turn < turns; turn++)
    for (const [i, folder] of folders.entries()) {
      runs[i]!.push(await measureInChild(folder, threads, milliseconds));
      onProgress?.((turn * folders.length + i + 1) / (turns * folders.length));
    }
  return runs.map((list) => ({
    ...list[0]!,
    prefillMs: median(list.map((r) => r.prefillMs)),
    decodeTokensPerSecond: median(list.map((r) => r.decodeTokensPerSecond)),
    peakRssBytes: Math.max(...list.map((r) => r.peakRssBytes)),
  }));
}
