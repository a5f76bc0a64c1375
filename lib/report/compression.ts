// The report of one compression: what was gained, what it cost, stage by stage, all of it measured.
import { page, table } from './page.js';
import { barChart, compact, escape } from './svg.js';

export interface StageReport {
  stage: string;
  accepted: boolean;
  /** What was done, or why it was undone. */
  detail: string;
  kld: number;
  sameTop1: number;
  perplexity: number;
  parameters: number;
  seconds: number;
}

export interface ModelReport {
  parameters: number;
  /** All files of the folder but reports. */
  diskBytes: number;
  flopsPerToken: number;
  prefillMs: number;
  prefillTokens: number;
  decodeTokensPerSecond: number;
  peakRssBytes: number;
  threads: number;
  perplexity: number;
  /** Against the original; 0 and 1 for the original itself. */
  kld: number;
  sameTop1: number;
}

export interface CompressionReport {
  tool: string;
  architecture: string;
  source: string;
  /** What was asked for. */
  recipe: unknown;
  maxKld: number;
  stages: StageReport[];
  before: ModelReport;
  after: ModelReport;
  ratio: {
    disk: number;
    prefill: number;
    decode: number;
    memory: number;
    flops: number;
    perplexity: number;
  };
  evaluation: { tokens: number; context: number; sha256: string };
  calibration: { tokens: number; sha256: string };
  machine: { cpu: string; isa: string; threads: number; node: string; date: string };
  samples: { prompt: string; before: string; after: string }[];
  warnings: string[];
}

const megabytes = (bytes: number): string => `${compact(bytes / 1e6)} MB`;
const percent = (x: number): string => `${(100 * x).toFixed(2)} %`;
const change = (after: number, before: number): string =>
  `${after >= before ? '+' : ''}${((after / before - 1) * 100).toFixed(2)} %`;

function rows(before: ModelReport, after: ModelReport): string[][] {
  const ratio = (a: number, b: number): string => `${compact(a / b)} ×`;
  return [
    [
      'Perplexity (held-out)',
      compact(before.perplexity),
      compact(after.perplexity),
      change(after.perplexity, before.perplexity),
    ],
    ['KLD against the original (nats per token)', '0', compact(after.kld), ''],
    ['Same most likely token', '100 %', percent(after.sameTop1), ''],
    [
      'Bytes on disk',
      megabytes(before.diskBytes),
      megabytes(after.diskBytes),
      `${ratio(before.diskBytes, after.diskBytes)} smaller`,
    ],
    [
      'Parameters',
      before.parameters.toLocaleString('en-US'),
      after.parameters.toLocaleString('en-US'),
      change(after.parameters, before.parameters),
    ],
    [
      `Prefill of ${before.prefillTokens} tokens`,
      `${compact(before.prefillMs)} ms`,
      `${compact(after.prefillMs)} ms`,
      `${ratio(before.prefillMs, after.prefillMs)} as fast`,
    ],
    [
      'Decode',
      `${compact(before.decodeTokensPerSecond)} tokens/s`,
      `${compact(after.decodeTokensPerSecond)} tokens/s`,
      `${ratio(after.decodeTokensPerSecond, before.decodeTokensPerSecond)} as fast`,
    ],
    [
      'Peak resident memory',
      megabytes(before.peakRssBytes),
      megabytes(after.peakRssBytes),
      change(after.peakRssBytes, before.peakRssBytes),
    ],
    [
      'Arithmetic per token',
      `${compact(before.flopsPerToken / 1e6)} MFLOP`,
      `${compact(after.flopsPerToken / 1e6)} MFLOP`,
      change(after.flopsPerToken, before.flopsPerToken),
    ],
  ];
}

