import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { LanguageModel } from '../../lib/index.js';
import {
  makeSampler,
  penalise,
  probabilities,
  process as processLogits,
} from '../../lib/generate/sampler.js';
import { TextStream } from '../../lib/generate/text_stream.js';
import type { Tokenizer } from '../../lib/index.js';
import {
  describeWithFixtures,
  expectClose,
  expectNoLeak,
  fixture,
  fixtureJson,
  fixtureTensors,
  numbers,
} from '../harness.js';

interface Reference {
  generation: {
    prompt: string;
    prompt_ids: number[];
    greedy: { ids: number[][]; text: string[] };
    greedy_rep13?: { ids: number[][] };
  }[];
  generation_settings: { max_new_tokens: number };
  batch_generation_left_padded?: {
    input_ids: number[][];
    attention_mask: number[][];
    new_ids: number[][];
    text: string[];
  };
}

describeWithFixtures('greedy text (A03)', () => {
  for (const name of ['gpt2-shakespeare', 'stories260K-llama', 'capp-gpt2'])
    it(`${name}: ids and text equal the reference, one by one, with penalty, and in a ragged batch`, async () => {
      const lm = await LanguageModel.fromPretrained(fixture(`checkpoints/${name}`));
      const ref = fixtureJson(`refs/${name}/reference.json`) as unknown as Reference;
      const maxNewTokens = ref.generation_settings.max_new_tokens;
      for (const g of ref.generation) {
        const r = await lm.generate(g.prompt, { maxNewTokens, greedy: true });
        expect(r.promptTokens).toEqual(g.prompt_ids);
        expect(r.tokens).toEqual(g.greedy.ids[0]);
        expect(r.text).toBe(g.greedy.text[0]);
        const pieces: string[] = [];
        for await (const piece of lm.stream(g.prompt, { maxNewTokens, greedy: true }))
          pieces.push(piece);
        expect(pieces.join('')).toBe(r.newText);
        if (g.greedy_rep13)
          expect(
            (await lm.generate(g.prompt, { maxNewTokens, greedy: true, repetitionPenalty: 1.3 }))
              .tokens,
          ).toEqual(g.greedy_rep13.ids[0]);
      }
      const batch = await lm.generateBatch(
        ref.generation.map((g) => g.prompt),
        { maxNewTokens, greedy: true },
      );
      batch.forEach((r, i) => expect(r.tokens).toEqual(ref.generation[i]!.greedy.ids[0]));
      lm.dispose();
    });
  it("reproduces llama2.c's 200 greedy steps from the beginning-of-text token", async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/stories260K-llama'));
    const r = await lm.generate('', { maxNewTokens: 200, greedy: true });
    expect(r.text).toBe(
      readFileSync(fixture('refs/stories260K-llama/llama2c_expected_greedy_200.txt'), 'utf8'),
    );
  });
});

describeWithFixtures('generation', () => {
  it('samples the same text for the same seed and other text for another', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    const options = { maxNewTokens: 30, temperature: 0.9, topK: 50, topP: 0.95, minP: 0.01 };
    const a = await lm.generate('ROMEO:\n', { ...options, seed: 7 });
    const b = await lm.generate('ROMEO:\n', { ...options, seed: 7 });
    const c = await lm.generate('ROMEO:\n', { ...options, seed: 8 });
    expect(a.tokens).toEqual(b.tokens);
    expect(a.tokens).not.toEqual(c.tokens);
  });
  it('stops before a stop string, also when it spans pieces, and never shows it', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    const whole = await lm.generate('ROMEO:\n', { maxNewTokens: 40, greedy: true });
    const pieces: string[] = [];
    const stream = lm.stream('ROMEO:\n', {
      maxNewTokens: 40,
      greedy: true,
      stop: ['PAULINA', 'and I'],
    });
    for (;;) {
      const next = await stream.next();
      if (next.done) {
        expect(next.value.finishReason).toBe('stop');
        break;
      }
      pieces.push(next.value);
    }
    expect(pieces.join('')).toBe(whole.newText.slice(0, whole.newText.indexOf('and I')));
  });
  it('is ended by an AbortSignal and gives everything back', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/stories260K-llama'));
    await lm.generate('One', { maxNewTokens: 2 });
    await expectNoLeak(async () => {
      const stop = new AbortController();
      let pieces = 0;
      await expect(
        (async () => {
          for await (const _ of lm.stream('Once upon a time', {
            maxNewTokens: 200,
            signal: stop.signal,
          }))
            if (++pieces === 5) stop.abort(new Error('enough'));
        })(),
      ).rejects.toThrow('enough');
      expect(pieces).toBe(5);
    });
    await expectNoLeak(async () => {
      for await (const _ of lm.stream('Once', { maxNewTokens: 50 })) break;
    });
  });
  it('ends at the context and explains prompts beyond it', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    const long = 'My lord, '.repeat(28);
    const n = lm.tokenizer.encode(long).length;
    expect(n).toBeGreaterThan(80);
    const r = await lm.generate(long, { maxNewTokens: 100, greedy: true });
    expect(r.finishReason).toBe('context');
    expect(n + r.tokens.length).toBe(129);
    await expect(lm.generate('My lord, '.repeat(100), { maxNewTokens: 5 })).rejects.toThrow(
      /the prompt has \d+ tokens, the model's context is 128/,
    );
  });
  it('[X16] counts the prompt in maxLength and not in maxNewTokens', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/stories260K-llama'));
    const r = await lm.generate('Once upon a time', { maxLength: 12, greedy: true });
    expect(r.promptTokens.length + r.tokens.length).toBe(12);
    await expect(lm.generate('Once upon a time', { maxLength: 3 })).rejects.toThrow(
      /maxLength counts the prompt/,
    );
  });
  it('an int8 cache gives the same greedy text, alone and in a ragged batch (G14)', async () => {
    using lm = await LanguageModel.fromPretrained(fixture('checkpoints/stories260K-llama'));
    const prompts = ['Once upon a time', 'The dog'];
    const options = { maxNewTokens: 40, greedy: true } as const;
    const want = await lm.generateBatch(prompts, options);
    const got = await lm.generateBatch(prompts, { ...options, cacheDtype: 'int8' });
    expect(got.map((g) => g.tokens)).toEqual(want.map((g) => g.tokens));
    const one = await lm.generate(prompts[1]!, { ...options, cacheDtype: 'int8' });
    expect(one.tokens).toEqual(want[1]!.tokens);
    await expect(lm.generate('The', { cacheDtype: 'int4' as 'int8' })).rejects.toThrow(/dtype/);
  });
  it('refuses contradictory and unknown options', async () => {
    const lm = await LanguageModel.fromPretrained(fixture('checkpoints/capp-gpt2'));
    for (const [options, message] of [
      [{ greedy: true, topK: 3 }, /greedy excludes topK/],
      [{ topK: 0 }, /topK must be an integer from 1/],
      [{ topP: 2 }, /topP must be a number from 0 to 1/],
      [{ temperature: 0 }, /temperature/],
      [{ maxNewTokens: -1 }, /maxNewTokens must be an integer from 0/],
      [{ topk: 3 }, /unknown option "topk"/],
      [{ maxNewTokens: 3, maxLength: 9 }, /not both/],
    ] as const)
      await expect(lm.generate('<SOS>', options as object)).rejects.toThrow(message);
    await expect(lm.generate('')).rejects.toThrow(/a prompt without tokens/);
  });
});

