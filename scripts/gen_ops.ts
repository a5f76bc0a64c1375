// The declarations of every op, as built -> docs/ops.md: a reference that says what the code says.
//   npm run build:ts && npm run generate:docs
//   tsx scripts/gen_ops.ts --check   fails if the page is stale
import { readFileSync, writeFileSync } from 'node:fs';

const root = new URL('../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');

/** A documentation comment as one line. */
const text = (comment: string | undefined): string =>
  (comment ?? '')
    .split('\n')
    .map((line) => line.replace(/^\s*\/?\*+\/?\s?|\*\/\s*$/g, '').trim())
    .join(' ')
    .trim();

const oneLine = (code: string): string => code.replace(/\s+/g, ' ').trim();

interface Option {
  code: string;
  documentation: string;
}

/** The fields of each interface of a declaration file. */
function optionsOf(source: string): Map<string, Option[]> {
  const interfaces = new Map<string, Option[]>();
  for (const [, name, body] of source.matchAll(
    /export interface (\w+Options)[^{]*\{\n([\s\S]*?)\n\}/g,
  )) {
    const fields = [...body!.matchAll(/(?:(\/\*\*[\s\S]*?\*\/)\s*)?^ {4}(\w+\??: [^;]+);/gm)];
    interfaces.set(
      name!,
      fields.map(([, comment, code]) => ({ code: oneLine(code!), documentation: text(comment) })),
    );
  }
  return interfaces;
}

const described = (code: string, documentation: string): string =>
  documentation ? `\`${code}\` — ${documentation}` : `\`${code}\``;

const index = read('lib/ops/index.ts');
const filesOf = (lines: RegExp): string[] => [...index.matchAll(lines)].map((m) => m[1]!);
const options = new Map(
  filesOf(/from '\.\/(\w+)\.js'/g).flatMap((f) => [...optionsOf(read(`dist/ops/${f}.d.ts`))]),
);
const page = [
  '# Ops',
  '',
  '<!-- made by scripts/gen_ops.ts from the declarations -->',
  '',
  'Each is a function of `roots-llm`, and a method when its first argument is a tensor: `matmul(a, b)` is `a.matmul(b)`. Results of floats have gradients',
  'unless an op says otherwise; 16-bit floats go by way of float32. Shapes: B batch, H heads, T time, C or D channels, V classes, … any number of axes.',
  'Options that several ops share stand with the first of them. [Tensors, memory and async](tensors.md)',
];
for (const file of filesOf(/export \* from '\.\/(\w+)\.js'/g)) {
  const source = read(`dist/ops/${file}.d.ts`);
  const functions = [
    ...source.matchAll(
      /(?:(\/\*\*(?:(?!\*\/)[\s\S])*\*\/)\s*)?export declare function ([\s\S]+?);\n(?![ }])/g,
    ),
  ];
  if (functions.length === 0) continue;
  const heading = [];
  for (const line of read(`lib/ops/${file}.ts`).split('\n')) {
    if (!line.startsWith('//')) break;
    heading.push(line.slice(3));
  }
  const title = heading.join(' ').split(/(?<=[^.])[.:;](?: |$)/)[0]!;
  page.push('', `## ${title}`, '');
  for (const [, comment, code] of functions) {
    const signature = oneLine(code!);
    page.push(`- ${described(signature, text(comment))}`);
    for (const name of signature.match(/\w+Options/g) ?? []) {
      for (const option of options.get(name) ?? [])
        page.push(`  - ${described(option.code, option.documentation)}`);
      options.delete(name);
    }
  }
}
const made = `${page.join('\n')}\n`;
if (process.argv.includes('--check')) {
  if (read('docs/ops.md') !== made) {
    console.error('docs/ops.md is stale: npm run build:ts && npm run generate:docs');
    process.exit(1);
  }
} else writeFileSync(new URL('docs/ops.md', root), made);
