// Runs the code blocks of README.md and docs/*.md: every ```ts block as a program, every ```sh block as a script. Blocks
// that the surrounding text marks with <!-- not run --> are only type-checked (ts) or left out (sh).
// In the blocks, './model' is a small checkpoint that this script makes first.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  readFileSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
  mkdirSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GPT2LMHeadModel, Generator, LanguageModel, byteTokenizer } from '../lib/index.js';
import { sentences } from '../examples/grammar.js';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const work = mkdtempSync(join(tmpdir(), 'roots-docs-'));

const corpus = sentences(3000, 1);
const tokenizer = byteTokenizer({ text: corpus });
const model = GPT2LMHeadModel.create(
  {
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    n_embd: 64,
    n_head: 2,
    n_layer: 3,
    n_positions: 64,
    vocab_size: tokenizer.vocabSize,
    eos_token_id: 0,
  },
  new Generator(1),
);
await new LanguageModel(model, tokenizer).save(join(work, 'model'));
writeFileSync(join(work, 'calibration.txt'), corpus);
writeFileSync(join(work, 'held_out.txt'), sentences(60, 9));
writeFileSync(join(work, 'corpus.txt'), sentences(200, 4));
mkdirSync(join(work, 'node_modules/.bin'), { recursive: true });
symlinkSync(root, join(work, 'node_modules/roots-llm'));
writeFileSync(
  join(work, 'node_modules/.bin/roots'),
  `#!/bin/sh\nexec node ${join(root, 'dist/cli/main.js')} "$@"\n`,
  { mode: 0o755 },
);
writeFileSync(join(work, 'package.json'), '{"type":"module"}');

let ran = 0;
let skipped = 0;
const files = [
  'README.md',
  ...readdirSync(join(root, 'docs'))
    .filter((f) => f.endsWith('.md'))
    .map((f) => `docs/${f}`),
];
for (const file of files) {
  const text = readFileSync(join(root, file), 'utf8');
  for (const match of text.matchAll(/(<!-- not run[^>]*-->\n)?```(ts|sh)\n([\s\S]*?)```/g)) {
    const [, skip, language, code] = match as unknown as [
      string,
      string | undefined,
      string,
      string,
    ];
    const name = `${file}, block at character ${match.index}`;
    if (skip) {
      skipped++;
      continue;
    }
    const path = join(work, `block_${ran}.${language === 'ts' ? 'mts' : 'sh'}`);
    writeFileSync(path, code);
    const run =
      language === 'ts'
        ? spawnSync(
            process.execPath,
            ['--import', join(root, 'node_modules/tsx/dist/esm/index.mjs'), path],
            { cwd: work, encoding: 'utf8', timeout: 120_000 },
          )
        : spawnSync('bash', ['-eu', path], {
            cwd: work,
            encoding: 'utf8',
            timeout: 120_000,
            env: {
              ...process.env,
              PATH: `${join(work, 'node_modules/.bin')}:${process.env['PATH']}`,
            },
          });
    if (run.status !== 0) {
      console.error(`${name} failed:\n${code}\n${run.stdout}\n${run.stderr}`);
      process.exit(1);
    }
    ran++;
  }
}
execFileSync('rm', ['-rf', work]);
if (ran < 5) throw new Error(`only ${ran} blocks found: the pattern is wrong`);
console.log(`documentation: ${ran} blocks ran, ${skipped} marked as not run`);
