// The report of one training run: its curves and what it was made of.
import { page, table } from './page.js';
import { compact, escape, lineChart } from './svg.js';
import type { Series } from './svg.js';

/** One line of the log. */
export type LogEntry = { step: number } & Record<string, number>;

export interface TrainingReport {
  history: readonly LogEntry[];
  facts: readonly (readonly [name: string, value: string])[];
}

function series(history: readonly LogEntry[], key: string, name: string, unit: number = 1): Series {
  return {
    name,
    points: history.flatMap((e) =>
      e[key] !== undefined && Number.isFinite(e[key]) ? [[e.step, e[key] / unit] as const] : [],
    ),
  };
}

export function trainingReport(r: TrainingReport): string {
  const { history } = r;
  const train = history.filter((e) => 'loss' in e);
  const evals = history.filter((e) => 'evalLoss' in e);
  const bad = history.filter((e) => 'nonFiniteLoss' in e || 'gradientSpike' in e);
  const last = train.at(-1);
  const cards: [string, string][] = [];
  if (last) cards.push(['last training loss', compact(last['loss']!)]);
  const lastEval = evals.at(-1);
  if (lastEval) {
    cards.push(['last evaluation loss', compact(lastEval['evalLoss']!)]);
    cards.push(['best evaluation loss', compact(Math.min(...evals.map((e) => e['evalLoss']!)))]);
    cards.push(['perplexity', compact(Math.exp(lastEval['evalLoss']!))]);
  }
  const rates = train.map((e) => e['tokensPerSecond']!).filter(Number.isFinite);
  if (rates.length > 0)
    cards.push([
      'tokens per second (median)',
      compact(rates.toSorted((a, b) => a - b)[rates.length >> 1]!),
    ]);
  const loss = lineChart(
    'Loss',
    [series(history, 'loss', 'training'), series(history, 'evalLoss', 'evaluation')].filter(
      (s) => s.points.length > 0,
    ),
    { x: 'step', y: 'nats per token' },
  );
  const single = (key: string, title: string, unit: string, divisor = 1): string =>
    train.some((e) => e[key] !== undefined)
      ? lineChart(title, [series(history, key, title, divisor)], { x: 'step', y: unit })
      : '';
  const charts = [
    loss,
    single('learningRate', 'Learning rate', ''),
    single('gradNorm', 'Gradient norm before clipping', ''),
    single('tokensPerSecond', 'Throughput', 'tokens/s'),
    single('mfu', 'Share of the measured arithmetic peak (MFU)', ''),
    single('rssBytes', 'Resident memory', 'MB', 1e6),
  ].join('');
  const events =
    bad.length > 0
      ? `<h2>Events</h2>${table(
          ['Step', 'What'],
          bad.map((e) => [
            String(e.step),
            'nonFiniteLoss' in e
              ? `not finite: loss ${e['nonFiniteLoss']}, gradient norm ${e['nonFiniteGradNorm']}`
              : `gradient norm ${compact(e['gradientSpike']!)}`,
          ]),
        )}`
      : '';
  return page(
    'Training report',
    'Curves as they were logged while the run went on.',
    `<div class="cards">${cards.map(([n, v]) => `<div class="card"><b>${escape(v)}</b>${escape(n)}</div>`).join('')}</div>${charts}${events}<h2>How this was made</h2>${table(
      ['Fact', 'Value'],
      r.facts.map(([a, b]) => [a, b]),
    )}`,
  );
}
