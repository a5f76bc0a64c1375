import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  AdamW,
  Generator,
  LanguageModel,
  TeacherCache,
  TokenDataset,
  createModel,
  crossEntropy,
  distillation,
  divergence,
  gradcheck,
  heal,
  klDiv,
  linear,
  linearKlDiv,
  memory,
  rand,
  reshape,
  slice,
  tensor,
  tidy,
} from '../../lib/index.js';
import type { CausalLM, DistillOptions } from '../../lib/index.js';
import {
  cosineLoss,
  layerMap,
  relationLoss,
  squareHeadLoss,
} from '../../lib/compress/distill/losses.js';
import { parseHeal } from '../../lib/compress/heal.js';
import { cloneModel, loadModel } from '../../lib/models/registry.js';
import {
  describeWithFixtures,
  expectClose,
  fixture,
  numbers,
  temporaryFolder,
} from '../harness.js';

const root = temporaryFolder('distill');
const f64 = { dtype: 'float64', low: -1, high: 1 } as const;

describe('linearKlDiv', () => {
  it('has the gradients of central differences: both directions, temperatures, in pieces', () => {
    for (const reverse of [false, true])
      for (const temperature of [1, 2.5])
        for (const maxLogits of [7, 21, 1000]) {
          const z = rand([5, 7], f64);
          gradcheck(
            (x, w) =>
              linearKlDiv(x, w, (from, count) => z.view([count, 7], [7, 1], from * 7), {
                reverse,
                temperature,
                maxLogits,
              }),
            [rand([5, 3], f64), rand([7, 3], f64)],
          );
        }
  });
  it('equals klDiv on whole logits; 0 for the teacher itself', async () => {
    const [x, w, z] = [rand([6, 4]), rand([9, 4]), rand([6, 9], { low: -3, high: 3 })];
    const teacher = (from: number, count: number) => z.view([count, 9], [9, 1], from * 9);
    for (const temperature of [1, 2]) {
      const whole = await klDiv(linear(x, w), z, { temperature }).item();
      expect(await linearKlDiv(x, w, teacher, { temperature, maxLogits: 18 }).item()).toBeCloseTo(
        whole,
        5,
      );
    }
    const own = linear(x, w);
    for (const reverse of [false, true])
      expect(
        Math.abs(
          await linearKlDiv(x, w, (from, count) => own.view([count, 9], [9, 1], from * 9), {
            reverse,
          }).item(),
        ),
      ).toBeLessThan(1e-6);
    expect(() => linearKlDiv(x, w, () => rand([6, 8]))).toThrow(
      /teacher gave \[6, 8\], the student has 9 classes/,
    );
  });
  it('logits of -infinity in the teacher contribute nothing', async () => {
    const z = tensor([[0, -Infinity, 0]]);
    const x = rand([1, 2]).setRequiresGrad();
    const loss = linearKlDiv(x, rand([3, 2]), () => z);
    loss.backward();
    expect(Number.isFinite(await loss.item())).toBe(true);
    for (const g of await numbers(x.grad!)) expect(Number.isFinite(g)).toBe(true);
  });
});

describe('losses on hidden states', () => {
  it('gradients', () => {
    const y = rand([2, 3, 4], f64);
    gradcheck((x) => cosineLoss(x, y), [rand([2, 3, 4], f64)]);
    gradcheck((x) => squareHeadLoss(x, y), [rand([2, 3, 4], f64)]);
    const k = rand([2, 2, 3, 4], f64);
    gradcheck((x) => relationLoss(x, k, 4), [rand([2, 2, 3, 2], f64)]);
  });
  it('0 for equal states; widths of relations may differ, head counts must divide', async () => {
    const x = rand([2, 3, 4]);
    expect(await cosineLoss(x, x).item()).toBeCloseTo(0, 5);
    expect(await squareHeadLoss(x, x).item()).toBe(0);
    const q = rand([1, 2, 5, 4]);
    expect(await relationLoss(q, q, 2).item()).toBeCloseTo(0, 6);
    expect(() => relationLoss(q, q, 3)).toThrow(/8 channels cannot be split into 3/);
    expect(layerMap(4, 12)).toEqual([0, 3, 6, 9, 12]);
  });
});

