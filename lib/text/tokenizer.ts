// Text to token ids and back, from a tokenizer.json, through @huggingface/tokenizers. The only file that imports it.
// Files come from strangers: their structure and patterns are checked before the library sees them.
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { join } from 'node:path';
import { stat } from 'node:fs/promises';
import { readBytes, readJsonObject } from '../io/json.js';
import type { JsonObject, JsonValue } from '../io/json.js';
import { FileError, OptionError } from '../tensor/errors.js';

const maxVocabulary = 1 << 21;

/** Patterns published with GPT-2, Llama 3, Qwen and their relatives; compared as text. */
const knownPatterns = new Set([
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
]);

const knownTypes = new Set([
  // normalizers
  'NFD',
  'NFKC',
  'NFC',
  'NFKD',
  'Lowercase',
  'Strip',
  'StripAccents',
  'Replace',
  'BertNormalizer',
  'Precompiled',
  'Sequence',
  'Prepend',
  // pre-tokenizers
  'BertPreTokenizer',
  'ByteLevel',
  'Whitespace',
  'WhitespaceSplit',
  'Metaspace',
  'CharDelimiterSplit',
  'Split',
  'Punctuation',
  'Digits',
  'FixedLength',
  // models
  'BPE',
  'WordPiece',
  'Unigram',
  'WordLevel',
  // post-processors and decoders
  'TemplateProcessing',
  'RobertaProcessing',
  'BertProcessing',
  'ByteFallback',
  'Fuse',
  'CTC',
  'BPEDecoder',
]);

function refuse(what: string): never {
  throw new FileError('ERR_FILE_FORMAT', `tokenizer.json: ${what}`);
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return (
    value !== null && value !== undefined && typeof value === 'object' && !Array.isArray(value)
  );
}

/**
 * A pattern that cannot take exponential time on a backtracking engine: no repetition of something that itself
 * repeats, no back-reference, no huge counted repeat.
 */
function isTame(pattern: string): boolean {
  if (pattern.length > 2000 || /\\[1-9]|\\k</.test(pattern)) return false;
  for (const match of pattern.matchAll(/\{(\d+)(?:,(\d*))?\}/g))
    if (Number(match[1]) > 1000 || Number(match[2] ?? 0) > 1000) return false;
  const repeats: boolean[] = [false];
  let inClass = false;
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i]!;
    if (c === '\\') {
      i++;
      continue;
    }
    if (inClass) {
      inClass = c !== ']';
      continue;
    }
    if (c === '[') inClass = true;
    else if (c === '(') repeats.push(false);
    else if (c === ')') {
      const inner = repeats.pop() ?? false;
      const next = pattern[i + 1];
      if (inner && (next === '+' || next === '*' || next === '{')) return false;
      if (inner) repeats[repeats.length - 1] = true;
    } else if (c === '+' || c === '*' || c === '{') repeats[repeats.length - 1] = true;
  }
  return true;
}

/** Component types are known, nesting and counts are bounded, patterns are known or tame. */
function checkComponent(value: JsonValue | undefined, depth = 0): void {
  if (value === null || value === undefined) return;
  if (!isObject(value)) refuse('a component must be an object');
  if (depth > 8) refuse('components are nested too deeply');
  const { type } = value;
  if (typeof type === 'string' && !knownTypes.has(type))
    refuse(`unknown component type ${JSON.stringify(type.slice(0, 60))}`);
  const pattern = isObject(value['pattern']) ? value['pattern']['Regex'] : undefined;
  if (typeof pattern === 'string' && !knownPatterns.has(pattern) && !isTame(pattern))
    refuse(
      `the pattern ${JSON.stringify(pattern.slice(0, 60))} could take unbounded time and is refused`,
    );
  for (const key of ['normalizers', 'pretokenizers', 'processors', 'decoders']) {
    const list = value[key];
    if (!Array.isArray(list)) continue;
    if (list.length > 64) refuse(`more than 64 components in ${key}`);
    for (const item of list) checkComponent(item, depth + 1);
  }
}

function checkId(id: JsonValue | undefined, token: string): number {
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= maxVocabulary)
    refuse(
      `token ${JSON.stringify(token.slice(0, 60))} has id ${JSON.stringify(id)}; expected an integer from 0 to ${maxVocabulary - 1}`,
    );
  return id;
}

