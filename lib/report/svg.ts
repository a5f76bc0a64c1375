// Small static charts as SVG text: no script, so a report opens anywhere, offline, and prints.

/** Text for HTML and SVG. */
export function escape(text: string): string {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

const colours = ['#4c78a8', '#e45756', '#54a24b', '#b279a2', '#f58518', '#72b7b2'];

/** 1234.5 → "1,235", 0.01234 → "0.0123". */
export function compact(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 1000) return Math.round(value).toLocaleString('en-US');
  if (Number.isInteger(value)) return String(value);
  if (magnitude >= 100) return value.toFixed(0);
  if (magnitude >= 10) return value.toFixed(1);
  if (magnitude >= 1) return value.toFixed(2);
  return value.toPrecision(3);
}

export interface Bar {
  label: string;
  value: number;
  /** Index of the colour. */
  group?: number;
  note?: string;
}

/** Horizontal bars from 0, one line each. */
export function barChart(title: string, bars: readonly Bar[], unit: string = ''): string {
  // about 7.4 pixels a character: labels to the left, value and note behind the longest bar
  const longest = (texts: readonly string[]): number =>
    7.4 * Math.max(0, ...texts.map((t) => t.length));
  const left = Math.max(190, longest(bars.map((b) => b.label)) + 16);
  const right = Math.max(150, longest(bars.map((b) => `${b.note ?? ''} ${unit}`)) + 60);
  const width = left + 340 + right;
  const row = 26;
  const top = Math.max(...bars.map((b) => (Number.isFinite(b.value) ? b.value : 0)), 1e-12);
  const lines = bars.map((bar, i) => {
    const y = 34 + i * row;
    const length = (Math.max(0, bar.value) / top) * 340;
    return (
      `<text x="${left - 8}" y="${y + 14}" text-anchor="end">${escape(bar.label)}</text>` +
      `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="${row - 8}" rx="2" fill="${colours[(bar.group ?? 0) % colours.length]}"/>` +
      `<text x="${(left + length + 6).toFixed(1)}" y="${y + 14}">${compact(bar.value)} ${escape(unit)}${bar.note ? ` · ${escape(bar.note)}` : ''}</text>`
    );
  });
  return frame(title, width, 44 + bars.length * row, lines.join(''));
}

export interface Series {
  name: string;
  points: readonly (readonly [x: number, y: number])[];
  /** Dots without a line. */
  scatter?: boolean;
}

/** Lines over a common x axis; axes may be logarithmic. */
export function lineChart(
  title: string,
  series: readonly Series[],
  options: { x?: string; y?: string; logX?: boolean; logY?: boolean } = {},
): string {
  const width = 680;
  const height = 320;
  const box = { left: 64, right: 20, top: 40, bottom: 48 };
  const scaleX = options.logX ? Math.log10 : (v: number) => v;
  const scaleY = options.logY ? Math.log10 : (v: number) => v;
  const points = series
    .flatMap((s) => s.points)
    .filter(([x, y]) => Number.isFinite(scaleX(x)) && Number.isFinite(scaleY(y)));
  if (points.length === 0) return frame(title, width, 80, '<text x="20" y="60">no data</text>');
  const xs = points.map(([x]) => scaleX(x));
  const ys = points.map(([, y]) => scaleY(y));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const [y0, y1] = [options.logY ? Math.min(...ys) : Math.min(0, ...ys), Math.max(...ys)];
  const px = (x: number): number =>
    box.left + ((scaleX(x) - x0) / (x1 - x0 || 1)) * (width - box.left - box.right);
  const py = (y: number): number =>
    height - box.bottom - ((scaleY(y) - y0) / (y1 - y0 || 1)) * (height - box.top - box.bottom);
  const ticks = Array.from({ length: 5 }, (_, i) => i / 4).map((f) => {
    const value = y0 + f * (y1 - y0);
    const shown = options.logY ? 10 ** value : value;
    const y = height - box.bottom - f * (height - box.top - box.bottom);
    return `<line x1="${box.left}" x2="${width - box.right}" y1="${y}" y2="${y}" stroke="#ddd"/><text x="${box.left - 6}" y="${y + 4}" text-anchor="end">${compact(shown)}</text>`;
  });
  const decades = Array.from(
    { length: Math.max(0, Math.floor(x1) - Math.ceil(x0) + 1) },
    (_, i) => 10 ** (Math.ceil(x0) + i),
  );
  const xTicks =
    options.logX && decades.length > 2
      ? decades
      : [...new Set(points.map(([x]) => x))].toSorted((a, b) => a - b);
  const shownX =
    xTicks.length <= 8 ? xTicks : xTicks.filter((_, i) => i % Math.ceil(xTicks.length / 8) === 0);
  const xLabels = shownX.map(
    (x) =>
      `<text x="${px(x).toFixed(1)}" y="${height - box.bottom + 16}" text-anchor="middle">${compact(x)}</text>`,
  );
  const lines = series.map((s, i) => {
    const path = s.points
      .map(([x, y], k) => `${k ? 'L' : 'M'}${px(x).toFixed(1)} ${py(y).toFixed(1)}`)
      .join('');
    const dots = s.points
      .map(
        ([x, y]) =>
          `<circle cx="${px(x).toFixed(1)}" cy="${py(y).toFixed(1)}" r="2.5" fill="${colours[i % colours.length]}"/>`,
      )
      .join('');
    if (s.scatter) return dots;
    return `<path d="${path}" fill="none" stroke="${colours[i % colours.length]}" stroke-width="2"/>${s.points.length <= 40 ? dots : ''}`;
  });
  // names one after the other, about 7 pixels a letter
  const legend = series.map((s, i) => {
    const before = series.slice(0, i).reduce((sum, { name }) => sum + 28 + 7 * name.length, 0);
    return `<text x="${box.left + 8 + before}" y="${box.top - 6}" fill="${colours[i % colours.length]}">■ ${escape(s.name)}</text>`;
  });
  const names = `<text x="${(box.left + width - box.right) / 2}" y="${height - 10}" text-anchor="middle">${escape(options.x ?? '')}</text><text x="14" y="${height / 2}" text-anchor="middle" transform="rotate(-90 14 ${height / 2})">${escape(options.y ?? '')}</text>`;
  return frame(title, width, height, [...ticks, ...xLabels, ...lines, ...legend, names].join(''));
}

// As a file of its own too.
function frame(title: string, width: number, height: number, content: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="12" style="background:#fff" viewBox="0 0 ${width} ${height}" width="${width}" role="img" aria-label="${escape(title)}"><text x="8" y="20" font-weight="600" font-size="14">${escape(title)}</text>${content}</svg>`;
}
