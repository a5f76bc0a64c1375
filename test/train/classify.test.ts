import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Generator, LanguageModel, byteTokenizer, createModel } from '../../lib/index.js';
import type { Label } from '../../lib/index.js';
import { describeWithFixtures, fixture, temporaryFolder } from '../harness.js';

const root = temporaryFolder('classify');

const quiet = { disableProgress: true, reportTo: [] as const };
function fresh(): LanguageModel {
  const tokenizer = byteTokenizer();
  const size = { layers: 2, heads: 4, dim: 64, context: 64 };
  return new LanguageModel(
    createModel('gpt2', size, tokenizer.vocabSize, 0, new Generator(1)),
    tokenizer,
  );
}

/** Short reviews that anybody can tell apart. */
function reviews(count: number, seed: number): { texts: string[]; labels: number[] } {
  const good = ['great', 'lovely', 'brilliant', 'wonderful', 'superb'];
  const bad = ['awful', 'boring', 'terrible', 'dreadful', 'poor'];
  const things = ['movie', 'book', 'meal', 'song', 'play', 'hotel'];
  const frames = [
    (a: string, t: string) => `This is a ${a} ${t}.`,
    (a: string, t: string) => `What a ${a} ${t}!`,
    (a: string, t: string) => `The ${t} was ${a}.`,
  ];
  let state = seed;
  const pick = <T>(list: readonly T[]): T => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return list[Math.floor((state / 2 ** 32) * list.length)]!;
  };
  const texts: string[] = [];
  const labels: number[] = [];
  for (let i = 0; i < count; i++) {
    const label = i % 2;
    texts.push(pick(frames)(pick(label ? good : bad), pick(things)));
    labels.push(label);
  }
  return { texts, labels };
}

describe('finetune and predict', () => {
  it('learns from 240 sentences in seconds; held-out accuracy 0.9 and more (C06)', async () => {
    using lm = fresh();
    await expect(lm.predict('x')).rejects.toThrow(/call finetune\(texts, labels\) first/);
    const train = reviews(240, 1);
    const held = reviews(100, 2);
    await lm.finetune(train.texts, train.labels, {
      ...quiet,
      learningRate: 2e-3,
      numTrainEpochs: 8,
    });
    const accuracy = async (d: { texts: string[]; labels: number[] }): Promise<number> => {
      const predictions = await lm.predict(d.texts);
      return predictions.filter((p, i) => p.label === d.labels[i]).length / d.texts.length;
    };
    expect(await accuracy(train)).toBeGreaterThan(0.9);
    expect(await accuracy(held)).toBeGreaterThanOrEqual(0.9);
    const one = await lm.predict('What a great movie!');
    expect(one.label).toBe(1);
    expect(one.score).toBeGreaterThan(0.5);
    expect(Object.values(one.scores).reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
  });

  it.each([
    ['strings', ['no', 'yes']],
    ['booleans', [false, true]],
    ['numbers', [-1, 7]],
  ] as [string, Label[]][])(
    'labels that are %s come back as they were given, after saving too',
    async (name, kinds) => {
      using lm = fresh();
      const { texts, labels } = reviews(120, 3);
      const given = labels.map((l) => kinds[l]!);
      await lm.finetune(texts, given, { ...quiet, learningRate: 2e-3, numTrainEpochs: 4 });
      const before = await lm.predict(texts.slice(0, 10));
      expect(typeof before[0]!.label).toBe(typeof kinds[0]);
      const folder = join(root, name);
      await lm.save(folder);
      using again = await LanguageModel.fromPretrained(folder);
      expect(again.architecture).toBe('GPT2ForSequenceClassification');
      expect(await again.predict(texts.slice(0, 10))).toEqual(before);
      const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<
        string,
        unknown
      >;
      expect(config['id2label']).toEqual({ 0: String(kinds[0]), 1: String(kinds[1]) });
    },
  );

  it('padding does not change a prediction', async () => {
    using lm = fresh();
    const { texts, labels } = reviews(20, 4);
    await lm.finetune(texts, labels, { ...quiet, numTrainEpochs: 1 });
    const alone = await lm.predict(texts[0]!);
    const [together] = await lm.predict([texts[0]!, `${texts[1]!} ${texts[2]!}`]);
    expect(together!.score).toBeCloseTo(alone.score, 5);
  });

  it('names what is wrong with the data', async () => {
    using lm = fresh();
    await expect(lm.finetune(['a'], [1, 2])).rejects.toThrow(/1 texts, but 2 labels/);
    await expect(lm.finetune([], [])).rejects.toThrow(/no texts/);
    await expect(lm.finetune(['a', 'b'], [1, 1])).rejects.toThrow(/all 2 labels are 1/);
    await expect(lm.finetune(['a', 'b'], [1, 'x'])).rejects.toThrow(
      /must all be numbers, all strings/,
    );
    await expect(lm.finetune(['a', 3 as unknown as string], [1, 0], quiet)).rejects.toThrow(
      /expected a text, got number/,
    );
    await expect(lm.finetune('a' as unknown as string[], [1])).rejects.toThrow(/array of texts/);
  });
});

describeWithFixtures('finetune on a real checkpoint', () => {
  it('the two-example call runs, and outputDir keeps a run', async () => {
    using lm = await LanguageModel.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    const folder = join(root, 'run');
    const result = await lm.finetune(
      ['This is a positive sentence.', 'This is a negative sentence.'],
      [1, 0],
      { ...quiet, outputDir: folder, numTrainEpochs: 20 },
    );
    expect(result.steps).toBe(20);
    expect((await lm.predict('This is a positive sentence.')).label).toBe(1);
    expect(existsSync(join(folder, 'report.html'))).toBe(true);
  });
});
