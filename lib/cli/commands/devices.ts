// roots devices
import { devices, memory } from '../../native/device.js';
import { printJson } from '../command.js';
import type { Command } from '../command.js';

export const command: Command = {
  summary: 'The devices that can compute here',
  usage: 'roots devices [--json]',
  positionals: [0, 0],
  options: {},
  async run(_, values) {
    const list = devices();
    if (values['json']) return printJson(list);
    for (const d of list) {
      process.stdout.write(
        `${d.device}: ${d.isa}${d.device === 'cpu' ? `, ${d.threads} threads` : ''}, memory limit ${(memory(d.device).limitBytes / 1e9).toFixed(1)} GB\n`,
      );
      for (const other of d.others)
        process.stdout.write(`  not used (CUDA_VISIBLE_DEVICES chooses): ${other}\n`);
    }
  },
};
