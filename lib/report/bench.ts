// A benchmark run as one page: every row with its share of the peak, and ratios to peers.
import { peerNames } from '../bench/peers.js';
import type { PeerName } from '../bench/peers.js';
import type { BenchResult, BenchRow } from '../bench/kernels.js';
import { page, table } from './page.js';
import { barChart, escape, lineChart } from './svg.js';

const percent = (share: number | null): string =>
  share === null ? '' : `${(100 * share).toFixed(1)} %`;

/** Rates over arithmetic intensity, under what memory and arithmetic of this machine were measured to allow (Williams et al. 2009). */
export function roofline(
  { rows, peak }: Pick<BenchResult, 'rows' | 'peak'>,
  title = 'Roofline: above the slope, operands came from a cache',
): string {
  const shown = rows.filter((r) => r.intensity !== null);
  if (shown.length === 0 || !peak) return '';
  const range = Array.from({ length: 25 }, (_, i) => 10 ** (-1 + i / 6));
  const roof = (top: number): [number, number][] =>
    range.map((x) => [x, Math.min(top, peak.readGBs * x)]);
  const dots = (unit: BenchRow['unit']): [number, number][] =>
    shown.filter((r) => r.unit === unit).map((r) => [r.intensity!, r.gflops]);
  return lineChart(
    title,
    [
      { name: 'float32 roof', points: roof(peak.f32) },
      ...(peak.bf16 === null ? [] : [{ name: 'bf16 roof', points: roof(peak.bf16) }]),
      ...(peak.i8 === null ? [] : [{ name: 'int8 roof', points: roof(peak.i8) }]),
      { name: 'float kernels', points: dots('GFLOP/s'), scatter: true },
      { name: 'int8 kernels', points: dots('GOP/s'), scatter: true },
    ].filter((s) => s.points.length > 0),
    { x: 'operations per byte', y: '10⁹ operations per second', logX: true, logY: true },
  );
}

function shares(rows: readonly BenchRow[]): string {
  const shown = rows.filter((r) => r.ofPeak !== null);
  if (shown.length === 0) return '';
  return barChart(
    'Share of the measured peak (100 % is arithmetic on registers alone)',
    shown.map((r) => ({
      label: `${r.kernel} ${r.shape}`.slice(0, 44),
      value: 100 * r.ofPeak!,
      group: r.unit === 'GOP/s' ? 1 : 0,
      note: `${r.gflops.toFixed(0)} ${r.unit}`,
    })),
    '%',
  );
}

function ratios(rows: readonly BenchRow[], peer: PeerName): string {
  const shown = rows.filter((r) => r.peers[peer]);
  if (shown.length === 0) return '';
  return barChart(
    `Times as fast as ${peer}, in turns in the same run`,
    shown.map((r) => ({
      label: `${r.kernel} ${r.shape}`.slice(0, 44),
      value: r.peers[peer]!.ratio,
      group: r.peers[peer]!.ratio >= 1 ? 2 : 1,
      note: `${r.ms.toFixed(3)} against ${r.peers[peer]!.ms.toFixed(3)} ms`,
    })),
    '×',
  );
}

export function benchReport(results: ReadonlyMap<string, BenchResult>, command: string): string {
  const [first] = results.values();
  const body = [...results].map(([name, r]) => {
    const peers = Object.entries(r.peers).map(([peer, info]) =>
      typeof info === 'string' ? `${peer}: ${info}` : `${peer} ${info.version} (${info.settings})`,
    );
    const names = peerNames.filter((p) => r.rows.some((x) => x.peers[p]));
    const peak = r.peak
      ? `; measured peak: float32 ${r.peak.f32.toFixed(0)} GFLOP/s, bf16 ${r.peak.bf16?.toFixed(0) ?? 'none'}, int8 ${r.peak.i8 === null ? 'none' : `${r.peak.i8.toFixed(0)} GOP/s`}, reading ${r.peak.readGBs.toFixed(1)} GB/s`
      : '';
    return (
      `<h2>${escape(name)}</h2><p>${r.machine.threads} threads, ${escape(r.machine.isa)}${peak}. ${escape(peers.join('; '))}</p>` +
      roofline(r) +
      shares(r.rows) +
      names.map((p) => ratios(r.rows, p)).join('') +
      table(
        [
          'kernel',
          'shape',
          'median ms',
          'p10',
          'p90',
          'rate',
          'of peak',
          ...names.map((n) => `× ${n}`),
        ],
        r.rows.map((x) => [
          x.kernel,
          x.shape,
          x.ms.toFixed(3),
          x.p10.toFixed(3),
          x.p90.toFixed(3),
          `${x.gflops.toFixed(1)} ${x.unit}`,
          percent(x.ofPeak),
          ...names.map((n) => x.peers[n]?.ratio.toFixed(2) ?? ''),
        ]),
        [2, 3, 4, 5, 6, 7, 8],
      )
    );
  });
  return page(
    'Kernel benchmarks',
    first
      ? `${first.machine.cpu}, Node ${first.machine.node}, ${first.machine.date.slice(0, 10)}. Command: ${command}`
      : 'nothing was run',
    body.join('\n'),
  );
}
