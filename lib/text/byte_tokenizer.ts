// Tokenizers that need no training: a token per byte, as a tokenizer.json that other libraries load too (byte-level BPE without
// merges).
import type { JsonObject } from '../io/json.js';
import { Tokenizer } from './tokenizer.js';

/** The printable stand-ins that byte-level BPE uses for the 256 bytes (as GPT-2's tokenizer defines them). */
function byteAlphabet(): string[] {
  const printable = (b: number): boolean =>
    (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  let extra = 0;
  return Array.from({ length: 256 }, (_, b) =>
    String.fromCodePoint(printable(b) ? b : 256 + extra++),
  );
}

export const endOfText = '<|endoftext|>';

/**
 * One token per byte. With `text`, only the bytes that occur in it: a character-level vocabulary for plain ASCII; other bytes are
 * then lost when encoding. With `eos`, an end-of-text token at id 0.
 */
export function byteTokenizer(options: { text?: string; eos?: boolean } = {}): Tokenizer {
  const alphabet = byteAlphabet();
  const eos = options.eos ?? true;
  const used =
    options.text === undefined
      ? alphabet.map((_, b) => b)
      : [...new Set(new TextEncoder().encode(options.text))].toSorted((a, b) => a - b);
  const tokens = [...(eos ? [endOfText] : []), ...used.map((b) => alphabet[b]!)];
  const file: JsonObject = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: eos
      ? [
          {
            id: 0,
            content: endOfText,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
          },
        ]
      : [],
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
      vocab: Object.fromEntries(tokens.map((t, i) => [t, i])),
      merges: [],
    },
  };
  return Tokenizer.fromJson(file, eos ? { eos_token: endOfText, bos_token: endOfText } : {});
}
