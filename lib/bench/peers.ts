// Other processes that a benchmark asks: other instruction sets, and other libraries, timed on the same operations in the same run. Each is a program in bench/peers that answers one JSON line per
// request; none is a dependency, and one that is absent is named as absent.
import { execFile, spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { BenchResult } from './kernels.js';
import { RootsError } from '../tensor/errors.js';

/** An operation in words that every adapter understands: a name and sizes. */
export type PeerSpec = { op: string } & Record<string, string | number | boolean>;

export const libraryNames = [
  'torch',
  'onnxruntime',
  'onnxruntime-node',
  'llama.cpp',
  'openblas',
  'dnnl',
] as const;
export type LibraryName = (typeof libraryNames)[number];
/** All that rows can be compared with; `naive` is our own plain code. */
export type PeerName = LibraryName | 'naive';
export const peerNames: readonly PeerName[] = [...libraryNames, 'naive'];

/** Programs for the Python that ROOTS_PEER_PYTHON names, and for Node. */
const scripts: Record<LibraryName, string> = {
  torch: 'torch_kernels.py',
  onnxruntime: 'onnxruntime_kernels.py',
  'onnxruntime-node': 'onnxruntime_node.mjs',
  'llama.cpp': 'llama_cpp.mjs',
  openblas: 'openblas_kernels.py',
  dnnl: 'dnnl_kernels.py',
};

export interface PeerInfo {
  name: PeerName;
  version: string;
  settings: string;
}

/** Time for a peer's worker threads to stop spinning before others are timed. */
const settleMs = 30;
const startMs = 60_000;

/** What would keep a library from the kernels that it chooses for the processor. */
const asItChooses = {
  OPENBLAS_CORETYPE: undefined,
  OPENBLAS_L2_SIZE: undefined,
  MKL_ENABLE_INSTRUCTIONS: undefined,
  MKL_CBWR: undefined,
  DNNL_MAX_CPU_ISA: undefined,
  ONEDNN_MAX_CPU_ISA: undefined,
  ATEN_CPU_CAPABILITY: undefined,
};

export class Peer {
  readonly info: PeerInfo;
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  readonly #lastError: () => string;

  private constructor(
    info: PeerInfo,
    process: ChildProcessWithoutNullStreams,
    lines: AsyncIterator<string>,
    lastError: () => string,
  ) {
    this.info = info;
    this.#process = process;
    this.#lines = lines;
    this.#lastError = lastError;
  }

  /** Starts a peer, or says why it is not there. */
  static async start(name: LibraryName, threads: number): Promise<Peer | string> {
    const program = scripts[name].endsWith('.py')
      ? process.env['ROOTS_PEER_PYTHON']
      : process.execPath;
    if (!program) return 'absent: ROOTS_PEER_PYTHON names no Python';
    const script = fileURLToPath(new URL(`../../bench/peers/${scripts[name]}`, import.meta.url));
    const child = spawn(program, [script, String(threads)], {
      env: {
        ...process.env,
        ...asItChooses,
        // nothing is written into the package
        PYTHONDONTWRITEBYTECODE: '1',
        OMP_NUM_THREADS: String(threads),
        MKL_NUM_THREADS: String(threads),
        OPENBLAS_NUM_THREADS: String(threads),
        // workers that spin 200 ms after a call, the default, would run beside whoever is timed next; calls of one turn follow each
        // other faster than this
        KMP_BLOCKTIME: '10',
        GOMP_SPINCOUNT: '300000',
        // 2^24 cycles, some 5 ms
        OPENBLAS_THREAD_TIMEOUT: '24',
      },
    });
    let errors = '';
    child.stderr.on('data', (d: Buffer) => (errors = (errors + d.toString()).slice(-500)));
    const lastError = () => errors.trim().split('\n').at(-1) ?? '';
    const failed = new Promise<string>((resolve) => {
      child.on('error', (error) => resolve(`absent: ${error.message}`));
      child.on('exit', (code) =>
        resolve(`absent: the adapter ended with code ${code}: ${lastError()}`),
      );
      setTimeout(() => resolve('absent: no answer within a minute'), startMs).unref();
    });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const first = await Promise.race([lines.next(), failed]);
    if (typeof first === 'string' || first.done) {
      child.kill();
      return typeof first === 'string' ? first : await failed;
    }
    const { version, settings } = JSON.parse(first.value) as PeerInfo;
    return new Peer({ name, version, settings }, child, lines, lastError);
  }

  async #ask(request: object): Promise<Record<string, unknown>> {
    this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    const next = await this.#lines.next();
    if (next.done)
      throw new RootsError(
        'ERR_PEER',
        `the ${this.info.name} adapter ended in the middle of a run: ${this.#lastError()}`,
      );
    return JSON.parse(next.value) as Record<string, unknown>;
  }

  /** Makes the operands of an operation: milliseconds of its first call, or null when the peer has no such operation. */
  async prepare(spec: PeerSpec): Promise<number | null> {
    return ((await this.#ask({ prepare: spec })) as { ready?: number }).ready ?? null;
  }

  /** Milliseconds per call, the mean of `repeat` calls. */
  async run(repeat: number): Promise<number> {
    const { ms } = (await this.#ask({ run: repeat })) as { ms: number };
    await new Promise((resolve) => setTimeout(resolve, settleMs));
    return ms;
  }

  close(): void {
    this.#process.stdin.end();
    this.#process.kill();
  }
}

/** A suite of `roots bench` in a process of its own, capped at another instruction set. */
export async function benchAtLevel(
  isa: string,
  suite: string,
  options: readonly string[],
): Promise<BenchResult> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [process.argv[1]!, 'bench', suite, '--json', ...options],
    { env: { ...process.env, ROOTS_ISA: isa }, maxBuffer: 1 << 26 },
  );
  return JSON.parse(stdout) as BenchResult;
}
