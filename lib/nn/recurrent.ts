// LSTM and GRU layers: the input products of all time steps in one, then the recurrence.
import { linear } from '../ops/matmul.js';
import { gruSequence, lstmSequence } from '../ops/recurrent.js';
import { concat, reshape, slice } from '../ops/view.js';
import { dropout } from '../ops/dropout.js';
import { empty, zeros } from '../tensor/create.js';
import { ShapeError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import * as init from './init.js';
import { Module } from './module.js';

export interface RecurrentOptions {
  inputSize: number;
  hiddenSize: number;
  numLayers?: number;
  /** Between layers, in training. */
  dropout?: number;
  generator?: Generator;
  dtype?: 'float32' | 'float64';
}

/** h (and, for LSTM, c) of every layer: (layers, B, H). */
export interface RecurrentState {
  h: Tensor;
  c?: Tensor;
}

interface Weights {
  ih: Tensor;
  hh: Tensor;
  bih: Tensor;
  bhh: Tensor;
}

abstract class Recurrent extends Module {
  readonly inputSize: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly #dropout: number;
  readonly #layers: Weights[];

  /** Weights uniform in ±1/√H, as torch.nn; names as in torch.nn, so that its state dicts load. */
  protected constructor(gates: number, options: RecurrentOptions) {
    super();
    const { inputSize, hiddenSize: h, numLayers = 1 } = options;
    this.inputSize = inputSize;
    this.hiddenSize = h;
    this.numLayers = numLayers;
    this.#dropout = options.dropout ?? 0;
    const generator = options.generator ?? defaultGenerator();
    const bound = 1 / Math.sqrt(h);
    const make = (name: string, shape: number[]): Tensor =>
      this.register(
        name,
        init.uniform(empty(shape, options.dtype ?? 'float32'), {
          low: -bound,
          high: bound,
          generator,
        }),
      );
    this.#layers = Array.from({ length: numLayers }, (_, i) => ({
      ih: make(`weight_ih_l${i}`, [gates * h, i === 0 ? inputSize : h]),
      hh: make(`weight_hh_l${i}`, [gates * h, h]),
      bih: make(`bias_ih_l${i}`, [gates * h]),
      bhh: make(`bias_hh_l${i}`, [gates * h]),
    }));
  }

  /** One layer over a sequence: products (B, T, gates H) of its inputs. */
  protected abstract layer(
    products: Tensor,
    w: Weights,
    h: Tensor,
    c: Tensor | null,
  ): { y: Tensor; h: Tensor; c?: Tensor };

  protected abstract readonly hasCell: boolean;

  /** x (B, T, I), state or zeros → y (B, T, H) and the state after the last step. */
  forward(x: Tensor, state: RecurrentState | null = null): { y: Tensor; state: RecurrentState } {
    if (x.rank !== 3 || x.shape[2] !== this.inputSize)
      throw new ShapeError(
        `${this.constructor.name}: expected (B, T, ${this.inputSize}), got ${format(x.shape)}`,
      );
    const [b] = x.shape as [number];
    const h0 = this.hiddenSize;
    return tidy(() => {
      let sequence = x;
      const hs: Tensor[] = [];
      const cs: Tensor[] = [];
      this.#layers.forEach((w, layer) => {
        const products = linear(sequence, w.ih, w.bih); // (B, T, gates H)
        const start = (s: Tensor | undefined): Tensor =>
          s
            ? reshape(slice(s, 0, layer, layer + 1), [b, h0])
            : zeros([b, h0], { dtype: x.dtype as 'float32', device: x.device });
        const c = this.hasCell ? start(state?.c) : null;
        const out = this.layer(products, w, start(state?.h), c);
        sequence = out.y;
        if (this.training && this.#dropout > 0 && layer + 1 < this.numLayers)
          sequence = dropout(sequence, this.#dropout);
        hs.push(reshape(out.h, [1, b, h0]));
        if (out.c) cs.push(reshape(out.c, [1, b, h0]));
      });
      const after: RecurrentState = this.hasCell
        ? { h: concat(hs, 0), c: concat(cs, 0) }
        : { h: concat(hs, 0) };
      return { y: sequence, state: after };
    });
  }
}

/** torch.nn.LSTM with batchFirst, one direction. */
export class LSTM extends Recurrent {
  protected readonly hasCell = true;
  constructor(options: RecurrentOptions) {
    super(4, options);
  }
  protected override layer(
    products: Tensor,
    w: Weights,
    h: Tensor,
    c: Tensor | null,
  ): { y: Tensor; h: Tensor; c: Tensor } {
    return lstmSequence(products, w.hh, w.bhh, h, c!);
  }
}

/** torch.nn.GRU with batchFirst, one direction. */
export class GRU extends Recurrent {
  protected readonly hasCell = false;
  constructor(options: RecurrentOptions) {
    super(3, options);
  }
  protected override layer(products: Tensor, w: Weights, h: Tensor): { y: Tensor; h: Tensor } {
    return gruSequence(products, w.hh, w.bhh, h);
  }
}
