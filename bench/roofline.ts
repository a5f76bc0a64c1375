// One roofline of all suites of a recorded run of `roots bench`, for the documentation:
//   npx tsx bench/roofline.ts bench/results/FILE.json docs/FILE.svg
import { readFileSync, writeFileSync } from 'node:fs';
import type { BenchResult } from '../lib/bench/kernels.js';
import { roofline } from '../lib/report/bench.js';

const [from, to] = process.argv.slice(2);
if (!from || !to) throw new Error('bench/roofline.ts needs a result file and a name for the SVG');
const recorded: Record<string, BenchResult | string> = JSON.parse(readFileSync(from, 'utf8'));
// the steps of a model are not one kernel
const suites = Object.entries(recorded).flatMap(([name, suite]) =>
  typeof suite === 'string' || name === 'train' ? [] : [suite],
);
const [first] = suites;
if (!first) throw new Error(`${from} holds no suite`);
const { cpu, isa, date, threads } = first.machine;
writeFileSync(
  to,
  `${roofline(
    { peak: first.peak, rows: suites.flatMap((s) => s.rows) },
    `${cpu}, ${isa}, ${threads} threads, ${date.slice(0, 10)}`,
  )}\n`,
);
