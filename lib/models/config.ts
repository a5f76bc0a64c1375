// Reading config.json: only the fields a family's table names, by own key, each with a type and a range. Unknown fields
// are kept for saving and otherwise ignored.
import { ConfigError } from '../tensor/errors.js';
import type { JsonObject, JsonValue } from '../io/json.js';
import type { Activation } from '../ops/linear_end.js';

export class ConfigReader {
  readonly #values: JsonObject;
  readonly #family: string;

  constructor(values: JsonObject, family: string) {
    this.#values = values;
    this.#family = family;
  }

  raw(key: string): JsonValue | undefined {
    return Object.hasOwn(this.#values, key) ? this.#values[key] : undefined;
  }

  #fail(key: string, expected: string): never {
    const value = this.raw(key);
    const got = value === undefined ? 'nothing' : JSON.stringify(value).slice(0, 60);
    throw new ConfigError(`config.json (${this.#family}): ${key} must be ${expected}, got ${got}`);
  }

  /** An integer in [low, high]; `1e3` and `16.0` are integers. */
  int(key: string, low: number = 1, high: number = 2 ** 31 - 1): number {
    const value = this.raw(key);
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < low || value > high)
      this.#fail(key, `an integer from ${low} to ${high}`);
    return value;
  }

  /** `int`, or null when the key is absent or null. */
  optionalInt(key: string, low: number = 1, high: number = 2 ** 31 - 1): number | null {
    const value = this.raw(key);
    return value === undefined || value === null ? null : this.int(key, low, high);
  }

  /** A finite number in (low, high). */
  float(key: string, fallback: number, low: number = 0, high: number = Infinity): number {
    const value = this.raw(key);
    if (value === undefined || value === null) return fallback;
    if (typeof value !== 'number' || !(value > low && value < high))
      this.#fail(key, `a number above ${low}`);
    return value;
  }

  /** A number in [0, 1). */
  probability(key: string, fallback: number): number {
    const value = this.raw(key);
    if (value === undefined || value === null) return fallback;
    if (typeof value !== 'number' || !(value >= 0 && value < 1))
      this.#fail(key, 'a number from 0 up to, but not including, 1');
    return value;
  }

  bool(key: string, fallback: boolean): boolean {
    const value = this.raw(key);
    if (value === undefined || value === null) return fallback;
    if (typeof value !== 'boolean') this.#fail(key, 'true or false');
    return value;
  }

  activation(key: string, fallback: string): Activation {
    const names: Record<string, Activation> = {
      gelu_new: 'gelu_tanh',
      gelu_pytorch_tanh: 'gelu_tanh',
      gelu_fast: 'gelu_tanh',
      gelu: 'gelu',
      silu: 'silu',
      swish: 'silu',
      relu: 'relu',
    };
    const value = this.raw(key) ?? fallback;
    const found =
      typeof value === 'string' && Object.hasOwn(names, value) ? names[value] : undefined;
    if (!found) this.#fail(key, `one of ${Object.keys(names).join(', ')}`);
    return found;
  }

  object(key: string): ConfigReader | null {
    const value = this.raw(key);
    if (value === undefined || value === null) return null;
    if (typeof value !== 'object' || Array.isArray(value)) this.#fail(key, 'an object');
    return new ConfigReader(value, `${this.#family}.${key}`);
  }

  require(condition: boolean, message: string): void {
    if (!condition) throw new ConfigError(`config.json (${this.#family}): ${message}`);
  }
}

/** Special token ids of a config: an integer, a list, or nothing (null, -1). Ids outside the vocabulary are dropped. */
export function tokenIds(value: JsonValue | undefined, vocabSize: number): number[] {
  const list = Array.isArray(value) ? value : [value];
  return list.filter(
    (id): id is number =>
      typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize,
  );
}
