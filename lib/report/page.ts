// One self-contained HTML file: style inside, no script, no network.
import { escape } from './svg.js';

const style = `
  :root { color-scheme: light dark; }
  body { font: 14px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 960px; padding: 24px; color: #222; background: #fff; }
  h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
  p.lead { color: #555; margin: 0 0 16px; }
  table { border-collapse: collapse; width: 100%; margin: 8px 0; }
  th, td { padding: 5px 10px; border-bottom: 1px solid #e3e3e3; text-align: left; vertical-align: top; overflow-wrap: break-word; }
  td:last-child { overflow-wrap: anywhere; }
  td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .good { color: #1a7f37; } .bad { color: #b42318; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
  .card { border: 1px solid #e3e3e3; border-radius: 8px; padding: 12px; }
  .card b { display: block; font-size: 22px; }
  svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor; margin: 8px 0; }
  pre { white-space: pre-wrap; background: #f6f6f6; padding: 8px; border-radius: 6px; margin: 0; }
  code { background: #f6f6f6; padding: 1px 4px; border-radius: 4px; }
  @media (prefers-color-scheme: dark) {
    body { color: #ddd; background: #161616; } th, td, .card { border-color: #333; } pre, code { background: #222; } p.lead { color: #aaa; }
  }
`;

/** `body` is HTML; everything variable in it must have been escaped. */
export function page(title: string, lead: string, body: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title><style>${style}</style></head>
<body><h1>${escape(title)}</h1><p class="lead">${escape(lead)}</p>
${body}
</body></html>
`;
}

/** A table; cells are text. Columns named in `numeric` are right-aligned. */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  numeric: readonly number[] = [],
): string {
  const cell = (tag: string, text: string, i: number): string =>
    `<${tag}${numeric.includes(i) ? ' class="n"' : ''}>${escape(text)}</${tag}>`;
  return `<table><thead><tr>${header.map((h, i) => cell('th', h, i)).join('')}</tr></thead><tbody>${rows
    .map((r) => `<tr>${r.map((c, i) => cell('td', c, i)).join('')}</tr>`)
    .join('')}</tbody></table>`;
}