export function compressionReport(r: CompressionReport): string {
  const { before, after } = r;
  const cards = [
    ['smaller on disk', `${compact(r.ratio.disk)} ×`],
    ['prefill', `${compact(r.ratio.prefill)} ×`],
    ['decode', `${compact(r.ratio.decode)} ×`],
    ['perplexity', change(after.perplexity, before.perplexity)],
    ['same top token', percent(after.sameTop1)],
  ]
    .map(([name, value]) => `<div class="card"><b>${escape(value!)}</b>${escape(name!)}</div>`)
    .join('');
  const pair = (title: string, pick: (m: ModelReport) => number, unit: string): string =>
    barChart(
      title,
      [
        { label: 'original', value: pick(before), group: 0 },
        { label: 'compressed', value: pick(after), group: 2 },
      ],
      unit,
    );
  const charts = [
    pair('Size on disk', (m) => m.diskBytes / 1e6, 'MB'),
    pair(`Prefill of ${before.prefillTokens} tokens (lower is better)`, (m) => m.prefillMs, 'ms'),
    pair('Decode (higher is better)', (m) => m.decodeTokensPerSecond, 'tokens/s'),
    pair('Peak resident memory', (m) => m.peakRssBytes / 1e6, 'MB'),
    barChart(
      'KLD against the original after each stage',
      r.stages.map((s) => ({
        label: s.stage,
        value: s.kld,
        group: s.accepted ? 2 : 1,
        note: s.accepted ? 'kept' : 'undone',
      })),
      'nats',
    ),
    barChart('Perplexity after each stage', [
      { label: 'original', value: before.perplexity, group: 0 },
      ...r.stages.map((s) => ({
        label: s.stage,
        value: s.perplexity,
        group: s.accepted ? 2 : 1,
        note: s.accepted ? 'kept' : 'undone',
      })),
    ]),
  ].join('');
  const stages = table(
    ['Stage', 'Verdict', 'What happened', 'KLD', 'Same top', 'Perplexity', 'Parameters', 'Seconds'],
    r.stages.map((s) => [
      s.stage,
      s.accepted ? 'kept' : 'undone',
      s.detail,
      compact(s.kld),
      percent(s.sameTop1),
      compact(s.perplexity),
      s.parameters.toLocaleString('en-US'),
      compact(s.seconds),
    ]),
    [3, 4, 5, 6, 7],
  );
  const samples = r.samples
    .map(
      (s) =>
        `<h2>Greedy text after “${escape(s.prompt)}”</h2><table><tr><th>original</th><td><pre>${escape(s.before)}</pre></td></tr><tr><th>compressed</th><td><pre>${escape(s.after)}</pre></td></tr></table>`,
    )
    .join('');
  const warnings =
    r.warnings.length > 0
      ? `<h2>Worth knowing</h2><ul>${r.warnings.map((w) => `<li>${escape(w)}</li>`).join('')}</ul>`
      : '';
  const facts = table(
    ['Fact', 'Value'],
    [
      ['Model', `${r.architecture}, ${r.source}`],
      ['Recipe', JSON.stringify(r.recipe)],
      ['Gate', `a stage is undone when its KLD exceeds ${r.maxKld} nats per token`],
      [
        'Evaluation',
        `${r.evaluation.tokens} scored tokens in windows of ${r.evaluation.context} without overlap; sha256 ${r.evaluation.sha256.slice(0, 16)}…`,
      ],
      [
        'Calibration',
        `${r.calibration.tokens} tokens; sha256 ${r.calibration.sha256.slice(0, 16)}…`,
      ],
      [
        'Machine',
        `${r.machine.cpu}, ${r.machine.isa}, ${r.machine.threads} threads, Node ${r.machine.node}`,
      ],
      ['Made by', `${r.tool}, ${r.machine.date}`],
    ],
  );
  return page(
    'Compression report',
    `${r.architecture}: original and compressed model measured in turns on the same machine with the same ${r.machine.threads} threads.`,
    `<div class="cards">${cards}</div><h2>Before and after</h2>${table(['Measure', 'Original', 'Compressed', 'Change'], rows(before, after), [1, 2, 3])}${charts}<h2>Stages</h2>${stages}${samples}${warnings}<h2>How this was made</h2>${facts}`,
  );
}
