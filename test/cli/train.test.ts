// roots train, finetune and distill as a user calls them, on a text of the project's own grammar.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { sentences } from '../../examples/grammar.js';
import { temporaryFolder } from '../harness.js';

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname;
const work = temporaryFolder('cli-train');
const text = join(work, 'text.txt');
writeFileSync(text, sentences(400, 1));

function roots(...args: string[]): { status: number | null; out: string; err: string } {
  const r = spawnSync(process.execPath, [main, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '' },
  });
  return { status: r.status, out: r.stdout, err: r.stderr };
}
function json(...args: string[]): Record<string, number> {
  const r = roots(...args, '--json');
  expect(r.status, r.err).toBe(0);
  return JSON.parse(r.out) as Record<string, number>;
}
const size = ['--layers', '1', '--heads', '2', '--dim', '32', '--context', '32', '--batch', '8'];

describe('roots train', () => {
  it.each(['gpt2', 'llama', 'lstm'])(
    '%s: trains, prints the figures, and leaves a model that generates',
    (kind) => {
      const out = join(work, kind);
      const figures = json(
        'train',
        '--text',
        text,
        '--out',
        out,
        '--model',
        kind,
        '--steps',
        '40',
        '--lr',
        '5e-3',
        '--tokenizer',
        'char',
        ...size,
      );
      expect(Object.keys(figures).toSorted()).toEqual([
        'perplexity',
        'seconds',
        'steps',
        'tokensPerSecond',
        'trainLoss',
        'valLoss',
      ]);
      expect(figures['steps']).toBe(40);
      expect(figures['valLoss']).toBeLessThan(3);
      expect(figures['perplexity']).toBeCloseTo(Math.exp(figures['valLoss']!), 6);
      const generated = JSON.parse(
        roots('generate', out, '--prompt', 'My', '--max-new-tokens', '5', '--greedy', '--json').out,
      ) as { tokens: number[] };
      expect(generated.tokens.length).toBe(5);
      expect(readFileSync(join(out, 'report.html'), 'utf8')).toContain('<svg');
      expect(existsSync(join(out, 'log.jsonl'))).toBe(true);
    },
  );
  it('--resume continues a run, and gives the weights of one that never stopped', () => {
    const [a, b] = [join(work, 'a'), join(work, 'b')];
    const common = ['--text', text, '--steps', '20', '--save-every', '10', ...size];
    json('train', '--out', a, ...common);
    // the run that stops at 10: its later checkpoint is taken away
    json('train', '--out', b, ...common);
    rmSync(join(b, 'checkpoint-20'), { recursive: true });
    expect(roots('train', '--out', b, ...common).err).toMatch(/resume it with .*--resume/);
    expect(json('train', '--out', b, ...common, '--resume')['steps']).toBe(20);
    expect(readFileSync(join(b, 'model.safetensors'))).toEqual(
      readFileSync(join(a, 'model.safetensors')),
    );
    expect(readdirSync(b).filter((n) => n.startsWith('checkpoint-')).length).toBe(2);
  });
  it('names wrong choices by their option, and a finished run says that nothing was left', () => {
    const base = ['train', '--text', text, '--out', join(work, 'wrong')];
    for (const [option, value] of [
      ['optimizer', 'adamax'],
      ['schedule', 'cos'],
      ['nan-policy', 'pray'],
      ['model', 'bert'],
      ['preset', 'nano'],
      ['report', 'wandb'],
    ] as const) {
      const r = roots(...base, `--${option}`, value);
      expect(r.status).toBe(2);
      expect(r.err).toMatch(new RegExp(`--${option} must be one of .*, got "${value}"`));
    }
    // units of an LSTM are not split into heads
    const lstm = [...base.slice(0, 4), join(work, 'odd'), '--model', 'lstm', '--dim', '30'];
    const more = ['--layers', '1', '--context', '16', '--steps', '2', '--heads', '4'];
    expect(json(...lstm, ...more)['steps']).toBe(2);
    const again = roots(...lstm, ...more, '--resume');
    expect(again.out).toMatch(/2 steps in .*: no step was left, validation/);
    expect(json(...lstm, ...more, '--resume')['trainLoss']).toBeNull();
  });
  it('finetune goes on from a model, distill teaches a smaller one', () => {
    const teacher = join(work, 'gpt2');
    const tuned = json(
      'finetune',
      teacher,
      '--text',
      text,
      '--out',
      join(work, 'tuned'),
      '--steps',
      '10',
      '--lr',
      '1e-3',
    );
    expect(tuned['valLoss']).toBeLessThan(3);
    const student = join(work, 'student');
    json(
      'train',
      '--text',
      text,
      '--out',
      student,
      '--steps',
      '1',
      '--tokenizer',
      teacher,
      '--layers',
      '1',
      '--heads',
      '2',
      '--dim',
      '16',
      '--context',
      '32',
    );
    const distilled = json(
      'distill',
      teacher,
      student,
      '--text',
      text,
      '--out',
      join(work, 'distilled'),
      '--steps',
      '30',
      '--lr',
      '1e-2',
      '--hidden',
      '0.1',
    );
    expect(distilled['steps']).toBe(30);
    const r = roots('distill', teacher, join(work, 'a'), '--text', text, '--out', join(work, 'no'));
    expect(r.status).toBe(1);
    expect(r.err).toMatch(/different tokenizers|vocabulary/);
  });
});
