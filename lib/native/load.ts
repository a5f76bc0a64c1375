// Finds and loads the native addon, on first use: importing the package never throws. The only file that touches it.
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What a kernel needs of a tensor; `Tensor` has this shape, but this folder does not know `Tensor`. */
export interface TensorArg {
  readonly storage: { readonly handle: unknown };
  readonly dtypeCode: number;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

export interface OpenedSafetensors {
  file: unknown;
  names: string[];
  dtypes: string[];
  shapes: (number | bigint)[][];
  offsets: [begin: number | bigint, end: number | bigint][];
  metadata: [key: string, value: string][];
  unknownFields: string[];
}

export interface NativeMemory {
  storages: number;
  bytes: number;
  peakBytes: number;
  cachedBytes: number;
  limitBytes: number;
}

export interface NativeAddon {
  /** They take storages; their numbers lie in `numbers`. */
  kernels: Record<string, (...storages: unknown[]) => void>;
  /** What native/binding/bind.h reads when a kernel is called. */
  numbers: Float64Array;
  /** How many tensors a list argument may have. */
  maxList: number;
  abi: string;
  /** Uninitialised bytes for kernels; with `host`, bytes that the host may write at once. */
  createStorage(bytes: number, host?: boolean, device?: number): unknown;
  /** createStorage(bytes) in the handle of a disposed storage, to which nothing else may refer. */
  reuseStorage(handle: unknown, bytes: number): void;
  createStorageFrom(data: ArrayBufferView, device: number): unknown;
  storageDevice(handle: unknown): number;
  /** A new storage on a device with a range of another's bytes. */
  transferStorage(handle: unknown, offset: number, bytes: number, device: number): unknown;
  /** Opens the library of a backend: null, or why its device cannot be used. */
  loadBackend(path: string): string | null;
  setDefaultDevice(device: number): void;
  disposeStorage(handle: unknown): void;
  read<T extends ArrayBufferView>(handle: unknown, offset: number, into: T): Promise<T>;
  read(): Promise<void>;
  readSync(handle: unknown, offset: number, into: ArrayBufferView): void;
  readSync(): void;
  devices(): { name: string; description: string; error: string }[];
  memory(device?: number): NativeMemory;
  setMemoryLimit(bytes: number, device?: number): void;
  releaseCachedMemory(): void;
  /** V8 forgets what tensors hold; it is not told any more. */
  forgetMemory(): void;
  /** A mark in the queue: kernels between two are sent together, where the device can do that. */
  graphMark(device: number, key: number, begin: boolean): void;
  graphCounts(device: number): [sent: number, made: number];
  resetPeakMemory(device?: number): void;
  setThreads(count: number): void;
  getThreads(): number;
  openSafetensors(path: string): Promise<OpenedSafetensors>;
  readSafetensors(file: unknown, begin: number, end: number, storage: unknown): Promise<void>;
  validateJson(bytes: Uint8Array, maxDepth: number): null | [error: string, position: number];
  fsyncPath(path: string): Promise<void>;
  /** A descriptor holding an exclusive lock, or null when somebody else holds it. */
  lockFile(path: string): number | null;
  unlockFile(descriptor: number): void;
}

/** The native part of the package could not be loaded. */
export class NativeLoadError extends Error {
  readonly code = 'ERR_ROOTS_LOAD';
  constructor(message: string, cause: unknown) {
    super(message, { cause });
    this.name = 'NativeLoadError';
  }
}

let addon: NativeAddon | undefined;

const packageRoot = resolve(dirname(fileURLToPath(import.meta.url)), '../..');

/** Where the CUDA module may lie: the file named by `ROOTS_CUDA_MODULE`, else a build in the checkout, else the prebuild. */
export function cudaModulePaths(): string[] {
  const explicit = process.env['ROOTS_CUDA_MODULE'];
  if (explicit) return [resolve(explicit)];
  return [
    resolve(packageRoot, 'build/Release/roots_cuda.so'),
    resolve(packageRoot, `prebuilds/${process.platform}-${process.arch}/roots_cuda.so`),
  ];
}

/** The loaded addon: the file named by `ROOTS_ADDON`, else a build in the checkout, else the prebuild of this platform. */
export function native(): NativeAddon {
  if (addon) return addon;
  const require = createRequire(import.meta.url);
  const explicit = process.env['ROOTS_ADDON'];
  let loaded: NativeAddon;
  try {
    loaded = (
      explicit ? require(resolve(explicit)) : require('node-gyp-build')(packageRoot)
    ) as NativeAddon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.split('\n')[0] : String(cause);
    throw new NativeLoadError(
      `roots-llm has no usable native core for ${process.platform}-${process.arch} (Node ${process.versions.node}): ${reason}. ` +
        'Supported without a compiler: linux-x64 with glibc 2.35 or later. Elsewhere build from a checkout (g++, cmake, make): npm ci.',
      cause,
    );
  }
  const problem = loaded.devices()[0]?.error;
  if (problem)
    throw new NativeLoadError(
      `${problem}; got ${JSON.stringify(process.env['ROOTS_ISA'])}`,
      undefined,
    );
  // A thread of V8 that finds its heap full of what tensors hold waits for the main thread to collect garbage, and a main thread
  // that is about to end waits for that thread: seen with Node 24 and 26 after an error that nobody catches.
  process.once('exit', () => loaded.forgetMemory());
  addon = loaded;
  return addon;
}
