// Where a run's figures go: JSON lines, CSV, TensorBoard event files. Each is appended to as the run goes and survives a resume.
import { appendFile, mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { eventRecord } from './tensorboard.js';

/** Figures of one moment; a name ends with its unit where it has one. */
export type Metrics = Record<string, number>;

export interface Logger {
  log(step: number, metrics: Metrics): Promise<void>;
  close?(): Promise<void>;
}

/** Numbers as JSON numbers; NaN and infinities, which JSON has no numbers for, as strings. */
function finiteJson(value: number): number | string {
  return Number.isFinite(value) ? value : String(value);
}

/** log.jsonl: one object per line. On resume, lines from `fromStep` on are dropped: they will come again. */
export async function jsonlLogger(folder: string, fromStep: number): Promise<Logger> {
  const path = join(folder, 'log.jsonl');
  const before = await readFile(path, 'utf8').catch(() => '');
  const kept = before.split('\n').filter((line) => {
    try {
      return (JSON.parse(line) as { step: number }).step <= fromStep;
    } catch {
      return false;
    }
  });
  await writeFile(path, fromStep > 0 && kept.length > 0 ? `${kept.join('\n')}\n` : '');
  return {
    log: (step, metrics) =>
      appendFile(
        path,
        `${JSON.stringify({ step, ...Object.fromEntries(Object.entries(metrics).map(([k, v]) => [k, finiteJson(v)])) })}\n`,
      ),
  };
}

const columns = ['loss', 'evalLoss', 'learningRate', 'gradNorm', 'tokensPerSecond', 'epoch'];

/** log.csv: fixed columns, empty where a line has no value. */
export async function csvLogger(folder: string, fromStep: number): Promise<Logger> {
  const path = join(folder, 'log.csv');
  const before = fromStep > 0 ? await readFile(path, 'utf8').catch(() => '') : '';
  const kept = before
    .split('\n')
    .filter((line) => Number(line.split(',')[0]) <= fromStep && /^\d/.test(line));
  await writeFile(path, [['step', ...columns].join(','), ...kept, ''].join('\n'));
  return {
    log: (step, metrics) =>
      appendFile(path, `${[step, ...columns.map((c) => metrics[c] ?? '')].join(',')}\n`),
  };
}

/** An event file that TensorBoard shows; one more per resume, as TensorBoard expects. */
export async function tensorboardLogger(folder: string): Promise<Logger> {
  const logs = join(folder, 'runs');
  await mkdir(logs, { recursive: true });
  const seconds = Math.floor(Date.now() / 1000);
  const path = join(logs, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.0`);
  const handle = await open(path, 'a');
  await handle.writeFile(
    eventRecord({ wallTime: Date.now() / 1000, fileVersion: 'brain.Event:2' }),
  );
  return {
    async log(step, metrics) {
      for (const [tag, value] of Object.entries(metrics))
        await handle.writeFile(
          eventRecord({ wallTime: Date.now() / 1000, step, tag: `train/${tag}`, value }),
        );
    },
    close: () => handle.close(),
  };
}
