// Checkpoints saved by transformers: logits, loss and every gradient.
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LanguageModel, memory, noGrad, synchronize, tensor, tidy } from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { loadModel } from '../../lib/models/registry.js';
import {
  describeWithFixtures,
  expectNoLeak,
  fixture,
  fixtureJson,
  fixtureTensors,
  numbers,
  temporaryFolder,
} from '../harness.js';

async function worst(
  logits: Tensor,
  want: Tensor,
  mask: Tensor | null,
  vocab: number,
): Promise<number> {
  const [a, b, m] = [await numbers(logits), await numbers(want), mask ? await numbers(mask) : null];
  let top = 0;
  a.forEach((v, i) => {
    if (!m || m[Math.floor(i / vocab)] === 1) top = Math.max(top, Math.abs(v - b[i]!));
  });
  return top;
}

describeWithFixtures('trained checkpoints (M02, M10)', () => {
  for (const name of ['gpt2-shakespeare', 'stories260K-llama', 'capp-gpt2']) {
    it(`${name}: logits within 1e-4, alone, right-padded and left-padded, and the loss`, async () => {
      const { model } = await loadModel(fixture(`checkpoints/${name}`));
      const ref = await fixtureTensors(`refs/${name}/reference.safetensors`);
      const get = (key: string): Promise<Tensor> | null => (ref.has(key) ? ref.get(key) : null);
      for (const c of ['single', 'batch_right', 'batch_left']) {
        const mask = await get(`${c}.attention_mask`);
        const out = model.forward({
          inputIds: await ref.get(`${c}.input_ids`),
          attentionMask: mask,
          positionIds: await get(`${c}.position_ids`),
          labels: await get(`${c}.labels`),
        });
        expect(
          await worst(out.logits, await ref.get(`${c}.logits`), mask, model.shape.vocab),
        ).toBeLessThan(1e-4);
        if (out.loss)
          expect(
            Math.abs(
              (await out.loss.item()) -
                (fixtureJson(`refs/${name}/reference.json`)['batch_right_loss'] as number),
            ),
          ).toBeLessThan(1e-5);
      }
      model.dispose();
    });
  }
});

const zoo = [
  'gpt2-base',
  'gpt2-base-sharded',
  'gpt2-ninner-gelu',
  'gpt2-untied',
  'gpt2-scalebylayer',
  'llama-mha-tied',
  'llama-gqa',
  'llama-bias',
  'llama-headdim',
  'llama-rope-linear',
  'llama-rope-llama3',
  'mistral',
  'qwen2',
];

describeWithFixtures('configuration variants (G12)', () => {
  for (const name of zoo) {
    it(`${name}: logits, loss and all gradients`, async () => {
      const { model } = await loadModel(fixture(`checkpoints/zoo-random/${name}`));
      const ref = await fixtureTensors(
        `checkpoints/zoo-random/${name.replace('-sharded', '')}/reference.safetensors`,
      );
      const mask = await ref.get('attention_mask');
      model.requiresGrad();
      const out = model.forward({
        inputIds: await ref.get('input_ids'),
        attentionMask: mask,
        labels: await ref.get('labels'),
      });
      expect(
        await worst(out.logits, await ref.get('f32.logits'), mask, model.shape.vocab),
      ).toBeLessThan(1e-4);
      expect(await out.loss!.item()).toBeCloseTo((await numbers(await ref.get('f32.loss')))[0]!, 5);
      out.loss!.backward();
      let checked = 0;
      for (const [key, p] of model.namedParameters()) {
        const [got, want] = [
          await numbers(p.grad!),
          await numbers(await ref.get(`f32.grad.${key}`)),
        ];
        got.forEach((v, i) => expect(Math.abs(v - want[i]!), key).toBeLessThan(1e-5));
        checked++;
      }
      expect(checked).toBeGreaterThan(19);
      model.dispose();
    });
  }
  it('reads the older spelling of rope settings the same way', async () => {
    const { cpSync, renameSync } = await import('node:fs');
    for (const name of ['llama-rope-llama3', 'llama-rope-linear', 'mistral']) {
      const folder = temporaryFolder('legacy');
      cpSync(fixture(`checkpoints/zoo-random/${name}`), folder, { recursive: true });
      renameSync(join(folder, 'config_legacy.json'), join(folder, 'config.json'));
      const { model } = await loadModel(folder);
      const ref = await fixtureTensors(`checkpoints/zoo-random/${name}/reference.safetensors`);
      const mask = await ref.get('attention_mask');
      const { logits } = model.forward({
        inputIds: await ref.get('input_ids'),
        attentionMask: mask,
      });
      expect(
        await worst(logits, await ref.get('f32.logits'), mask, model.shape.vocab),
      ).toBeLessThan(1e-4);
      model.dispose();
    }
  });
  it('widens bfloat16 weights: logits as from the rounded weights', async () => {
    const { model } = await loadModel(fixture('checkpoints/zoo-random/llama-gqa-bf16'));
    const { model: full } = await loadModel(fixture('checkpoints/zoo-random/llama-gqa'));
    const inputIds = tensor([[5, 6, 7, 8]], { dtype: 'int32' });
    const want = new Map(full.namedParameters());
    for (const [name, p] of model.namedParameters()) {
      const rounded = await numbers(want.get(name)!.cast('bfloat16').cast('float32'));
      expect(await numbers(p)).toEqual(rounded);
    }
    expect(model.forward({ inputIds }).logits.dtype).toBe('float32');
  });
});

