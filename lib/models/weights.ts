// The tensors of a checkpoint on their way into a model: taken by name with the shape the configuration demands.
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import type { Int8Scheme } from '../nn/linear.js';
import { groupOf, unpackWords } from './quantized_layout.js';
import type { QuantizationGroup } from './quantized_layout.js';
import { cast } from '../ops/cast.js';
import { abs } from '../ops/elementwise.js';
import { max } from '../ops/reduce.js';
import { concat, reshape } from '../ops/view.js';
import { empty } from '../tensor/create.js';
import { isFloat } from '../tensor/dtype.js';
import { ConfigError, FileError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format, sameShape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

interface QuantizedRows {
  readonly q: Tensor;
  readonly scale: Tensor;
  readonly how: QuantizationGroup;
}

function setQuantized(module: Linear | Embedding, { q, scale, how }: QuantizedRows): void {
  if (how.group !== null) module.setInt4(q, scale, how.group);
  else module.setInt8(q, scale, how.scheme as Int8Scheme);
}

/** Where a model's tensors come from: a checkpoint or an initialiser. */
export class Weights {
  readonly #tensors: Map<string, Tensor>;
  readonly #used = new Set<string>();
  /** How layers that have a scale are quantized, from the config. */
  readonly #quantization: readonly QuantizationGroup[];
  /** Stripped from or added to names, so that checkpoints saved without the head still load. */
  readonly prefix: string;

  constructor(
    tensors: Map<string, Tensor>,
    options: { quantization?: readonly QuantizationGroup[] | null; prefix?: string } = {},
  ) {
    this.#tensors = tensors;
    this.#quantization = options.quantization ?? [{ targets: [], scheme: 'w8a8', group: null }];
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

  /** A linear layer (out, in), float or quantized. */
  linear(
    name: string,
    outputs: number,
    inputs: number,
    options: { bias: boolean; conv1d?: boolean },
  ): Linear {
    const bias = options.bias ? this.take(`${name}.bias`, [outputs]) : null;
    const conv1d = options.conv1d ?? false;
    const quantized = this.#quantized(name, 'Linear', outputs, inputs);
    const layer = new Linear({
      weight: quantized
        ? empty(conv1d ? [inputs, outputs] : [outputs, inputs])
        : this.take(`${name}.weight`, conv1d ? [inputs, outputs] : [outputs, inputs]),
      bias,
      conv1d,
    });
    if (!quantized) return layer;
    setQuantized(layer, quantized);
    return layer;
  }

  embedding(name: string, rows: number, width: number): Embedding {
    const quantized = this.#quantized(name, 'Embedding', rows, width);
    if (!quantized) return new Embedding(this.take(`${name}.weight`, [rows, width]));
    const table = new Embedding(empty([rows, width]));
    setQuantized(table, quantized);
    return table;
  }

  /** compressed-tensors: int8 `weight` or packed int32 words, with one scale per row, for int4 per row and group. */
  #quantized(
    name: string,
    kind: 'Linear' | 'Embedding',
    rows: number,
    width: number,
  ): QuantizedRows | null {
    if (!this.has(`${name}.weight_scale`)) return null;
    const how = groupOf(this.#quantization, this.#name(name), kind);
    if (!how)
      throw new ConfigError(
        `tensor ${JSON.stringify(`${name}.weight_scale`)}: no group of quantization_config has the target ${JSON.stringify(name)} or ${kind}`,
      );
    const int4 = how.scheme === 'w4a16';
    const scale = this.take(`${name}.weight_scale`, [
      rows,
      int4 ? Math.ceil(width / how.group!) : 1,
    ]);
    const flat = int4 ? scale.detach() : tidy(() => reshape(scale, [rows]));
    scale.dispose();
    if (!this.has(`${name}.weight_packed`)) {
      const q = this.take(`${name}.weight`, [rows, width]);
      if (q.dtype !== 'int8')
        throw new ConfigError(
          `tensor ${JSON.stringify(`${name}.weight`)} is ${q.dtype}, but has a weight_scale; expected int8`,
        );
      return { q, scale: flat, how };
    }
    const bits = int4 ? 4 : 8;
    const words = Math.ceil((width * bits) / 32);
    const packed = this.take(`${name}.weight_packed`, [rows, words]);
    this.optional(`${name}.weight_shape`, [2])?.dispose();
    const q = unpackWords(packed, rows, width, bits);
    packed.dispose();
    return { q, scale: flat, how };
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
