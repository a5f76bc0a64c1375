// LSTM and GRU layers over a sequence: the input products of all time steps in one, then a fused cell per step.
import { linear } from '../ops/matmul.js';
import { gruCell, lstmCell } from '../ops/recurrent.js';
import { add } from '../ops/elementwise.js';
import { concat, reshape, slice } from '../ops/view.js';
import { contiguous } from '../ops/cast.js';
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

  /** One time step of one layer: x the input products (B, gates H). */
  protected abstract cell(
    x: Tensor,
    w: Weights,
    h: Tensor,
    c: Tensor | null,
  ): { h: Tensor; c?: Tensor };

  protected abstract readonly hasCell: boolean;

  /** x (B, T, I), state or zeros → y (B, T, H) and the state after the last step. */
  forward(x: Tensor, state: RecurrentState | null = null): { y: Tensor; state: RecurrentState } {
    if (x.rank !== 3 || x.shape[2] !== this.inputSize)
      throw new ShapeError(
        `${this.constructor.name}: expected (B, T, ${this.inputSize}), got ${format(x.shape)}`,
      );
    const [b, t] = x.shape as [number, number];
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
            : zeros([b, h0], { dtype: x.dtype as 'float32' });
        let h = start(state?.h);
        let c = this.hasCell ? start(state?.c) : null;
        const steps: Tensor[] = [];
        for (let i = 0; i < t; i++) {
          const at = reshape(slice(products, 1, i, i + 1), [b, products.shape[2]!]);
          const next = this.cell(contiguous(at), w, h, c);
          h = next.h;
          c = next.c ?? null;
          steps.push(reshape(h, [b, 1, h0]));
        }
        sequence = concat(steps, 1);
        if (this.training && this.#dropout > 0 && layer + 1 < this.numLayers)
          sequence = dropout(sequence, this.#dropout);
        hs.push(reshape(h, [1, b, h0]));
        if (c) cs.push(reshape(c, [1, b, h0]));
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
  protected override cell(
    x: Tensor,
    w: Weights,
    h: Tensor,
    c: Tensor | null,
  ): { h: Tensor; c: Tensor } {
    return lstmCell(add(x, linear(h, w.hh, w.bhh)), c!);
  }
}

/** torch.nn.GRU with batchFirst, one direction. */
export class GRU extends Recurrent {
  protected readonly hasCell = false;
  constructor(options: RecurrentOptions) {
    super(3, options);
  }
  protected override cell(x: Tensor, w: Weights, h: Tensor): { h: Tensor } {
    return { h: gruCell(x, linear(h, w.hh, w.bhh), h) };
  }
}