const size = { layers: 2, heads: 2, dim: 16, context: 16 };
const teacher = (): CausalLM =>
  createModel('gpt2', { ...size, dim: 24, layers: 4 }, 40, null, new Generator(1));
const student = (): CausalLM =>
  createModel('gpt2', size, 40, null, new Generator(2)).requiresGrad() as CausalLM;
const ids = (n: number): number[] =>
  Array.from({ length: n }, (_, i) => (i * i * 7 + (i >> 2)) % 40);

describe('distillation', () => {
  it.each([
    ['logits', {}],
    ['reverse', { reverse: true }],
    ['temperature and text', { temperature: 2, alpha: 0.3 }],
    ['hidden states, projected', { hidden: 1 }],
    ['hidden states by cosine', { hidden: 1, hiddenKind: 'cosine' }],
    ['relations', { relations: 1, relationHeads: 4 }],
  ] as [string, DistillOptions][])(
    '%s: the loss falls, nothing leaks, the teacher stays as it is',
    async (_, options) => {
      using t = teacher();
      using s = student();
      const before = await numbers(t.parameters()[0]!);
      const objective = distillation(t, s, options);
      const data = TokenDataset.fromIds(ids(200), 16);
      const batch = await data.get([0, 1, 2, 3], 0);
      const optimizer = new AdamW([...s.parameters(), ...objective.auxiliary.parameters()], {
        lr: 3e-3,
      });
      // garbage of earlier tests would be collected in between: let it go first
      for (let i = 0; i < 3; i++) {
        globalThis.gc?.();
        await new Promise((resolve) => setImmediate(resolve));
      }
      const losses: number[] = [];
      const sizes: number[] = [];
      for (let step = 0; step < 25; step++) {
        const loss = tidy(() => {
          const l = objective.loss(s, batch).loss;
          l.backward();
          return l.detach();
        });
        optimizer.step();
        optimizer.zeroGrad();
        losses.push(await loss.item());
        loss.dispose();
        sizes.push(memory().bytes);
      }
      expect(losses.at(-1)!).toBeLessThan(0.9 * losses[0]!);
      expect(new Set(sizes.slice(5)).size).toBe(1);
      expect(await numbers(t.parameters()[0]!)).toEqual(before);
      optimizer.dispose();
      objective.auxiliary.dispose();
    },
  );

  it('cached teacher logits give the same direction as the teacher, for as many buckets as tokens the same loss', async () => {
    using t = teacher();
    using s = student();
    const text = TokenDataset.fromIds(ids(100), 16);
    const cache = await TeacherCache.create(join(root, 'cache'), t, text, { k: 40 });
    const cached = distillation(t, s, {}).loss(s, await cache.get([1, 3])).loss;
    const online = distillation(t, s, {}).loss(s, await text.get([1, 3], 0)).loss;
    expect(await cached.item()).toBeCloseTo(await online.item(), 3);
    const batch = await cache.get([1]);
    for (const wrong of [{ temperature: 2 }, { reverse: true }, { hidden: 1 }])
      expect(() => distillation(t, s, wrong).loss(s, batch)).toThrow(/cached teacher logits serve/);
    // found again; another text is refused
    await cache.close();
    await (await TeacherCache.open(join(root, 'cache'), text)).close();
    await expect(
      TeacherCache.open(join(root, 'cache'), TokenDataset.fromIds(ids(90), 16)),
    ).rejects.toThrow(/another text/);
    await expect(TeacherCache.create(join(root, 'c2'), t, text, { k: 41 })).rejects.toThrow(
      /1 to the vocabulary's 40/,
    );
    const few = await TeacherCache.create(join(root, 'c3'), t, text, { k: 4 });
    const loss = distillation(t, s, {}).loss(s, await few.get([0])).loss;
    expect(await loss.item()).toBeLessThanOrEqual((await online.item()) * 1.5);
    await few.close();
  });

  it('refuses vocabularies that differ, with both sizes, and widths that squareHead cannot compare', () => {
    using t = teacher();
    using other = createModel('gpt2', size, 41, null, new Generator(1));
    using s = student();
    expect(() => distillation(t, other)).toThrow(
      /teacher's vocabulary has 40 tokens, the student's 41/,
    );
    expect(() => distillation(t, s, { squareHead: 1 })).toThrow(
      /squareHead needs equal widths, got 24/,
    );
    expect(() => distillation(t, s, { temprature: 1 } as DistillOptions)).toThrow(
      /unknown option "temprature"/,
    );
    using same = cloneModel(s);
    expect(() => distillation(s, same, { squareHead: 1 })).not.toThrow();
  });
});

