// Devices, memory and threads of the native core.
import { native } from './load.js';

/** Where a tensor's bytes live. */
export type Device = 'cpu';

export interface DeviceInfo {
  readonly device: Device;
  /** The instruction set chosen for this processor: baseline, avx2, avx512_core or avx512_vnni. */
  readonly isa: string;
  readonly threads: number;
}

/** The devices that can compute here. */
export function devices(): DeviceInfo[] {
  return native()
    .devices()
    .map((d) => ({ device: d.name as Device, isa: d.description, threads: getThreads() }));
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
export function memory(): MemoryInfo {
  const { storages, bytes, peakBytes, cachedBytes, limitBytes } = native().memory();
  return { tensors: storages, bytes, peakBytes, cachedBytes, limitBytes };
}

/** Refuse allocations beyond this many bytes in all. */
export function setMemoryLimit(bytes: number): void {
  native().setMemoryLimit(bytes);
}

/** Gives blocks kept for reuse back to the system. */
export function releaseCachedMemory(): void {
  native().releaseCachedMemory();
}

/** `memory().peakBytes` starts again from the bytes in use. */
export function resetPeakMemory(): void {
  native().resetPeakMemory();
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
