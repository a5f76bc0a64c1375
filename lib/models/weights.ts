// The tensors of a checkpoint on their way into a model: taken by name with the shape the configuration demands.
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import type { Int8Scheme } from '../nn/linear.js';
import { cast } from '../ops/cast.js';
import { abs } from '../ops/elementwise.js';
import { max } from '../ops/reduce.js';
import { concat, reshape } from '../ops/view.js';
import { empty, tensor } from '../tensor/create.js';
import { isFloat } from '../tensor/dtype.js';
import { ConfigError, FileError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format, sameShape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

/** Where a model's tensors come from: a checkpoint or an initialiser. */
export class Weights {
  readonly #tensors: Map<string, Tensor>;
  readonly #used = new Set<string>();
  /** The int8 scheme of quantized layers, from the config. */
  readonly scheme: Int8Scheme;
  /** Stripped from or added to names, so that checkpoints saved without the head still load. */
  readonly prefix: string;

  constructor(
    tensors: Map<string, Tensor>,
    options: { scheme?: Int8Scheme; prefix?: string } = {},
  ) {
    this.#tensors = tensors;
    this.scheme = options.scheme ?? 'w8a8';
    this.prefix = options.prefix ?? '';
  }

  #name(name: string): string {
    return this.prefix && name.startsWith(this.prefix) ? name.slice(this.prefix.length) : name;
  }

  has(name: string): boolean {
    return this.#tensors.has(this.#name(name));
  }

  /** The tensor `name`, which must have this shape. It belongs to the caller from now on. */
  take(name: string, shape: readonly number[]): Tensor {
    const tensor = this.#tensors.get(this.#name(name));
    if (!tensor)
      throw new FileError(
        'ERR_TENSOR_MISSING',
        `the checkpoint has no tensor ${JSON.stringify(this.#name(name))} (expected shape ${format(shape)})`,
      );
    if (!sameShape(tensor.shape, shape))
      throw new ConfigError(
        `tensor ${JSON.stringify(this.#name(name))} has shape ${format(tensor.shape)}, but config.json asks for ${format(shape)}`,
      );
    this.#used.add(this.#name(name));
    return tensor;
  }

  optional(name: string, shape: readonly number[]): Tensor | null {
    return this.has(name) ? this.take(name, shape) : null;
  }

  /** A linear layer (out, in), float or int8. */
  linear(
    name: string,
    outputs: number,
    inputs: number,
    options: { bias: boolean; conv1d?: boolean },
  ): Linear {
    const bias = options.bias ? this.take(`${name}.bias`, [outputs]) : null;
    const conv1d = options.conv1d ?? false;
    const int8 = this.#int8(name, outputs, inputs);
    const layer = new Linear({
      weight: int8
        ? empty(conv1d ? [inputs, outputs] : [outputs, inputs])
        : this.take(`${name}.weight`, conv1d ? [inputs, outputs] : [outputs, inputs]),
      bias,
      conv1d,
    });
    if (int8) layer.setInt8(int8.q, int8.scale, this.scheme);
    return layer;
  }

  embedding(name: string, rows: number, width: number): Embedding {
    const int8 = this.#int8(name, rows, width);
    if (!int8) return new Embedding(this.take(`${name}.weight`, [rows, width]));
    const table = new Embedding(empty([rows, width]));
    table.setInt8(int8.q, int8.scale, this.scheme);
    return table;
  }

  /** compressed-tensors: int8 `weight`, or packed int32 words, with one scale per row. */
  #int8(name: string, rows: number, width: number): { q: Tensor; scale: Tensor } | null {
    if (!this.has(`${name}.weight_scale`)) return null;
    const scale = this.take(`${name}.weight_scale`, [rows, 1]);
    const flat = tidy(() => reshape(scale, [rows]));
    scale.dispose();
    if (!this.has(`${name}.weight_packed`)) {
      const q = this.take(`${name}.weight`, [rows, width]);
      if (q.dtype !== 'int8')
        throw new ConfigError(
          `tensor ${JSON.stringify(`${name}.weight`)} is ${q.dtype}, but has a weight_scale; expected int8`,
        );
      return { q, scale: flat };
    }
    const words = Math.ceil(width / 4);
    const packed = this.take(`${name}.weight_packed`, [rows, words]);
    this.optional(`${name}.weight_shape`, [2])?.dispose();
    const q = unpackWords(packed, rows, width);
    packed.dispose();
    return { q, scale: flat };
  }

  /** Names that nothing took. */
  unused(): string[] {
    return [...this.#tensors.keys()].filter((n) => !this.#used.has(n));
  }

  /** Releases what nothing took; with `all`, everything (after a failure). */
  dispose(all = false): void {
    for (const [name, tensor] of this.#tensors) if (all || !this.#used.has(name)) tensor.dispose();
  }

  /** Every float tensor as float32. */
  toFloat32(): void {
    for (const [name, tensor] of this.#tensors) {
      if (!isFloat(tensor.dtype) || tensor.dtype === 'float32') continue;
      this.#tensors.set(name, cast(tensor, 'float32'));
      tensor.dispose();
    }
  }

  /** Refuses NaN and infinity, naming the first tensor that has one. */
  async checkFinite(): Promise<void> {
    const names: string[] = [];
    const tops = tidy(() => {
      const list: Tensor[] = [];
      for (const [name, tensor] of this.#tensors) {
        if (tensor.dtype !== 'float32' || tensor.size === 0) continue;
        names.push(name);
        list.push(reshape(max(abs(tensor)), [1]));
      }
      return list.length > 0 ? concat(list) : null;
    });
    if (!tops) return;
    const values = await tops.data();
    tops.dispose();
    const bad = names.findIndex((_, i) => !Number.isFinite(Number(values[i])));
    if (bad >= 0)
      throw new FileError(
        'ERR_WEIGHTS_NOT_FINITE',
        `tensor ${JSON.stringify(names[bad])} contains NaN or infinity; the checkpoint is damaged`,
      );
  }
}

/** int32 words of four bytes u = q + 128, lowest first → int8 (rows, width). */
function unpackWords(packed: Tensor, rows: number, width: number): Tensor {
  return tidy(() => {
    // the words' bytes, little-endian, as uint8
    const words = packed.dataSync() as Int32Array;
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    const per = Math.ceil(width / 4) * 4;
    const q = new Int8Array(rows * width);
    for (let r = 0; r < rows; r++)
      for (let k = 0; k < width; k++) q[r * width + k] = bytes[r * per + k]! - 128;
    return tensor(q, { shape: [rows, width] });
  });
}
