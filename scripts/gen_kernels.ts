// native/kernels.def -> lib/native/kernels.gen.ts: one typed function per kernel.
//   npm run generate            writes the file
//   tsx scripts/gen_kernels.ts --check   fails if it is stale
import { readFileSync, writeFileSync } from 'node:fs';

const source = readFileSync(new URL('../native/kernels.def', import.meta.url), 'utf8');
const target = new URL('../lib/native/kernels.gen.ts', import.meta.url);

const kernels: { name: string; parameters: [type: string, name: string][] }[] = [];
const add = (name: string, parameters: string): void => {
  kernels.push({
    name,
    parameters: parameters.split(',').map((p) => p.trim().split(' ') as [string, string]),
  });
};
for (const line of source.split('\n')) {
  const match = /^(KERNEL|UNARY|BINARY|COMPARE)\((\w+)(?:,\s*(.*))?\)$/.exec(line);
  if (!match) continue;
  const [, kind, name, rest] = match as unknown as [string, string, string, string | undefined];
  if (kind === 'KERNEL') add(name, rest ?? '');
  if (kind === 'UNARY') {
    add(`${name}_forward`, 'Tensor x, Tensor out');
    add(`${name}_backward`, 'Tensor dy, Tensor x, Tensor dx');
  }
  if (kind === 'BINARY' || kind === 'COMPARE') add(name, 'Tensor a, Tensor b, Tensor out');
}

const types: Record<string, string> = {
  Tensor: 'TensorArg',
  OptionalTensor: 'TensorArg | null',
  TensorList: 'readonly TensorArg[]',
  double: 'number',
  int64_t: 'number',
};
const writers: Record<string, string> = {
  Tensor: 'tensor',
  OptionalTensor: 'tensor',
  TensorList: 'tensors',
};
const handles: Record<string, (id: string) => string> = {
  Tensor: (id) => `${id}.storage.handle`,
  OptionalTensor: (id) => `${id}?.storage.handle ?? null`,
  TensorList: (id) => `handles(${id})`,
};
const lines = [
  '// Generated from native/kernels.def by scripts/gen_kernels.ts. Do not edit.',
  "import { call, handles, number, tensor, tensors } from './arguments.js';",
  "import type { TensorArg } from './load.js';",
  '',
];
for (const { name, parameters } of kernels) {
  const signature = parameters.map(([type, id]) => `${id}: ${types[type]}`).join(', ');
  const storages = parameters
    .filter(([type]) => type in handles)
    .map(([type, id]) => handles[type]!(id));
  const numbers = parameters.reduce(
    (before, [type, id]) => `${writers[type] ?? 'number'}(${before}, ${id})`,
    '0',
  );
  lines.push(
    `export function ${name}(${signature}): void {`,
    `  ${numbers};`,
    `  call.${name}!(${storages.join(', ')});`,
    '}',
  );
}
lines.push(
  '',
  `export const kernelNames: readonly string[] = ${JSON.stringify(kernels.map((k) => k.name))};`,
  '',
);

const text = lines.join('\n');
if (process.argv.includes('--check')) {
  const normal = (s: string): string => s.replace(/[\s,;]+|'/g, '').replace(/"/g, '');
  if (normal(readFileSync(target, 'utf8')) !== normal(text)) {
    console.error('lib/native/kernels.gen.ts is stale: run "npm run generate"');
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}
