// The layer rule, and the lists that must not drift apart.
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import * as ops from '../lib/ops/index.js';
import { dtypes } from '../lib/tensor/dtype.js';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');

function files(folder: string, pattern: RegExp): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((f) => join(folder, f))
    .filter((f) => pattern.test(f) && statSync(join(root, f)).isFile());
}
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

// Top to bottom. A file may import from its own folder and from rows below; within a row only where no loop arises.
const rows = [
  ['cli'],
  ['compress'],
  ['language_model.ts'],
  ['train'],
  ['bench', 'data', 'eval', 'generate', 'report'],
  ['models'],
  ['nn', 'optim', 'text'],
  ['io'],
  ['ops'],
  ['autograd'],
  ['tensor'],
  ['native'],
];
// io writes tensors and knows their storage; nothing else of the rows above
const rowOf = new Map(rows.flatMap((names, i) => names.map((n) => [n, i] as const)));

describe('lib/', () => {
  const imports = files('lib', /\.ts$/).map((file) => ({
    file,
    targets: [...read(file).matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((m) =>
      relative(join(root, 'lib'), resolve(root, dirname(file), m[1]!)).replace(/\.js$/, '.ts'),
    ),
  }));
  const part = (path: string): string => path.replace(/^lib\//, '').split('/')[0]!;

  it('imports only downwards', () => {
    const wrong: string[] = [];
    for (const { file, targets } of imports) {
      const from = part(file);
      if (from === 'index.ts') continue;
      for (const target of targets) {
        const to = part(target);
        if (to === from) continue;
        const [a, b] = [rowOf.get(from), rowOf.get(to)];
        if (a === undefined || b === undefined || b < a) wrong.push(`${file} → ${target}`);
      }
    }
    expect(wrong).toEqual([]);
  });
  it('has no loops inside a row', () => {
    const edges = new Map<string, Set<string>>();
    for (const { file, targets } of imports)
      for (const target of targets)
        if (part(target) !== part(file))
          (edges.get(part(file)) ?? edges.set(part(file), new Set()).get(part(file))!).add(
            part(target),
          );
    for (const [a, targets] of edges)
      for (const b of targets)
        if (rowOf.get(a) === rowOf.get(b))
          expect(edges.get(b)?.has(a), `${a} ↔ ${b}`).not.toBe(true);
  });
  it('touches the addon only in native/, the tokenizer library only in text/tokenizer.ts', () => {
    for (const { file } of imports) {
      const text = read(file);
      if (/node-gyp-build|\.node'/.test(text)) expect(file).toBe('lib/native/load.ts');
      if (text.includes("'@huggingface/tokenizers'")) expect(file).toBe('lib/text/tokenizer.ts');
    }
  });
  it('runs no code from data (S13)', () => {
    for (const { file } of imports) {
      expect(read(file), file).not.toMatch(/\beval\((?!\))|new Function\(|node:vm/);
      // measuring takes fresh processes: nothing else starts one
      if (read(file).includes('node:child_process'))
        expect(['lib/compress/measure.ts', 'lib/bench/peers.ts']).toContain(file);
    }
  });
  it('has a current kernels.gen.ts', () => {
    execFileSync(process.execPath, ['--import', 'tsx', 'scripts/gen_kernels.ts', '--check'], {
      cwd: root,
    });
  });
  it('numbers dtypes as native/core/dtype.h does', () => {
    const list = /enum class DType : int32_t \{([^}]*)\}/
      .exec(read('native/core/dtype.h'))![1]!
      .split(',')
      .map((s) => s.trim().split(' ')[0]);
    const short: Record<string, string> = {
      float32: 'f32',
      float64: 'f64',
      bfloat16: 'bf16',
      float16: 'f16',
      int8: 'i8',
      uint8: 'u8',
      int32: 'i32',
      int64: 'i64',
      bool: 'boolean',
    };
    for (const [name, info] of Object.entries(dtypes)) expect(list[info.code]).toBe(short[name]);
  });
  it('tests every op', () => {
    const tests = files('test', /\.test\.ts$/)
      .map(read)
      .join('\n');
    const names = Object.entries(ops)
      .filter(([, f]) => typeof f === 'function')
      .map(([n]) => n);
    const missing = names.filter((n) => !new RegExp(`\\b${n}\\b`).test(tests));
    expect(missing).toEqual([]);
  });
});

describe('native/', () => {
  it('includes napi.h only in binding/, cuda only in cuda/, no STL in kernel files', () => {
    for (const file of files('native', /\.(cc|h|cu|cuh)$/)) {
      const text = read(file);
      if (/napi\.h|node_api\.h/.test(text)) expect(file).toMatch(/^native\/binding\//);
      if (/#include <cuda_/.test(text)) expect(file).toMatch(/^native\/cuda\//);
      if (/^native\/cpu\/(?!backend|features)/.test(file))
        expect(text, file).not.toMatch(/#include <(?!stdint\.h|stddef\.h|immintrin\.h)/);
      if (file.startsWith('native/core/'))
        for (const m of text.matchAll(/#include "([^"]+)"/g))
          expect(m[1], file).toMatch(/^core\/|^kernels\.def$/);
      if (file.startsWith('native/cpu/'))
        for (const m of text.matchAll(/#include "([^"]+)"/g))
          expect(m[1], file).toMatch(/^(core|cpu)\/|^kernels\.def$/);
      if (/^native\/(runtime|io)\//.test(file))
        for (const m of text.matchAll(/#include "([^"]+)"/g))
          expect(m[1], file).toMatch(/^(core|runtime|io)\//);
      if (file.startsWith('native/cuda/'))
        for (const m of text.matchAll(/#include "([^"]+)"/g))
          expect(m[1], file).toMatch(/^(core|cuda)\/|^kernels\.def$|^test\/cuda_emulator\.h$/);
    }
  });
  it('inlines the lambdas of unrolled loops early, or arrays they capture live in memory', () => {
    for (const path of files('native/cpu', /\.(cc|h)$/))
      for (const [lambda] of read(path).matchAll(/unrolled<[^;{}]*?>\(\s*\[&\][^{]*\{/g))
        expect(lambda, path).toContain('ROOTS_INLINED');
  });
  it('never aborts the process', () => {
    for (const file of files('native', /\.(cc|h|cu|cuh)$/))
      if (!file.startsWith('native/test/'))
        expect(read(file), file).not.toMatch(/\b(abort|exit|terminate|assert)\(/);
  });
});

describe('package', () => {
  const manifest = JSON.parse(read('package.json')) as {
    files: string[];
    gypfile: boolean;
    scripts: Record<string, string>;
    dependencies: Record<string, string>;
  };
  it('keeps binding.gyp a thin shim that is not published', () => {
    const gyp = read('binding.gyp');
    expect([...gyp.matchAll(/"target_name"/g)].length).toBe(1);
    expect(gyp).toContain('"type": "none"');
    expect(gyp).toContain('scripts/build_native.mjs');
    expect(gyp).not.toMatch(/"sources"|cflags|"defines"/);
    expect(manifest.files).not.toContain('binding.gyp');
    expect(manifest.gypfile).toBe(false);
  });
  it('has no install scripts and few, pinned dependencies', () => {
    for (const name of ['preinstall', 'install', 'postinstall'])
      expect(manifest.scripts[name]).toBeUndefined();
    expect(Object.keys(manifest.dependencies).length).toBeLessThanOrEqual(8);
    for (const version of Object.values(manifest.dependencies))
      expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  });
});
