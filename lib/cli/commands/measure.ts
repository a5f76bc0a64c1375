// roots measure DIR: what compress runs in a process of its own for each model.
import { measureHere } from '../../compress/measure.js';
import { getThreads } from '../../native/device.js';
import { integerOption, printJson, useDevice } from '../command.js';
import type { Command } from '../command.js';

export const command: Command = {
  summary: 'Time a model: prefill, decode, peak memory',
  usage:
    'roots measure DIR [--milliseconds N] [--device cpu|cuda|auto] [--json]\n\nEach figure is measured for N milliseconds (800) after as long a warm-up. ROOTS_THREADS chooses the number of threads.',
  positionals: [1, 1],
  options: { milliseconds: { type: 'string' }, device: { type: 'string' } },
  async run([folder], values) {
    useDevice(values);
    const m = await measureHere(folder!, getThreads(), integerOption(values, 'milliseconds'));
    if (values['json']) return printJson(m);
    process.stdout.write(
      `prefill of ${m.prefillTokens} tokens ${m.prefillMs.toFixed(2)} ms, decode ${m.decodeTokensPerSecond.toFixed(1)} tokens/s, peak memory ${(m.peakRssBytes / 1e6).toFixed(0)} MB, ${m.threads} threads\n`,
    );
  },
};