describe('heal', () => {
  it('understands steps and minutes', () => {
    expect(parseHeal('200')).toEqual({ steps: 200 });
    expect(parseHeal('5m')).toEqual({ minutes: 5 });
    expect(parseHeal('0.5 min')).toEqual({ minutes: 0.5 });
    for (const bad of ['', '0', '-3', '1.5', 'x', '5h'])
      expect(() => parseHeal(bad)).toThrow(/heal: expected/);
  });
});

describeWithFixtures('distillation against the reference (T12)', () => {
  it('15 steps of CE and KL give the reference losses', async () => {
    const folder = fixture('refs/lora-distill-prune');
    const reference = (
      JSON.parse(readFileSync(join(folder, 'more.json'), 'utf8')) as {
        distill: Record<string, unknown>;
      }
    ).distill;
    const { openSafetensors } = await import('../../lib/io/safetensors.js');
    const file = await openSafetensors(join(folder, 'more.safetensors'));
    const inputIds = await file.get('ids');
    const { model: t } = await loadModel(fixture('checkpoints/stories260K-llama'));
    const { model: s } = await loadModel(join(folder, 'student_init'));
    s.requiresGrad();
    const optimizer = new AdamW(s.parameters(), { lr: 3e-3, weightDecay: 0.01 });
    const want = reference['losses_total_ce_kl'] as [number, number, number][];
    for (const [total, ce, kl] of want) {
      const got = tidy(() => {
        const own = s.forward({ inputIds }).logits;
        const his = t.forward({ inputIds }).logits;
        const cut = (x: typeof own): typeof own => {
          const y = slice(x, 1, 0, -1);
          return reshape(y, [y.shape[0]! * y.shape[1]!, y.shape[2]!]);
        };
        const targets = slice(inputIds, 1, 1);
        const c = crossEntropy(cut(own), reshape(targets, [targets.size]));
        const k = klDiv(cut(own), cut(his), { temperature: 2 });
        const l = c.add(k).mul(0.5);
        l.backward();
        return [l.detach(), c.detach(), k.detach()];
      });
      const values = await Promise.all(got.map((x) => x.item()));
      expectClose(values, [total, ce, kl], { rtol: 2e-4, atol: 1e-4 }, 'losses');
      optimizer.step();
      optimizer.zeroGrad();
    }
    optimizer.dispose();
  });

  it('healing brings a pruned model much nearer to the original, in few steps (G09)', async () => {
    const { pruneFfn } = await import('../../lib/compress/prune/structured.js');
    using lm = await LanguageModel.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    const text = readFileSync(fixture('datasets/tinyshakespeare/input.txt'), 'utf8');
    const train = lm.tokenizer.encode(text.slice(0, 150_000));
    const held = lm.tokenizer.encode(text.slice(-20_000));
    using pruned = lm.model.share();
    await pruneFfn(pruned, 0.5, { ids: train.slice(0, 8192), context: 128 });
    const before = (await divergence(lm.model, pruned, held)).kld;
    const result = await heal(lm.model, pruned, {
      budget: { steps: 40 },
      ids: train,
      rates: [3e-4],
    });
    const after = (await divergence(lm.model, result.model, held)).kld;
    expect(after).toBeLessThan(0.6 * before);
    // the pruned model itself was left alone
    expect((await divergence(lm.model, pruned, held)).kld).toBe(before);
    result.model.dispose();
  });
});
