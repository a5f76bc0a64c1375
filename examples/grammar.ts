// A small artificial language, so that the demo needs no data: sentences from a grammar with agreement, by a seeded
// generator.
import type { JsonObject } from '../lib/io/json.js';

const people = [
  'the sailor',
  'a child',
  'my sister',
  'the old king',
  'a quiet baker',
  'the gardener',
];
const things = [
  'a lantern',
  'the red boat',
  'some bread',
  'a letter',
  'the garden gate',
  'three apples',
];
const places = [
  'by the river',
  'in the market',
  'under the tree',
  'at the harbour',
  'near the mill',
];
const verbs: [now: string, past: string][] = [
  ['carries', 'carried'],
  ['finds', 'found'],
  ['paints', 'painted'],
  ['sells', 'sold'],
  ['hides', 'hid'],
  ['wants', 'wanted'],
];
const feelings = ['happy', 'tired', 'proud', 'hungry', 'calm'];

/** `count` sentences, one per line. */
export function sentences(count: number, seed: number): string {
  let state = seed >>> 0;
  const pick = <T>(list: readonly T[]): T => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return list[Math.floor((state / 2 ** 32) * list.length)]!;
  };
  const lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const who = pick(people);
    const [now, past] = pick(verbs);
    const sentence = pick([
      () => `${who} ${now} ${pick(things)} ${pick(places)}.`,
      () => `yesterday ${who} ${past} ${pick(things)}, and today ${who} is ${pick(feelings)}.`,
      () => `when ${who} is ${pick(feelings)}, ${who} ${now} ${pick(things)}.`,
      () => `${pick(places)}, ${who} ${past} ${pick(things)}.`,
    ])();
    lines.push(sentence[0]!.toUpperCase() + sentence.slice(1));
  }
  return `${lines.join('\n')}\n`;
}

/** A tokenizer.json with one token per byte that the text uses: byte-level BPE without merges. */
export function byteTokenizer(text: string): JsonObject {
  // the printable stand-ins of GPT-2's byte-level alphabet, for the bytes that occur here
  const stand = (c: string): string => (c === ' ' ? 'Ġ' : c === '\n' ? 'Ċ' : c);
  const characters = [...new Set(text)].toSorted().map(stand);
  const vocab = Object.fromEntries(['<|endoftext|>', ...characters].map((c, i) => [c, i]));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [
      {
        id: 0,
        content: '<|endoftext|>',
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      },
    ],
    normalizer: null,
    pre_tokenizer: {
      type: 'ByteLevel',
      add_prefix_space: false,
      trim_offsets: true,
      use_regex: true,
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: [],
    },
  };
}
