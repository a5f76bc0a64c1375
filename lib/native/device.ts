// Devices, memory and threads of the native core.
import { existsSync } from 'node:fs';
import { cudaModulePaths, native } from './load.js';

/** Where a tensor's bytes live. */
export type Device = 'cpu' | 'cuda';

export interface DeviceInfo {
  readonly device: Device;
  /** The instruction set chosen for this processor (baseline, avx2, avx512_core, avx512_vnni or amx), or the name of the GPU. */
  readonly isa: string;
  readonly threads: number;
  /** GPUs of this machine that this process leaves alone: it uses the first that CUDA_VISIBLE_DEVICES names. */
  readonly others: readonly string[];
}

let cuda: { readonly problem: string | null } | undefined;

/** Loads the CUDA module on first use. null: there is a GPU to compute on; otherwise why not. */
export function cudaProblem(): string | null {
  if (cuda) return cuda.problem;
  const paths = cudaModulePaths();
  const path = paths.find((p) => existsSync(p));
  const problem = path
    ? native().loadBackend(path)
    : `the CUDA module is not installed (looked for ${paths.join(' and ')}; docs/cuda.md says how to build it)`;
  cuda = { problem };
  return problem;
}

/** Whether tensors of this thread can be anywhere but on the CPU. */
export function hasOtherDevices(): boolean {
  return cuda?.problem === null;
}

/** The instruction set of the CPU kernels; unlike devices(), without looking for a GPU. */
export function cpuIsa(): string {
  return native().devices()[0]!.description;
}

/** The devices that can compute here. */
export function devices(): DeviceInfo[] {
  cudaProblem();
  return native()
    .devices()
    .map((d) => {
      const [isa, ...others] = d.description.split('\n') as [string, ...string[]];
      return { device: d.name as Device, isa, threads: getThreads(), others };
    });
}

/** The place of a device in the native list. */
export function nativeIndex(device: Device): number {
  const problem = device === 'cpu' ? null : cudaProblem();
  if (problem) throw new RangeError(`device 'cuda' cannot be used here: ${problem}`);
  return device === 'cpu'
    ? 0
    : native()
        .devices()
        .findIndex((d) => d.name === device);
}

/** The device at a place of the native list. */
export function deviceAt(index: number): Device {
  return index === 0 ? 'cpu' : (native().devices()[index]!.name as Device);
}

export interface MemoryInfo {
  /** Live tensors' storages: views share one. */
  readonly tensors: number;
  /** Bytes of those storages. */
  readonly bytes: number;
  /** Highest `bytes` since the start or `resetPeakMemory()`. */
  readonly peakBytes: number;
  /** Free blocks kept for reuse. */
  readonly cachedBytes: number;
  /** Allocation beyond this many bytes is refused with `ERR_OUT_OF_MEMORY`. */
  readonly limitBytes: number;
}

/** Native memory in use, exact. Kernels still queued hold their tensors: `await synchronize()` first to compare. */
export function memory(device: Device = 'cpu'): MemoryInfo {
  const { storages, bytes, peakBytes, cachedBytes, limitBytes } = native().memory(
    nativeIndex(device),
  );
  return { tensors: storages, bytes, peakBytes, cachedBytes, limitBytes };
}

/** Refuse allocations beyond this many bytes in all. */
export function setMemoryLimit(bytes: number, device: Device = 'cpu'): void {
  native().setMemoryLimit(bytes, nativeIndex(device));
}

/** Gives blocks kept for reuse back to the system. */
export function releaseCachedMemory(): void {
  native().releaseCachedMemory();
}

/** `memory().peakBytes` starts again from the bytes in use. */
export function resetPeakMemory(device: Device = 'cpu'): void {
  native().resetPeakMemory(nativeIndex(device));
}

const graphKeys = new Map<string, number>();

/**
 * Runs `queue`, whose kernels a GPU then gets as one CUDA graph instead of one by one; elsewhere it just runs. Calls with the same
 * `key` should queue the same kernels, with any arguments: the graph of the first is updated, one of other kernels is made anew.
 * `queue` must be synchronous, and reads and uploads within it divide the graph. Needs ROOTS_CUDA_GRAPHS=1 (docs/cuda.md).
 */
export function asGraph<T>(device: Device, key: string, queue: () => T): T {
  if (device === 'cpu') return queue();
  const index = nativeIndex(device);
  let id = graphKeys.get(key);
  if (id === undefined) graphKeys.set(key, (id = graphKeys.size));
  native().graphMark(index, id, true);
  try {
    return queue();
  } finally {
    native().graphMark(index, id, false);
  }
}

/** Graphs that were sent to a device, and how many of them were made anew, once everything queued has been sent. Blocks. */
export function graphCounts(device: Device): { sent: number; made: number } {
  const [sent, made] = native().graphCounts(nativeIndex(device));
  return { sent, made };
}

/** How many threads one kernel may use, from 1 to 256. Results have the same bits for every number. */
export function setThreads(count: number): void {
  native().setThreads(count);
}

/** How many threads one kernel may use: `ROOTS_THREADS`, else the cores this process may run on. */
export function getThreads(): number {
  return native().getThreads();
}

/** Resolves when everything queued so far has run; rejects with the first error of a kernel. */
export function synchronize(): Promise<void> {
  return native().read();
}
