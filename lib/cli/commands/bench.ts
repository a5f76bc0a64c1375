// roots bench gemm|attention|int8
import { bench, benchNames } from '../../bench/kernels.js';
import type { BenchName, BenchRow } from '../../bench/kernels.js';
import { UsageError, defined, integerOption, printJson, textOption } from '../command.js';
import type { Command } from '../command.js';

function line(row: BenchRow): string {
  const share = row.ofPeak === null ? '' : `${(100 * row.ofPeak).toFixed(1)} %`;
  return `${row.kernel.padEnd(24)}${row.shape.padEnd(18)}${row.ms.toFixed(3).padStart(10)} ms${row.gflops.toFixed(1).padStart(10)} G/s${share.padStart(9)}\n`;
}

export const command: Command = {
  summary: 'Time kernels against the measured peak of this machine',
  usage: `roots bench ${benchNames.join('|')} [--sizes 256,512] [--threads N] [--json]

Columns: kernel, shape, median time, 10^9 operations per second, share of the peak measured in this run.
ROOTS_ISA=baseline|avx2|avx512_core|avx512 chooses the instruction set.`,
  positionals: [1, 1],
  options: { sizes: { type: 'string' }, threads: { type: 'string' } },
  async run([name], values) {
    if (!benchNames.includes(name as BenchName))
      throw new UsageError(
        `unknown benchmark ${JSON.stringify(name)}; expected one of ${benchNames.join(', ')}`,
      );
    const list = textOption(values, 'sizes')?.split(',').map(Number);
    if (list?.some((n) => !Number.isInteger(n) || n < 1 || n > 16384))
      throw new UsageError('--sizes must be integers from 1 to 16384, separated by commas');
    const result = await bench(name as BenchName, {
      ...defined({ sizes: list, threads: integerOption(values, 'threads') }),
      onRow: (row) => {
        if (!values['json']) process.stdout.write(line(row));
      },
    });
    if (values['json']) return printJson(result);
    const { peak, machine } = result;
    process.stdout.write(
      `${machine.cpu}, ${machine.isa}, ${machine.threads} threads; peak: float32 ${peak.f32.toFixed(0)} GFLOP/s, int8 ${peak.i8 === null ? 'none' : `${peak.i8.toFixed(0)} GOP/s`}, reading ${peak.readGBs.toFixed(1)} GB/s\n`,
    );
  },
};
