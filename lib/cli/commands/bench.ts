// roots bench SUITE|all
import { readFile, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { bench, benchNames, suites } from '../../bench/kernels.js';
import type { BenchName, BenchResult, BenchRow } from '../../bench/kernels.js';
import { benchAtLevel, libraryNames } from '../../bench/peers.js';
import type { LibraryName, PeerName } from '../../bench/peers.js';
import { replaceFile } from '../../io/checkpoint.js';
import { getThreads } from '../../native/device.js';
import { benchReport } from '../../report/bench.js';
import { FileError } from '../../tensor/errors.js';
import {
  UsageError,
  choice,
  defined,
  integerOption,
  printJson,
  textOption,
  useDevice,
} from '../command.js';
import type { Command } from '../command.js';

const levels = ['baseline', 'avx2', 'avx512_core', 'avx512', 'amx'] as const;

/** A row slower than the baseline's by more than this is a regression: machines vary by a few percent. */
const tolerance = 1.1;

type Baseline = ReadonlyMap<string, number>;
const key = (r: Pick<BenchRow, 'kernel' | 'shape' | 'isa'>, threads: number): string =>
  `${r.kernel} ${r.shape} ${r.isa} ${threads}`;

function line(row: BenchRow, before: number | undefined): string {
  const share = row.ofPeak === null ? '' : `${(100 * row.ofPeak).toFixed(1)} %`;
  const peers = Object.entries(row.peers)
    .map(([name, p]) => `  ${p.ratio.toFixed(2)}x ${name}`)
    .join('');
  const change =
    before === undefined
      ? ''
      : `  ${row.ms > before * tolerance ? 'SLOWER' : 'was'} ${before.toFixed(3)} ms`;
  return `${row.kernel.padEnd(30)} ${row.shape.padEnd(17)} ${row.ms.toFixed(3).padStart(10)} ms${row.gflops.toFixed(1).padStart(10)} ${row.unit.padEnd(8)}${share.padStart(8)}${peers}${change}\n`;
}

async function readBaseline(path: string | undefined): Promise<Baseline> {
  if (path === undefined) return new Map();
  try {
    const json = JSON.parse(await readFile(path, 'utf8')) as
      | BenchResult
      | Record<string, BenchResult>;
    const results = 'rows' in json ? [json as BenchResult] : Object.values(json);
    return new Map(
      results.flatMap((r) => r.rows.map((row) => [key(row, r.machine.threads), row.ms] as const)),
    );
  } catch (error) {
    throw new FileError(
      'ERR_FILE_ACCESS',
      `--baseline ${path}: not a result of roots bench --json (${(error as Error).message})`,
    );
  }
}

function peerList(text: string | undefined): LibraryName[] {
  if (text === undefined || text === 'none') return [];
  if (text === 'auto') return [...libraryNames];
  return text.split(',').map((name) => choice('peers', name, libraryNames));
}

export const command: Command = {
  summary: 'Time kernels against the measured peak of this machine, and against other libraries',
  usage: `roots bench ${benchNames.join('|')}|model DIR|all [--sizes 256,512] [--threads N] [--peers auto] [--json]

${benchNames.map((n) => `  ${n.padEnd(10)} ${suites[n].about}`).join('\n')}
  model DIR  prefill and one decoded token of a checkpoint: float32, bfloat16, int8, int4

  --peers auto|none|${libraryNames.join(',')}   time the same operations by these, in turns in one run (default none);
                           they are found in the Python that ROOTS_PEER_PYTHON names; onnxruntime-node and llama.cpp
                           (node-llama-cpp) in the folder that ROOTS_PEER_NODE_MODULES names; libraries by ROOTS_OPENBLAS, ROOTS_DNNL
  --compare naive,${levels.join(',')}
                           time these instruction sets too, each in a process of its own; naive: plain loops in TypeScript,
                           in turns like the peers
  --baseline FILE          compare with an earlier --json; exit code 1 when a row became more than 10 % slower
  --html FILE              a self-contained page with charts
  --json                   the result on standard output, rows on standard error as they come
  --device cpu|cuda|auto   where to run (default cpu)

Columns: kernel, shape, median time, rate, share of the peak measured in this run, times as fast as each peer.
ROOTS_ISA=baseline|avx2|avx512_core|avx512|amx chooses the instruction set.`,
  positionals: [1, 2],
  options: {
    device: { type: 'string' },
    sizes: { type: 'string' },
    threads: { type: 'string' },
    peers: { type: 'string' },
    compare: { type: 'string' },
    baseline: { type: 'string' },
    html: { type: 'string' },
  },
  async run([name, folder], values) {
    if (name !== 'all' && name !== 'model' && !benchNames.includes(name as BenchName))
      throw new UsageError(
        `unknown benchmark ${JSON.stringify(name)}; expected one of ${benchNames.join(', ')}, model, all`,
      );
    if ((name === 'model') !== (folder !== undefined))
      throw new UsageError(
        name === 'model'
          ? 'roots bench model wants the folder of a model'
          : `unexpected argument ${JSON.stringify(folder)}`,
      );
    useDevice(values);
    const list = textOption(values, 'sizes')?.split(',').map(Number);
    if (list?.some((n) => !Number.isInteger(n) || n < 1 || n > 65536))
      throw new UsageError('--sizes must be integers from 1 to 65536, separated by commas');
    const baseline = await readBaseline(textOption(values, 'baseline'));
    const choices = (textOption(values, 'compare')?.split(',') ?? []).map((l) =>
      choice('compare', l, ['naive', ...levels] as const),
    );
    const compared = choices.filter((l) => l !== 'naive');
    const peers: PeerName[] = peerList(textOption(values, 'peers'));
    if (choices.includes('naive')) peers.push('naive');
    // a run of minutes must not end in a page that cannot be written
    const html = textOption(values, 'html');
    if (
      html !== undefined &&
      !(await stat(dirname(resolve(html))).catch(() => null))?.isDirectory()
    )
      throw new FileError(
        'ERR_FILE_NOT_FOUND',
        `--html ${html}: ${dirname(resolve(html))} is no folder; make it first`,
      );
    const results = new Map<string, BenchResult>();
    const threads = integerOption(values, 'threads');
    let slower = 0;
    // with --json the rows are progress, and go where they do not mix with the result
    const out = values['json'] ? process.stderr : process.stdout;
    for (const suite of name === 'all' ? benchNames : [name as BenchName | 'model']) {
      const result = await bench(suite, {
        ...defined({ sizes: list, threads, folder: folder && resolve(folder) }),
        peers,
        onRow: (row) => {
          const before = baseline.get(key(row, threads ?? getThreads()));
          if (before !== undefined && row.ms > before * tolerance) slower++;
          out.write(line(row, before));
        },
      });
      for (const isa of compared) {
        const other = await benchAtLevel(isa, suite, [
          ...(folder === undefined ? [] : [folder]),
          ...(list ? ['--sizes', list.join(',')] : []),
          '--threads',
          String(result.machine.threads),
        ]);
        for (const row of other.rows) {
          // the share is of the peak of its own level, measured there
          result.rows.push({ ...row, kernel: `${row.kernel} [${row.isa}]` });
          out.write(line(result.rows.at(-1)!, undefined));
        }
      }
      results.set(suite, result);
      if (!values['json']) {
        const { peak, machine } = result;
        for (const [peer, info] of Object.entries(result.peers))
          process.stdout.write(
            `${peer} ${typeof info === 'string' ? info : `${info.version}, ${info.settings}`}\n`,
          );
        if (!peak) process.stdout.write(`${machine.isa}\n`);
        else
          process.stdout.write(
            `${machine.cpu}, ${machine.isa}, ${machine.threads} threads; peak: float32 ${peak.f32.toFixed(0)} GFLOP/s, bf16 ${peak.bf16?.toFixed(0) ?? 'none'}, int8 ${peak.i8 === null ? 'none' : `${peak.i8.toFixed(0)} GOP/s`}, reading ${peak.readGBs.toFixed(1)} GB/s\n`,
          );
      }
    }
    if (html !== undefined)
      await replaceFile(
        html,
        benchReport(results, `roots bench ${process.argv.slice(3).join(' ')}`),
      );
    if (values['json'])
      printJson(name === 'all' ? Object.fromEntries(results) : results.get(name!));
    if (slower > 0) {
      process.exitCode = 1;
      process.stderr.write(`${slower} rows are more than 10 % slower than the baseline\n`);
    }
  },
};
