// Runs the code blocks of README.md and docs/*.md: every ```ts block as a program, every ```sh block as a script. Blocks
// that the surrounding text marks with <!-- not run --> are only type-checked (ts) or left out (sh).
// In the blocks, './model' is a small checkpoint that this script makes first.
import { execFile } from 'node:child_process';
import {
  cpSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
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

function runBlock(language: string, code: string, folder: string): Promise<string | null> {
  const path = join(folder, `block_${ran++}.${language === 'ts' ? 'mts' : 'sh'}`);
  writeFileSync(path, code);
  const tsx = join(root, 'node_modules/tsx/dist/esm/index.mjs');
  const [command, args] =
    language === 'ts' ? [process.execPath, ['--import', tsx, path]] : ['bash', ['-eu', path]];
  const env = {
    ...process.env,
    PATH: `${join(folder, 'node_modules/.bin')}:${process.env['PATH']}`,
  };
  return new Promise((done) => {
    execFile(
      command,
      args,
      { cwd: folder, timeout: 120_000, maxBuffer: 1 << 26, env },
      (error, stdout, stderr) => done(error ? `${error.message}\n${stdout}\n${stderr}` : null),
    );
  });
}

/** The blocks of one file in their order, in a folder of their own. */
async function runFile(file: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'roots-docs-'));
  cpSync(work, folder, { recursive: true, verbatimSymlinks: true });
  const text = readFileSync(join(root, file), 'utf8');
  for (const match of text.matchAll(/(<!-- not run[^>]*-->\n)?```(ts|sh)\n([\s\S]*?)```/g)) {
    const [, skip, language, code] = match as unknown as [
      string,
      string | undefined,
      string,
      string,
    ];
    if (skip) {
      skipped++;
      continue;
    }
    const failure = await runBlock(language, code, folder);
    if (failure !== null) {
      console.error(`${file}, block at character ${match.index} failed:\n${code}\n${failure}`);
      process.exit(1);
    }
  }
  rmSync(folder, { recursive: true });
}

const files = [
  'README.md',
  ...readdirSync(join(root, 'docs'))
    .filter((f) => f.endsWith('.md'))
    .map((f) => `docs/${f}`),
];
// two files at a time: most blocks keep one core busy
const next = files[Symbol.iterator]();
await Promise.all(
  [1, 2].map(async () => {
    for (const file of next) await runFile(file);
  }),
);
rmSync(work, { recursive: true });
if (ran < 5) throw new Error(`only ${ran} blocks found: the pattern is wrong`);
console.log(`documentation: ${ran} blocks ran, ${skipped} marked as not run`);
