// tokenizer.json in the words of llama.cpp's tokenizers (its convert scripts and src/llama-vocab.cpp are the reference).
import type { GgufValue } from '../io/gguf.js';
import type { JsonObject, JsonValue } from '../io/json.js';
import { ConfigError } from '../tensor/errors.js';

const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 };

const object = (v: JsonValue | undefined): JsonObject | null =>
  v !== null && typeof v === 'object' && !Array.isArray(v) ? v : null;

/** The names of all parts of a pre-tokenizer, decoder or normalizer, sequences taken apart. */
function parts(v: JsonValue | undefined): JsonObject[] {
  const o = object(v);
  if (!o) return [];
  for (const key of ['pretokenizers', 'decoders', 'normalizers'])
    if (Array.isArray(o[key])) return o[key].flatMap(parts);
  return [o];
}

function refuse(what: string): never {
  throw new ConfigError(
    `tokenizer.json: ${what}; GGUF export knows byte-level BPE (GPT-2, Llama 3, Qwen 2) and BPE with byte fallback (Llama 2)`,
  );
}

/** Which pre-tokenizer of llama.cpp splits like this one. */
function preTokenizer(tokenizer: JsonObject, family: string, merges: number): string {
  if (merges === 0) return 'gpt-2'; // every split gives the same bytes
  const steps = parts(tokenizer['pre_tokenizer']);
  const last = steps.at(-1);
  if (last?.['type'] !== 'ByteLevel') refuse('the pre-tokenizer is not ByteLevel');
  if (last['add_prefix_space'] === true) refuse('add_prefix_space is set');
  if (steps.length === 1 && last['use_regex'] !== false) return 'gpt-2';
  const names: Record<string, string> = { llama: 'llama-bpe', qwen2: 'qwen2' };
  if (steps.length === 2 && steps[0]!['type'] === 'Split' && names[family]) return names[family];
  return refuse('the pre-tokenizer splits in a way llama.cpp has no name for');
}

/** tokenizer.ggml.* for a vocabulary of `size` ids. */
export function ggufTokenizer(
  tokenizer: JsonObject,
  settings: JsonObject,
  size: number,
  family: string,
): Map<string, GgufValue> {
  const model = object(tokenizer['model']);
  const vocab = object(model?.['vocab']);
  if (!model || model['type'] !== 'BPE' || !vocab) return refuse('the model is not BPE');
  const merges = (Array.isArray(model['merges']) ? model['merges'] : []).map((m) =>
    Array.isArray(m) ? m.join(' ') : String(m),
  );
  const tokens = Array.from({ length: size }, (_, i) => `[PAD${i}]`);
  const types = Array.from({ length: size }, () => kinds.unused);
  for (const [token, id] of Object.entries(vocab))
    if (typeof id === 'number' && id < size) {
      tokens[id] = token;
      types[id] = kinds.normal;
    }
  const added = (Array.isArray(tokenizer['added_tokens']) ? tokenizer['added_tokens'] : []).map(
    object,
  );
  const idOf = new Map<string, number>();
  for (const token of added) {
    const [id, content] = [token?.['id'], token?.['content']];
    if (typeof id !== 'number' || typeof content !== 'string' || id >= size) continue;
    tokens[id] = content;
    types[id] = token!['special'] === true ? kinds.control : kinds.userDefined;
    idOf.set(content, id);
  }
  const out = new Map<string, GgufValue>();
  const put = (key: string, value: GgufValue): void => void out.set(`tokenizer.ggml.${key}`, value);
  const fallback = model['byte_fallback'] === true;
  if (fallback) {
    // SentencePiece: of two neighbours the one whose union has the higher score is merged first
    const rank = new Map(merges.map((m, i) => [m.replace(' ', ''), i]));
    tokens.forEach((token, id) => {
      if (/^<0x[0-9A-F]{2}>$/.test(token)) types[id] = kinds.byte;
    });
    const unknown = model['unk_token'];
    if (typeof unknown === 'string' && typeof vocab[unknown] === 'number')
      types[vocab[unknown]] = kinds.unknown;
    put('model', { string: 'llama' });
    put('scores', { float32s: tokens.map((t) => -(rank.get(t) ?? (t.length > 1 ? 1e9 : 0))) });
  } else {
    put('model', { string: 'gpt2' });
    put('pre', { string: preTokenizer(tokenizer, family, merges.length) });
    put('merges', { strings: merges });
  }
  put('tokens', { strings: tokens });
  put('token_type', { int32s: types });
  for (const [key, name] of [
    ['bos_token', 'bos_token_id'],
    ['eos_token', 'eos_token_id'],
    ['unk_token', 'unknown_token_id'],
    ['pad_token', 'padding_token_id'],
  ] as const) {
    const set = settings[key];
    const content = typeof set === 'string' ? set : object(set)?.['content'];
    const id = typeof content === 'string' ? (idOf.get(content) ?? vocab[content]) : undefined;
    if (typeof id === 'number') put(name, { uint32: id });
  }
  const post = parts(tokenizer['post_processor'])[0];
  const first = Array.isArray(post?.['single']) ? object(post['single'][0]) : null;
  put('add_bos_token', { bool: first !== null && 'SpecialToken' in first });
  put('add_space_prefix', {
    bool: fallback && parts(tokenizer['normalizer']).some((n) => n['type'] === 'Prepend'),
  });
  return out;
}