describeWithFixtures('logit processors against transformers', () => {
  for (const [name, options] of [
    ['logits_temperature', { temperature: 0.7 }],
    ['logits_top_k', { topK: 5 }],
    ['logits_top_p', { topP: 0.8 }],
    ['logits_min_p', { minP: 0.1 }],
    ['logits_repetition_penalty', {}],
  ] as const)
    it(name, async () => {
      const file = await fixtureTensors('ops/ops.safetensors');
      const scores = await file.get('logits|in.scores');
      const seen = await numbers(await file.get('logits|in.input_ids'));
      const [rows, vocab] = scores.shape as [number, number];
      const width = seen.length / rows;
      const input = (await scores.data()) as Float32Array;
      const want = await numbers(await file.get(`${name}|f32.scores`));
      for (let r = 0; r < rows; r++) {
        const row = input.slice(r * vocab, (r + 1) * vocab);
        if (name === 'logits_repetition_penalty')
          penalise(row, [...seen.subarray(r * width, (r + 1) * width)], 1.3);
        else processLogits(row, options);
        expectClose(row, want.slice(r * vocab, (r + 1) * vocab), { rtol: 1e-6, atol: 1e-6 }, name);
      }
    });
});

describe('sampler', () => {
  it('draws tokens as often as their probability says', () => {
    const logits = Float32Array.from([0, 1, 2, -1]);
    const p = probabilities(logits);
    const sampler = makeSampler({ temperature: 1, seed: 5 });
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 20_000; i++) counts[sampler.next(Float32Array.from(logits), [])]!++;
    counts.forEach((c, i) => expect(Math.abs(c / 20_000 - p[i]!)).toBeLessThan(0.012));
  });
  it.each([{ greedy: true }, { temperature: 1, seed: 1 }, { topP: 0.9, seed: 1 }])(
    'refuses logits that are no numbers (%o)',
    (options) => {
      const sampler = makeSampler(options);
      expect(() => sampler.next(Float32Array.from([1, 2, NaN]), [])).toThrow(
        /gave NaN for token 2/,
      );
      expect(() => sampler.next(Float32Array.from([Infinity, 2]), [])).toThrow(/gave Infinity/);
      // masked tokens are none of that
      expect(sampler.next(Float32Array.from([-Infinity, 2]), [])).toBe(1);
    },
  );
});

describe('text stream', () => {
  // one token per byte, as byte-level tokenizers fall back to
  const bytes = (ids: readonly number[]): string => new TextDecoder().decode(Uint8Array.from(ids));
  const tokenizer = { decode: bytes } as unknown as Tokenizer;
  it('[X16] never emits part of a character', () => {
    const text = '大规模语言模型的应用 é 👩‍👩‍👧 end';
    const stream = new TextStream(tokenizer, [...new TextEncoder().encode('prompt ')]);
    const pieces = [...new TextEncoder().encode(text)].map((b) => stream.push(b));
    pieces.push(stream.finish());
    expect(pieces.some((p) => p.includes('\uFFFD'))).toBe(false);
    expect(pieces.join('')).toBe(text);
  });
  it('drops an unfinished character at the end', () => {
    const stream = new TextStream(tokenizer, []);
    const out =
      [...new TextEncoder().encode('ab大')]
        .slice(0, 4)
        .map((b) => stream.push(b))
        .join('') + stream.finish();
    expect(out).toBe('ab');
  });
  it('holds back what may become a stop string', () => {
    const stream = new TextStream(tokenizer, [], ['###', 'END']);
    const out = [...'a##b#EN.END tail'].map((c) => stream.push(c.charCodeAt(0)));
    expect(out.join('')).toBe('a##b#EN.');
    expect(stream.stoppedBy).toBe('END');
    expect(stream.finish()).toBe('');
  });
});
