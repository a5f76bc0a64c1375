import { describe, expect, it } from 'vitest';
import {
  Generator,
  TokenDataset,
  Trainer,
  crossEntropy,
  maskTokens,
  maskedLM,
  nn,
  randn,
  writeSafetensors,
} from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { temporaryFolder } from '../harness.js';

/** A small bidirectional encoder with a head over the vocabulary. */
class Encoder extends nn.Module {
  readonly #tokens: nn.Embedding;
  readonly #positions: Tensor;
  readonly #encoder: nn.TransformerEncoder;
  readonly #head: nn.Linear;
  constructor(vocab: number, context: number, dim: number) {
    super();
    const generator = new Generator(3);
    const make = (shape: number[]): Tensor => randn(shape, { std: 0.05, generator });
    this.#tokens = this.register('tokens', new nn.Embedding(make([vocab, dim])));
    this.#positions = this.register('positions', make([context, dim]));
    this.#encoder = this.register(
      'encoder',
      new nn.TransformerEncoder(1, { dim, heads: 2, hidden: 2 * dim, generator }),
    );
    this.#head = this.register('head', new nn.Linear({ weight: make([vocab, dim]) }));
  }
  forward({ inputIds, labels }: { inputIds: Tensor; labels: Tensor }): { loss: Tensor } {
    const x = this.#tokens.forward(inputIds).add(this.#positions);
    const logits = this.#head.forward(this.#encoder.forward(x));
    const [b, t, v] = logits.shape as [number, number, number];
    return { loss: crossEntropy(logits.reshape([b * t, v]), labels.reshape([b * t])) };
  }
}

const options = { maskTokenId: 0, vocabSize: 12, specialTokens: [1] };

describe('maskTokens (X20)', () => {
  it('15 % are chosen: 80 % masked, 10 % replaced, 10 % kept; all others untouched', () => {
    const tokens = Int32Array.from({ length: 100_000 }, (_, i) => 1 + (i % 11));
    const { inputIds, labels, chosen } = maskTokens(tokens, options, 7);
    const counts = { masked: 0, replaced: 0, kept: 0 };
    const seen = new Set<number>();
    tokens.forEach((id, i) => {
      if (labels[i] === -100) expect(inputIds[i]).toBe(id);
      else {
        expect([labels[i], id !== 1]).toEqual([id, true]);
        if (inputIds[i] === 0) counts.masked++;
        else if (inputIds[i] === id) counts.kept++;
        else {
          counts.replaced++;
          seen.add(inputIds[i]!);
        }
      }
    });
    const ordinary = tokens.filter((t) => t !== 1).length;
    expect(chosen / ordinary).toBeCloseTo(0.15, 2);
    expect(counts.masked / chosen).toBeCloseTo(0.8, 1);
    // a random token is the same one by chance once in ten times
    expect(counts.replaced / chosen).toBeCloseTo(0.09, 1);
    expect(counts.kept / chosen).toBeCloseTo(0.11, 1);
    expect([...seen].toSorted((a, b) => a - b)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(maskTokens(tokens, options, 7)).toEqual({ inputIds, labels, chosen });
    expect(maskTokens(tokens, options, 8).labels).not.toEqual(labels);
    expect(maskTokens(tokens, options, 7, 4).labels).not.toEqual(labels);
  });
  it('always chooses one where it may, and names wrong options', () => {
    const one = maskTokens(Int32Array.from([1, 5, 1]), { ...options, probability: 0 }, 3);
    expect([one.chosen, one.labels[1]]).toEqual([1, 5]);
    expect(maskTokens(Int32Array.from([1, 1]), options, 3).chosen).toBe(0);
    expect(() => maskTokens(one.labels, { ...options, maskTokenId: 12 }, 1)).toThrow(/not below/);
    expect(() => maskTokens(one.labels, { ...options, vocabSize: 2 }, 1)).toThrow(/every token/);
    expect(() => maskTokens(one.labels, { ...options, probability: 2 }, 1)).toThrow(/probability/);
  });
});

describe('maskedLM', () => {
  it('learns to fill gaps from both sides; evaluations agree; a resumed run gives the same bits', async () => {
    // ten rising numbers from a start that varies: any neighbour tells what is hidden
    const text = Array.from(
      { length: 1600 },
      (_, i) => 2 + ((Math.floor(i / 10) * 3 + (i % 10)) % 10),
    );
    const data = TokenDataset.fromIds(text, 10);
    const run = (outputDir: string, maxSteps: number) =>
      new Trainer({
        model: new Encoder(12, 10, 32),
        objective: maskedLM(options),
        trainDataset: data,
        evalDataset: data,
        saveModel: (model, folder) =>
          writeSafetensors(`${folder}/model.safetensors`, model.stateDict()),
        args: {
          outputDir,
          maxSteps,
          perDeviceTrainBatchSize: 16,
          learningRate: 1e-3,
          lrSchedulerType: 'constant',
          evalStrategy: 'steps',
          evalSteps: 1000,
          saveSteps: 150,
          disableProgress: true,
          reportTo: [],
        },
      });
    const whole = run(temporaryFolder('mlm'), 300);
    const before = (await whole.evaluate()).evalLoss;
    expect((await whole.evaluate()).evalLoss).toBe(before);
    const result = await whole.train();
    expect(before).toBeGreaterThan(2);
    expect(result.evalLoss).toBeLessThan(0.5 * before);
    const folder = temporaryFolder('mlm-resumed');
    await run(folder, 150).train();
    const resumed = await run(folder, 300).train({ resumeFromCheckpoint: true });
    expect(resumed.evalLoss).toBe(result.evalLoss);
  });
});