/** Ids are unique integers; merges and their results are in the vocabulary; added tokens agree. Returns the id table. */
function checkVocabulary(file: JsonObject): Map<number, string> {
  const { model } = file;
  if (!isObject(model)) refuse('model is missing');
  const tokens = new Map<string, number>();
  const byId = new Map<number, string>();
  const put = (token: string, id: number): void => {
    const other = byId.get(id);
    if (other !== undefined && other !== token)
      refuse(
        `id ${id} belongs to both ${JSON.stringify(other.slice(0, 60))} and ${JSON.stringify(token.slice(0, 60))}`,
      );
    tokens.set(token, id);
    byId.set(id, token);
  };
  const { vocab } = model;
  if (Array.isArray(vocab)) {
    if (vocab.length > maxVocabulary) refuse('the vocabulary is too large');
    vocab.forEach((entry, id) => {
      if (!Array.isArray(entry) || typeof entry[0] !== 'string')
        refuse('a vocabulary entry must be [token, score]');
      put(entry[0], id);
    });
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) put(token, checkId(id, token));
  } else {
    refuse('model.vocab is missing');
  }
  const { merges } = model;
  if (merges !== undefined && !Array.isArray(merges)) refuse('model.merges must be an array');
  const prefix =
    typeof model['continuing_subword_prefix'] === 'string'
      ? model['continuing_subword_prefix']
      : '';
  for (const merge of merges ?? []) {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    if (
      !Array.isArray(pair) ||
      pair.length !== 2 ||
      typeof pair[0] !== 'string' ||
      typeof pair[1] !== 'string'
    )
      refuse(`a merge must name two tokens, got ${JSON.stringify(merge).slice(0, 60)}`);
    const [left, right] = pair as [string, string];
    const joined = left + (prefix && right.startsWith(prefix) ? right.slice(prefix.length) : right);
    if (!tokens.has(left) || !tokens.has(right) || !tokens.has(joined))
      refuse(
        `the merge ${JSON.stringify(`${left} ${right}`.slice(0, 60))} uses tokens that are not in the vocabulary`,
      );
  }
  const added = file['added_tokens'];
  if (added !== undefined && added !== null && !Array.isArray(added))
    refuse('added_tokens must be an array');
  if ((added?.length ?? 0) > 100_000) refuse('more than 100000 added tokens');
  for (const token of added ?? []) {
    if (!isObject(token) || typeof token['content'] !== 'string')
      refuse('an added token needs content and id');
    const id = checkId(token['id'], token['content']);
    const known = tokens.get(token['content']);
    if (known !== undefined && known !== id)
      refuse(
        `added token ${JSON.stringify(token['content'].slice(0, 60))} has id ${id}, the vocabulary says ${known}`,
      );
    put(token['content'], id);
  }
  return byId;
}

/** A word-level vocabulary as WordPiece whose continuation prefix nothing has: the same result, word by word. */
function supported(file: JsonObject): JsonObject {
  const model = file['model'] as JsonObject;
  if (model['type'] !== 'WordLevel') return file;
  return {
    ...file,
    model: {
      ...model,
      type: 'WordPiece',
      continuing_subword_prefix: '\u0000',
      max_input_chars_per_word: 1_000_000,
    },
  };
}

export interface EncodeOptions {
  /** Add what the tokenizer's template adds (such as a beginning-of-text token). Default true. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out. Default true. */
  skipSpecialTokens?: boolean;
}

/** Encodes text to token ids and decodes them, as Hugging Face tokenizers does from the same file. */
export class Tokenizer {
  readonly #library: Library;
  readonly #byId: ReadonlyMap<number, string>;
  readonly #joinWords: boolean;
  readonly #cleanUp: boolean;
  readonly #specialIds: ReadonlySet<number>;
  readonly #splitsAtLines: boolean;
  /** The files it came from, to be written beside a saved model. */
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  #padToken: string | null;

