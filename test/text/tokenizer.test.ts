// Ids and decoded text against the Hugging Face tokenizers library.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { Tokenizer } from '../../lib/index.js';
import { describeWithFixtures, fixture, fixtureJson } from '../harness.js';

interface Reference {
  single: {
    text: string;
    ids: number[];
    ids_no_special: number[];
    decoded: string;
    decoded_keep: string;
  }[];
}

describeWithFixtures('tokenizers (G13)', () => {
  for (const [ref, folder] of [
    ['gpt2', 'tokenizers/gpt2'],
    ['gpt2-shakespeare', 'checkpoints/gpt2-shakespeare'],
    ['stories260K', 'checkpoints/stories260K-llama'],
  ] as const)
    it(`${ref}: ids and text equal the reference on every string`, async () => {
      const tokenizer = await Tokenizer.fromPretrained(fixture(folder));
      const reference = fixtureJson(`refs/tokenizers/${ref}.json`) as unknown as Reference;
      expect(reference.single.length).toBeGreaterThan(20);
      for (const r of reference.single) {
        expect(tokenizer.encode(r.text), r.text).toEqual(r.ids);
        expect(tokenizer.encode(r.text, { addSpecialTokens: false }), r.text).toEqual(
          r.ids_no_special,
        );
        expect(tokenizer.decode(r.ids), r.text).toBe(r.decoded);
      }
    });
  it('[X13] byte-level decoding returns the text exactly', async () => {
    const tokenizer = await Tokenizer.fromPretrained(fixture('checkpoints/gpt2-shakespeare'));
    for (const text of [
      "don't  stop…\n\n 大规模 é 👩‍👩‍👧",
      readFileSync(fixture('refs/gpt2-shakespeare/ppl_text.txt'), 'utf8'),
    ])
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text);
  });
});