describeWithFixtures('properties', () => {
  it('[X19] changing a token leaves the logits before it bit-equal', async () => {
    const { model } = await loadModel(fixture('checkpoints/gpt2-shakespeare'));
    const ids = Array.from({ length: 20 }, (_, i) => 10 + i);
    const logits = async (v: number[]): Promise<Float64Array> =>
      numbers(model.forward({ inputIds: tensor([v], { dtype: 'int32' }) }).logits);
    const [a, b] = [await logits(ids), await logits(ids.map((v, i) => (i === 12 ? 999 : v)))];
    expect(a.slice(0, 12 * 1024)).toEqual(b.slice(0, 12 * 1024));
    expect(a.slice(12 * 1024)).not.toEqual(b.slice(12 * 1024));
  });
  it('10000 forward and 1000 backward passes leave exactly what the first left', async () => {
    const { model } = await loadModel(fixture('checkpoints/zoo-random/gpt2-base'));
    const inputIds = tensor([[1, 2, 3, 4]], { dtype: 'int32' });
    const pass = (): void => tidy(() => noGrad(() => void model.forward({ inputIds })));
    pass();
    await expectNoLeak(async () => {
      for (let i = 0; i < 10_000; i++) {
        pass();
        if (i % 1000 === 999) await synchronize();
      }
    });
    model.requiresGrad();
    const train = (): void =>
      tidy(() => model.forward({ inputIds, labels: inputIds }).loss!.backward());
    train();
    await expectNoLeak(async () => {
      for (let i = 0; i < 1000; i++) {
        train();
        if (i % 100 === 99) await synchronize();
      }
    });
    model.dispose();
  });
  it('a disposed model gives everything back', async () => {
    await expectNoLeak(async () => {
      const lm = await LanguageModel.fromPretrained(fixture('checkpoints/stories260K-llama'));
      await lm.generate('Once', { maxNewTokens: 3 });
      lm.dispose();
    });
    expect(memory().limitBytes).toBeGreaterThan(0);
  });
});

describeWithFixtures('[E05] perplexity', () => {
  for (const [name, context] of [
    ['gpt2-shakespeare', 128],
    ['stories260K-llama', 256],
  ] as const)
    it(`${name}: within 0.1 % of the reference`, async () => {
      const lm = await LanguageModel.fromPretrained(fixture(`checkpoints/${name}`));
      const want = (
        fixtureJson(`refs/${name}/reference.json`)['perplexity'] as {
          non_overlapping: { ppl: number; tokens_scored: number };
        }
      ).non_overlapping;
      const got = await lm.perplexity(readFileSync(fixture(`refs/${name}/ppl_text.txt`), 'utf8'), {
        context,
      });
      expect(got.tokens).toBe(want.tokens_scored);
      expect(Math.abs(got.perplexity / want.ppl - 1)).toBeLessThan(1e-3);
      lm.dispose();
    });
  for (const name of ['gpt2-shakespeare', 'stories260K-llama'])
    it(`${name} stored in bfloat16: half the bytes, perplexity within 0.5 %, saved and loaded as such`, async () => {
      const text = readFileSync(fixture(`refs/${name}/ppl_text.txt`), 'utf8').slice(0, 6000);
      using full = await LanguageModel.fromPretrained(fixture(`checkpoints/${name}`));
      const bytes = (m: LanguageModel): number =>
        m.model.parameters().reduce((n, p) => n + p.storage.bytes, 0);
      const before = memory().bytes;
      const half = await LanguageModel.fromPretrained(fixture(`checkpoints/${name}`), {
        dtype: 'bfloat16',
      });
      const want = (await full.perplexity(text, { context: 128 })).perplexity;
      // as loaded: parameters() takes packed weights back to their own form, whose sums have another order
      const got = (await half.perplexity(text, { context: 128 })).perplexity;
      expect(bytes(half)).toBeLessThan(0.6 * bytes(full));
      expect(Math.abs(got / want - 1)).toBeLessThan(5e-3);
      const out = join(temporaryFolder('bf16'), 'model');
      await half.save(out);
      expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))).toMatchObject({
        dtype: 'bfloat16',
      });
      expect(statSync(join(out, 'model.safetensors')).size).toBeLessThan(0.6 * bytes(full));
      using again = await LanguageModel.fromPretrained(out, { dtype: 'bfloat16' });
      expect((await again.perplexity(text, { context: 128 })).perplexity).toBe(got);
      expect(() => half.model.requiresGrad()).toThrow(/bfloat16 weights, which are for inference/);
      half.dispose();
      expect(memory().bytes).toBeLessThanOrEqual(before + bytes(again) + 65536); // and tables of angles
    });
});