  private constructor(file: JsonObject, config: JsonObject, files: Map<string, Uint8Array>) {
    this.#byId = checkVocabulary(file);
    for (const part of ['normalizer', 'pre_tokenizer', 'model', 'post_processor', 'decoder'])
      checkComponent(file[part]);
    this.#joinWords = file['decoder'] === null || file['decoder'] === undefined;
    this.#cleanUp = config['clean_up_tokenization_spaces'] === true;
    this.#specialIds = new Set(
      ((file['added_tokens'] ?? []) as JsonObject[])
        .filter((t) => t['special'] === true)
        .map((t) => t['id'] as number),
    );
    const splitter = isObject(file['pre_tokenizer']) ? file['pre_tokenizer'] : {};
    this.#splitsAtLines =
      splitter['type'] === 'ByteLevel' &&
      splitter['add_prefix_space'] !== true &&
      (file['normalizer'] ?? null) === null;
    this.#library = new Library(supported(file), config);
    this.files = files;
    const special = (key: string): string | null => {
      const value = config[key];
      const text = isObject(value) ? value['content'] : value;
      return typeof text === 'string' ? text : null;
    };
    const idOf = (token: string | null): number | null =>
      token === null ? null : (this.tokenToId(token) ?? null);
    this.bosTokenId = idOf(special('bos_token'));
    this.eosTokenId = idOf(special('eos_token'));
    this.#padToken = special('pad_token');
  }

  /** From a folder with tokenizer.json and, optionally, tokenizer_config.json. */
  static async fromPretrained(folder: string): Promise<Tokenizer> {
    const path = join(folder, 'tokenizer.json');
    const file = await readJsonObject(path);
    const files = new Map([['tokenizer.json', await readBytes(path)]]);
    let config: JsonObject = {};
    const configPath = join(folder, 'tokenizer_config.json');
    if (await stat(configPath).catch(() => null)) {
      config = await readJsonObject(configPath);
      files.set('tokenizer_config.json', await readBytes(configPath));
    }
    return Tokenizer.fromJson(file, config, files);
  }

  /** From parsed tokenizer.json and tokenizer_config.json values. */
  static fromJson(
    file: JsonObject,
    config: JsonObject = {},
    files: Map<string, Uint8Array> = new Map(),
  ): Tokenizer {
    if (!files.has('tokenizer.json'))
      files.set('tokenizer.json', new TextEncoder().encode(JSON.stringify(file)));
    if (!files.has('tokenizer_config.json'))
      files.set('tokenizer_config.json', new TextEncoder().encode(JSON.stringify(config)));
    try {
      return new Tokenizer(file, config, files);
    } catch (error) {
      if (error instanceof FileError) throw error;
      throw new FileError(
        'ERR_FILE_FORMAT',
        `tokenizer.json: ${(error as Error).message.slice(0, 200)}`,
        { cause: error },
      );
    }
  }

  /** Whether a text may be cut after a line whose last and next characters are no spaces, and encoded in parts. */
  get splitsAtLines(): boolean {
    return this.#splitsAtLines;
  }

  /** One more than the largest id. */
  get vocabSize(): number {
    let top = -1;
    for (const id of this.#byId.keys()) if (id > top) top = id;
    return top + 1;
  }

  get padToken(): string | null {
    return this.#padToken;
  }
  set padToken(token: string | null) {
    if (token !== null && this.tokenToId(token) === undefined)
      throw new OptionError(`padToken: ${JSON.stringify(token)} is not in the vocabulary`);
    this.#padToken = token;
  }

  get eosToken(): string | null {
    return this.eosTokenId === null ? null : (this.#byId.get(this.eosTokenId) ?? null);
  }

  get padTokenId(): number | null {
    return this.#padToken === null ? null : (this.tokenToId(this.#padToken) ?? null);
  }

  tokenToId(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  isSpecial(id: number): boolean {
    return this.#specialIds.has(id);
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    if (typeof text !== 'string')
      throw new TypeError(`encode: expected a string, got ${typeof text}`);
    return this.#library.encode(text, { add_special_tokens: options.addSpecialTokens ?? true }).ids;
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? true;
    for (const id of ids)
      if (!this.#byId.has(id))
        throw new OptionError(
          `decode: id ${id} is not in the vocabulary of ${this.vocabSize} tokens`,
        );
    if (this.#joinWords)
      return ids
        .filter((id) => !(skip && this.isSpecial(id)))
        .map((id) => this.#byId.get(id)!)
        .join(' ');
    if (ids.length === 0) return '';
    // the library would tidy up spaces by default: decoding must give back what was encoded
    return this.#library.decode([...ids], {
      skip_special_tokens: skip,
      clean_up_tokenization_spaces: this.#cleanUp,
    });
  }

  /**
   * Several texts as one rectangle of ids, padded on the chosen side, with a mask of 1 for real tokens.
   * Needs a pad token.
   */
  encodeBatch(
    texts: readonly string[],
    options: EncodeOptions & { paddingSide?: 'left' | 'right' } = {},
  ): { inputIds: number[][]; attentionMask: number[][] } {
    const rows = texts.map((t) => this.encode(t, options));
    const width = Math.max(0, ...rows.map((r) => r.length));
    const pad = this.padTokenId;
    if (pad === null && rows.some((r) => r.length !== width))
      throw new OptionError(
        'encodeBatch: this tokenizer has no pad token; set one, for example tokenizer.padToken = tokenizer.eosToken',
      );
    const left = options.paddingSide === 'left';
    const fill = (n: number, value: number): number[] =>
      Array.from<number>({ length: n }).fill(value);
    return {
      inputIds: rows.map((r) =>
        left
          ? [...fill(width - r.length, pad ?? 0), ...r]
          : [...r, ...fill(width - r.length, pad ?? 0)],
      ),
      attentionMask: rows.map((r) =>
        left
          ? [...fill(width - r.length, 0), ...fill(r.length, 1)]
          : [...fill(r.length, 1), ...fill(width - r.length, 0)],
      ),
    };
  }
}
