// Every op on random shapes, strides, dtypes and options: for torch_random.test.ts, which compares them with PyTorch, and
// views.test.ts, which compares views with dense copies.
import { expect } from 'vitest';
import * as roots from '../../lib/index.js';
import { tensor } from '../../lib/index.js';
import type { DType, Tensor } from '../../lib/index.js';

/** Values, and how a view of them is made: bounds of each axis, then the order of axes, then the shape to stretch to. */
export interface Operand {
  dtype: DType;
  values: number[];
  base: number[];
  bounds: [number, number][];
  order: number[];
  shape: number[];
}

/** xorshift32: cases are the same on every machine. */
export class Dice {
  #state: number;
  readonly #specials: boolean;
  /** specials: some numbers are NaN, infinite or a zero of either sign. */
  constructor(seed: number, specials = false) {
    this.#specials = specials;
    this.#state = seed * 2654435761 + 1 || 1;
    for (let i = 0; i < 8; i++) this.unit();
  }
  unit(): number {
    let x = this.#state | 0;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return (x >>> 0) / 2 ** 32;
  }
  below(n: number): number {
    return Math.floor(this.unit() * n);
  }
  of<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }
  chance(p: number): boolean {
    return this.unit() < p;
  }
  size(): number {
    return this.of([0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33]);
  }
  shape(least: number, most: number): number[] {
    for (;;) {
      const shape = Array.from({ length: least + this.below(most - least + 1) }, () => this.size());
      if (shape.reduce((a, b) => a * b, 1) <= 3000) return shape;
    }
  }
  normal(): number {
    if (this.#specials && this.chance(0.08)) return this.of([NaN, Infinity, -Infinity, 0, -0]);
    let s = -6;
    for (let i = 0; i < 12; i++) s += this.unit();
    return s;
  }
  /** A view of this shape, with any strides. */
  operand(
    shape: readonly number[],
    dtype: DType,
    value: (d: Dice) => number = (d) => d.normal(),
  ): Operand {
    const rank = shape.length;
    const order = shape.map((_, i) => i);
    if (this.chance(0.5))
      for (let i = rank - 1; i > 0; i--) {
        const j = this.below(i + 1);
        [order[i], order[j]] = [order[j]!, order[i]!];
      }
    // sums of gradients in 16 bits are as inexact as the largest of them
    const stretched = shape.map((n) => n > 0 && !halves.includes(dtype) && this.chance(0.1));
    const base: number[] = Array(rank).fill(0);
    const bounds: [number, number][] = Array(rank);
    order.forEach((axis, i) => {
      const length = stretched[i] ? 1 : shape[i]!;
      const before = this.chance(0.2) ? this.below(3) : 0;
      const after = this.chance(0.2) ? this.below(3) : 0;
      base[axis] = before + length + after;
      bounds[axis] = [before, before + length];
    });
    const count = base.reduce((a, b) => a * b, 1);
    return {
      dtype,
      base,
      bounds,
      order,
      shape: [...shape],
      values: Array.from({ length: count }, () => value(this)),
    };
  }
}

type Build = (
  d: Dice,
  dtype: DType,
) => {
  operands: Operand[];
  options?: Record<string, unknown>;
  smooth?: boolean;
};

export interface Op {
  name: string;
  /** the same in PyTorch, over t[0], t[1] … and o; null where it has none */
  expression: string | null;
  build: Build;
  // oxlint-disable-next-line typescript/no-explicit-any -- options differ from op to op
  run: (t: Tensor[], o: any) => Tensor;
  dtypes?: readonly DType[];
  /** there is no CUDA kernel */
  cpuOnly?: boolean;
  /** what it makes of NaN and infinity is not what PyTorch does, and said in its documentation */
  finite?: boolean;
}

export interface Case {
  expression: string | null;
  operands: Operand[];
  options: Record<string, unknown>;
  /** whether gradients are compared */
  smooth: boolean;
}

export function casesOf(op: Op, seed: number, count: number, specials = false): Case[] {
  const { expression, build, dtypes = floats } = op;
  const d = new Dice(seed * 1000 + ops.indexOf(op), specials);
  return Array.from({ length: count }, () => {
    const { operands, options = {}, smooth = true } = build(d, d.of(dtypes));
    return { expression, operands, options, smooth: smooth && !specials };
  });
}

export function describeCase(op: Op, i: number, c: Case): string {
  const operands = c.operands.map((o) => `${o.dtype} [${o.shape}] of [${o.base}]`).join(', ');
  return `${op.name}, case ${i} (${operands}; ${JSON.stringify(c.options)})`;
}

/** The values of an operand as they lie in memory: a leaf, where gradients are wanted. */
export function leafOf(o: Operand, smooth: boolean): Tensor {
  const exact = o.dtype === 'int64' || o.dtype === 'bool';
  const x = exact
    ? roots.cast(tensor(Float64Array.from(o.values), { shape: o.base }), o.dtype)
    : tensor(o.values, { dtype: o.dtype }).reshape(o.base);
  return x.detach().setRequiresGrad(smooth && o.dtype.includes('float'));
}

export function viewOf(leaf: Tensor, o: Operand): Tensor {
  let v = leaf;
  o.bounds.forEach(([start, end], axis) => (v = v.slice(axis, start, end)));
  return v.permute(o.order).expand(o.shape);
}

/** The gradient that comes in from above. */
export function upstreamOf(y: Tensor): Tensor {
  const g = Float64Array.from({ length: y.size }, (_, j) => (((j * 7 + 3) % 11) - 5) / 4);
  return roots.cast(tensor(g, { shape: y.shape }), y.dtype);
}

const floats: readonly DType[] = ['float32', 'float64', 'float32', 'bfloat16', 'float16'];
const halves: readonly DType[] = ['bfloat16', 'float16'];
const wide: readonly DType[] = ['float32', 'float64'];
const numeric: readonly DType[] = [...floats, 'int8', 'uint8', 'int32', 'int64'];
const index: readonly DType[] = ['int32', 'int64'];
const whole = (d: Dice): number => d.below(7);
const positive = (d: Dice): number => Math.abs(d.normal()) + 0.1;
const any = (d: Dice, dtype: DType): number =>
  dtype.includes('int') ? d.below(9) - (dtype === 'uint8' ? 0 : 4) : d.normal();

const unary = (
  name: string,
  expression: string,
  run: (x: Tensor) => Tensor,
  value?: (d: Dice) => number,
): Op => ({
  name,
  expression,
  build: (d, dtype) => ({ operands: [d.operand(d.shape(0, 4), dtype, value)] }),
  run: ([x]) => run(x!),
});

/** Two shapes that broadcast. */
function pair(d: Dice): [number[], number[]] {
  const shape = d.shape(0, 4);
  const part = (): number[] =>
    shape.slice(d.chance(0.3) ? d.below(shape.length + 1) : 0).map((n) => (d.chance(0.25) ? 1 : n));
  return d.chance(0.5) ? [shape, part()] : [part(), shape];
}
const binary = (
  name: string,
  expression: string,
  run: (a: Tensor, b: Tensor) => Tensor,
  options: { value?: (d: Dice, dtype: DType) => number; smooth?: boolean } = {},
): Op => ({
  name,
  expression,
  dtypes: numeric,
  build: (d, dtype) => {
    const [a, b] = pair(d);
    const value = (dice: Dice): number => (options.value ?? any)(dice, dtype);
    const smooth = options.smooth ?? true;
    return { operands: [d.operand(a, dtype, value), d.operand(b, dtype, value)], smooth };
  },
  run: ([a, b]) => run(a!, b!),
});

const reduction = (
  name: string,
  expression: string,
  // oxlint-disable-next-line typescript/no-explicit-any -- options differ from op to op
  run: (x: Tensor, o: any) => Tensor,
  least = 0,
): Op => ({
  name,
  expression,
  build: (d, dtype) => {
    const shape = d.shape(1, 4).map((n) => Math.max(n, least));
    const dims = shape.map((_, i) => i).filter(() => d.chance(0.5));
    const dim = dims.length === 0 ? [d.below(shape.length)] : dims;
    if (d.chance(0.3)) dim[0]! -= shape.length;
    return {
      operands: [d.operand(shape, dtype)],
      options: { dim, keepdim: d.chance(0.5), correction: d.below(2) },
    };
  },
  run: ([x], o) => run(x!, o),
});

const axisOp = (
  name: string,
  expression: string,
  run: (x: Tensor, dim: number) => Tensor,
  options: { smooth?: boolean; least?: number; dtypes?: readonly DType[] } = {},
): Op => ({
  name,
  expression,
  ...(options.dtypes ? { dtypes: options.dtypes } : {}),
  build: (d, dtype) => {
    const shape = d.shape(1, 4).map((n) => Math.max(n, options.least ?? 0));
    return {
      operands: [
        d.operand(shape, dtype, (dice) =>
          dtype.startsWith('int') && d.chance(0.3)
            ? 2 ** (dtype === 'int64' ? 40 : dtype === 'int32' ? 26 : 5) + dice.below(3)
            : any(dice, dtype),
        ),
      ],
      options: { dim: d.below(shape.length) - (d.chance(0.5) ? shape.length : 0) },
      smooth: options.smooth ?? true,
    };
  },
  run: ([x], o) => run(x!, o.dim),
});

const activationIn = {
  none: 'z',
  relu: 'F.relu(z)',
  gelu: 'F.gelu(z)',
  gelu_tanh: 'F.gelu(z, approximate="tanh")',
  silu: 'F.silu(z)',
};
const heads = 'torch.repeat_interleave(t[I], t[0].shape[1] // t[I].shape[1], dim=1)';

export const ops: Op[] = [
  unary('exp', 't[0].exp()', roots.exp),
  unary('log', 't[0].log()', roots.log, positive),
  unary('sqrt', 't[0].sqrt()', roots.sqrt, positive),
  unary('rsqrt', 't[0].rsqrt()', roots.rsqrt, positive),
  unary('reciprocal', 't[0].reciprocal()', roots.reciprocal, positive),
  unary('square', 't[0].square()', roots.square),
  unary('abs', 't[0].abs()', roots.abs),
  unary('neg', '-t[0]', roots.neg),
  unary('tanh', 't[0].tanh()', roots.tanh),
  unary('sigmoid', 't[0].sigmoid()', roots.sigmoid),
  unary('erf', 't[0].erf()', roots.erf),
  unary('softplus', 'F.softplus(t[0])', roots.softplus),
  unary('relu', 'F.relu(t[0])', roots.relu),
  unary('silu', 'F.silu(t[0])', roots.silu),
  unary('gelu', 'F.gelu(t[0])', (x) => x.gelu()),
  unary('gelu tanh', 'F.gelu(t[0], approximate="tanh")', (x) => x.gelu({ approximate: 'tanh' })),
  unary('clamp', 't[0].clamp(-0.5, 0.75)', (x) => x.clamp(-0.5, 0.75)),
  unary('contiguous', 't[0].contiguous()', roots.contiguous),
  unary('clone', 't[0].clone()', roots.clone),
  {
    name: 'swiglu',
    expression: 'F.silu(t[0]) * t[1]',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      return { operands: [d.operand(shape, dtype), d.operand(shape, dtype)] };
    },
    run: ([a, b]) => roots.swiglu(a!, b!),
  },
  binary('add', 't[0] + t[1]', roots.add),
  binary('sub', 't[0] - t[1]', roots.sub),
  binary('mul', 't[0] * t[1]', roots.mul),
  binary('div', 't[0] / t[1]', roots.div, {
    value: (d, dtype) => (dtype.includes('int') ? 1 + d.below(9) : positive(d)),
  }),
  binary('maximum', 'torch.maximum(t[0], t[1])', roots.maximum),
  binary('minimum', 'torch.minimum(t[0], t[1])', roots.minimum),
  binary('equal', 't[0] == t[1]', roots.equal, { smooth: false }),
  binary('notEqual', 't[0] != t[1]', roots.notEqual, { smooth: false }),
  binary('less', 't[0] < t[1]', roots.less, { smooth: false }),
  binary('lessEqual', 't[0] <= t[1]', roots.lessEqual, { smooth: false }),
  binary('greater', 't[0] > t[1]', roots.greater, { smooth: false }),
  binary('greaterEqual', 't[0] >= t[1]', roots.greaterEqual, { smooth: false }),
  ...(['add', 'sub', 'mul', 'div'] as const).map((name): Op => ({
    name: `${name} of a number`,
    expression: `t[0] ${{ add: '+', sub: '-', mul: '*', div: '/' }[name]} o["number"]`,
    dtypes: [...floats, 'int32', 'int64'],
    build: (d, dtype) => ({
      operands: [d.operand(d.shape(0, 4), dtype, (dice) => any(dice, dtype))],
      options: { number: d.chance(0.5) ? d.below(5) + 1 : d.unit() + 0.01 },
    }),
    run: ([x], o) => roots[name](x!, o.number),
  })),
  {
    name: 'where',
    expression: 'torch.where(t[0], t[1], t[2])',
    dtypes: numeric,
    build: (d, dtype) => {
      const [a, b] = pair(d);
      const value = (dice: Dice): number => any(dice, dtype);
      const condition = d.operand(
        a.map((n) => n),
        'bool',
        (dice) => dice.below(2),
      );
      return { operands: [condition, d.operand(a, dtype, value), d.operand(b, dtype, value)] };
    },
    run: ([c, a, b]) => roots.where(c!, a!, b!),
  },
  {
    name: 'maskedFill',
    expression: 't[0].masked_fill(t[1], -2.5)',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      const mask = shape.slice(d.below(shape.length)).map((n) => (d.chance(0.3) ? 1 : n));
      return {
        operands: [d.operand(shape, dtype), d.operand(mask, 'bool', (dice) => dice.below(2))],
      };
    },
    run: ([x, mask]) => roots.maskedFill(x!, mask!, -2.5),
  },
  reduction('sum', 't[0].sum(dim=o["dim"], keepdim=o["keepdim"])', (x, { dim, keepdim }) =>
    x.sum({ dim, keepdim }),
  ),
  reduction(
    'mean',
    't[0].mean(dim=o["dim"], keepdim=o["keepdim"])',
    (x, { dim, keepdim }) => x.mean({ dim, keepdim }),
    1,
  ),
  reduction(
    'variance',
    't[0].var(dim=o["dim"], keepdim=o["keepdim"], correction=o["correction"])',
    (x, o) => x.variance(o),
    2,
  ),
  reduction(
    'max',
    't[0].amax(dim=o["dim"], keepdim=o["keepdim"])',
    (x, { dim, keepdim }) => x.max({ dim, keepdim }),
    1,
  ),
  reduction(
    'min',
    't[0].amin(dim=o["dim"], keepdim=o["keepdim"])',
    (x, { dim, keepdim }) => x.min({ dim, keepdim }),
    1,
  ),
  reduction(
    'logsumexp',
    't[0].logsumexp(dim=o["dim"], keepdim=o["keepdim"])',
    (x, { dim, keepdim }) => x.logsumexp({ dim, keepdim }),
    1,
  ),
  axisOp('argmax', 't[0].argmax(dim=o["dim"])', roots.argmax, {
    smooth: false,
    least: 1,
    dtypes: numeric,
  }),
  // rows of -infinity alone give zeros
  {
    ...axisOp('softmax', 't[0].softmax(dim=o["dim"])', roots.softmax, { dtypes: floats }),
    finite: true,
  },
  axisOp('logSoftmax', 't[0].log_softmax(dim=o["dim"])', roots.logSoftmax, { dtypes: floats }),
  {
    name: 'topk',
    expression: 't[0].topk(o["k"]).values',
    dtypes: numeric,
    build: (d, dtype) => {
      const shape = d.shape(1, 3);
      return {
        operands: [
          d.operand(shape, dtype, (dice) =>
            dtype === 'int64' ? 2 ** 40 + dice.below(1000) : any(dice, dtype) * 5,
          ),
        ],
        options: { k: d.below(shape.at(-1)! + 1) },
        // 16 bits have ties, and which of them gets the gradient is anyone's choice
        smooth: !halves.includes(dtype),
      };
    },
    run: ([x], o) => roots.topk(x!, o.k).values,
  },
  {
    name: 'matmul',
    expression: 't[0] @ t[1]',
    build: (d, dtype) => {
      const [m, n] = [d.size(), d.size()];
      const k = d.size();
      const [a, b] = pair(d).map((s) => s.slice(-2).map((v) => Math.min(v, 4)));
      const left = d.chance(0.1) ? [k] : [...a!, m, k];
      const right = d.chance(0.1) ? [k] : [...b!, k, n];
      return { operands: [d.operand(left, dtype), d.operand(right, dtype)] };
    },
    run: ([a, b]) => roots.matmul(a!, b!),
  },
  {
    name: 'matmul, larger',
    expression: 't[0] @ t[1]',
    build: (d, dtype) => {
      const side = (): number => 1 + d.below(90);
      const [m, n, k] = [side(), side(), side()];
      return { operands: [d.operand([m, k], dtype), d.operand([k, n], dtype)] };
    },
    run: ([a, b]) => roots.matmul(a!, b!),
  },
  ...Object.entries(activationIn).map(([activation, formula]): Op => ({
    name: `linear ${activation}`,
    // tails that one precision rounds to zero and the other does not, times an infinite gate
    finite: activation !== 'none' && activation !== 'relu',
    expression:
      `(lambda z: ${formula})(F.linear(t[0], t[1], t[o["bias"]] if o["bias"] else None))` +
      ' * (t[o["gate"]] if o["gate"] else 1) + (t[o["residual"]] if o["residual"] else 0)',
    build: (d, dtype) => {
      const shape = d.shape(1, 3);
      const n = 1 + d.below(40);
      const operands = [d.operand(shape, dtype), d.operand([n, shape.at(-1)!], dtype)];
      const options: Record<string, number> = {};
      for (const name of ['bias', 'gate', 'residual']) {
        options[name] = d.chance(0.5) ? operands.length : 0;
        if (options[name])
          operands.push(d.operand(name === 'bias' ? [n] : [...shape.slice(0, -1), n], dtype));
      }
      return { operands, options };
    },
    run: (t, o) =>
      roots.linear(t[0]!, t[1]!, o.bias ? t[o.bias]! : null, {
        activation: activation as roots.Activation,
        gate: o.gate ? t[o.gate]! : null,
        residual: o.residual ? t[o.residual]! : null,
      }),
  })),
  {
    name: 'layerNorm',
    expression:
      'F.layer_norm(t[0], t[0].shape[-1:], t[o["weight"]] if o["weight"] else None, t[o["bias"]] if o["bias"] else None)',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      shape[shape.length - 1] = 2 + d.below(40);
      // a row that was stretched has no variance, and a derivative of 1 / sqrt(eps)
      const operands = [dense(d, shape, dtype)];
      const options: Record<string, number> = {};
      for (const name of ['weight', 'bias']) {
        options[name] = d.chance(0.6) ? operands.length : 0;
        if (options[name]) operands.push(d.operand(shape.slice(-1), dtype));
      }
      return { operands, options };
    },
    run: (t, o) =>
      roots.layerNorm(t[0]!, o.weight ? t[o.weight]! : null, o.bias ? t[o.bias]! : null),
  },
  {
    name: 'rmsNorm',
    expression: 'F.rms_norm(t[0], t[0].shape[-1:], t[1], 1e-6)',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      shape[shape.length - 1] = 1 + d.below(40);
      return { operands: [dense(d, shape, dtype), d.operand(shape.slice(-1), dtype)] };
    },
    run: ([x, w]) => roots.rmsNorm(x!, w!),
  },
  {
    name: 'embedding',
    expression: 'F.embedding(t[0], t[1], padding_idx=o["paddingIdx"])',
    build: (d, dtype) => ({
      operands: [d.operand(d.shape(0, 3), d.of(index), whole), d.operand([7, d.size()], dtype)],
      options: { paddingIdx: d.chance(0.3) ? d.below(7) : null },
    }),
    run: ([ids, w], o) =>
      roots.embedding(ids!, w!, o.paddingIdx === null ? {} : { paddingIdx: o.paddingIdx }),
  },
  {
    name: 'indexSelect',
    expression: 't[0].index_select(o["dim"], t[1])',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      const dim = d.below(shape.length);
      shape[dim] = 7;
      return {
        operands: [d.operand(shape, dtype), d.operand([d.size()], d.of(index), whole)],
        options: { dim },
      };
    },
    run: ([x, i], o) => roots.indexSelect(x!, o.dim, i!),
  },
  {
    name: 'gather',
    expression: 't[0].gather(o["dim"], t[1])',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      const dim = d.below(shape.length);
      shape[dim] = 7;
      const wanted = shape.map((n, i) => (i === dim ? d.size() : n));
      return {
        operands: [d.operand(shape, dtype), d.operand(wanted, d.of(index), whole)],
        options: { dim },
      };
    },
    run: ([x, i], o) => roots.gather(x!, o.dim, i!),
  },
  {
    name: 'scatterAdd',
    expression: 't[0].scatter_add(o["dim"], t[1], t[2])',
    build: (d, dtype) => {
      const shape = d.shape(1, 4);
      const dim = d.below(shape.length);
      shape[dim] = 7;
      const wanted = shape.map((n, i) => (i === dim ? d.size() : n));
      return {
        operands: [
          d.operand(shape, dtype),
          d.operand(wanted, d.of(index), whole),
          d.operand(wanted, dtype),
        ],
        options: { dim },
      };
    },
    run: ([x, i, s], o) => roots.scatterAdd(x!, o.dim, i!, s!),
  },
  {
    name: 'slice, select, split, concat, stack',
    expression:
      'torch.stack([torch.cat([p for p in reversed(t[0].split(2, o["dim"]))], o["dim"]), t[0]], o["dim"]).select(o["dim"], o["which"])',
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      return {
        operands: [d.operand(shape, dtype)],
        options: { dim: d.below(shape.length), which: d.below(2) },
      };
    },
    run: ([x], { dim, which }) =>
      roots
        .stack([roots.concat(roots.split(x!, 2, dim).toReversed(), dim), x!], dim)
        .select(dim, which),
  },
  {
    name: 'reshape, transpose, tril',
    expression: 't[0].reshape(o["rows"], -1).mT.tril(o["diagonal"])',
    build: (d, dtype) => {
      const shape = d.shape(1, 4).map((n) => Math.max(1, n));
      return {
        operands: [d.operand(shape, dtype)],
        options: { rows: shape[0], diagonal: d.below(5) - 2 },
      };
    },
    run: ([x], o) => x!.reshape([o.rows, -1]).transpose().tril(o.diagonal),
  },
  ...(['mean', 'sum', 'none'] as const).map((reduction): Op => ({
    name: `crossEntropy ${reduction}`,
    expression: `F.cross_entropy(t[0].reshape(-1, t[0].shape[-1]), t[1].reshape(-1), reduction="${reduction}", label_smoothing=o["smoothing"], ignore_index=o["ignore"])${reduction === 'none' ? '.reshape(t[1].shape)' : ''}`,
    dtypes: wide,
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      shape[shape.length - 1] = 7 + d.below(60);
      return {
        operands: [d.operand(shape, dtype), d.operand(shape.slice(0, -1), d.of(index), whole)],
        options: { smoothing: d.chance(0.5) ? 0 : 0.1, ignore: d.chance(0.5) ? -100 : d.below(7) },
      };
    },
    run: ([x, y], o) =>
      roots.crossEntropy(x!, y!, {
        reduction,
        labelSmoothing: o.smoothing,
        ignoreIndex: o.ignore,
      }),
  })),
  {
    name: 'linearCrossEntropy',
    expression:
      'F.cross_entropy(F.linear(t[0], t[1]).reshape(-1, t[1].shape[0]), t[2].reshape(-1), label_smoothing=o["smoothing"], ignore_index=o["ignore"])',
    dtypes: wide,
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      return {
        operands: [
          d.operand(shape, dtype),
          d.operand([7 + d.below(30), shape.at(-1)!], dtype),
          d.operand(shape.slice(0, -1), d.of(index), whole),
        ],
        options: {
          smoothing: d.chance(0.5) ? 0 : 0.1,
          ignore: d.chance(0.5) ? -100 : d.below(7),
          maxLogits: d.chance(0.5) ? 1 + d.below(200) : 2 ** 20,
        },
      };
    },
    run: ([x, w, y], o) =>
      roots.linearCrossEntropy(x!, w!, y!, {
        labelSmoothing: o.smoothing,
        ignoreIndex: o.ignore,
        maxLogits: o.maxLogits,
      }),
  },
  {
    name: 'klDiv',
    finite: true,
    expression:
      'F.kl_div((t[0] / o["T"]).log_softmax(-1), (t[1] / o["T"]).log_softmax(-1), log_target=True, reduction="sum") * o["T"] ** 2 / max(1, t[0].numel() // t[0].shape[-1])',
    dtypes: wide,
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      return {
        operands: [d.operand(shape, dtype), d.operand(shape, dtype)],
        options: { T: d.of([1, 2, 0.7]) },
      };
    },
    run: ([x, y], o) => roots.klDiv(x!, y!, { temperature: o.T }),
  },
  ...([false, true] as const).map((reverse): Op => ({
    name: `linearKlDiv${reverse ? ' reverse' : ''}`,
    finite: true,
    expression:
      `(lambda q, p: F.kl_div(${reverse ? 'p, q' : 'q, p'}, log_target=True, reduction="sum"))((F.linear(t[0], t[1]).reshape(t[2].shape) / o["T"]).log_softmax(-1), (t[2].detach() / o["T"]).log_softmax(-1))` +
      ' * o["T"] ** 2 / t[0][..., 0].numel()',
    dtypes: wide,
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      const classes = 2 + d.below(30);
      const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
      return {
        operands: [
          d.operand(shape, dtype),
          d.operand([classes, shape.at(-1)!], dtype),
          d.operand([rows, classes], dtype),
        ],
        options: { T: d.of([1, 2, 0.7]), maxLogits: d.chance(0.5) ? 1 + d.below(200) : 2 ** 20 },
      };
    },
    run: ([x, w, z], o) =>
      roots.linearKlDiv(x!, w!, (from, count) => z!.detach().slice(0, from, from + count), {
        temperature: o.T,
        maxLogits: o.maxLogits,
        reverse,
      }),
  })),
  {
    name: 'mseLoss',
    expression: 'F.mse_loss(t[0], t[1], reduction=o["reduction"])',
    build: (d, dtype) => {
      const shape = d.shape(1, 3).map((n) => Math.max(1, n));
      return {
        operands: [d.operand(shape, dtype), d.operand(shape, dtype)],
        options: { reduction: d.of(['mean', 'sum', 'none']) },
      };
    },
    run: ([x, y], o) => roots.mseLoss(x!, y!, o),
  },
  ...(['none', 'causal', 'bool', 'float'] as const).map((kind): Op => ({
    name: `attention, mask ${kind}`,
    finite: true,
    expression:
      `F.scaled_dot_product_attention(t[0], ${heads.replaceAll('I', '1')}, ${heads.replaceAll('I', '2')}, scale=o["scale"], ` +
      'attn_mask=(torch.ones(t[0].shape[2], t[1].shape[2], dtype=torch.bool).tril(t[1].shape[2] - t[0].shape[2]) if o["causal"] else t[3] if len(t) > 3 else None))',
    dtypes: wide,
    build: (d, dtype) => {
      const side = (n: number): number => 1 + d.below(n);
      const [b, groups, shared, tq, depth, dv] = [
        side(2),
        side(3),
        side(3),
        side(40),
        side(40),
        side(40),
      ];
      const tk = kind === 'causal' ? tq + d.below(20) : side(60);
      const operands = [
        d.operand([b, groups * shared, tq, depth], dtype),
        d.operand([b, shared, tk, depth], dtype),
        d.operand([b, shared, tk, dv], dtype),
      ];
      const shape = [b, groups * shared, tq, tk].map((n, i) => (i < 3 && d.chance(0.4) ? 1 : n));
      if (kind === 'float') operands.push(d.operand(shape, dtype));
      // every query sees the first key
      if (kind === 'bool') {
        const mask = d.operand(shape, 'bool', (dice) => (dice.chance(0.7) ? 1 : 0));
        mask.order = shape.map((_, i) => i);
        mask.base = shape;
        mask.bounds = shape.map((n) => [0, n]);
        const count = shape.reduce((x, y) => x * y, 1);
        mask.values = Array.from({ length: count }, (_, i) =>
          i % tk === 0 || d.chance(0.7) ? 1 : 0,
        );
        operands.push(mask);
      }
      return {
        operands,
        options: { causal: kind === 'causal', scale: d.chance(0.5) ? 0.3 : 1 / Math.sqrt(depth) },
      };
    },
    run: ([q, k, v, mask], o) =>
      roots.attention(q!, k!, v!, { causal: o.causal, scale: o.scale, mask: mask ?? null }),
  })),
  ...([false, true] as const).map((interleaved): Op => ({
    name: `rope${interleaved ? ' interleaved' : ''}`,
    expression: interleaved
      ? '(lambda a, b, c, s: torch.stack([a * c - b * s, b * c + a * s], -1).flatten(-2))(t[0][..., 0::2], t[0][..., 1::2], t[1].unsqueeze(-3), t[2].unsqueeze(-3))'
      : '(lambda a, b, c, s: torch.cat([a * c - b * s, b * c + a * s], -1))(*t[0].chunk(2, -1), t[1].unsqueeze(-3), t[2].unsqueeze(-3))',
    dtypes: wide,
    build: (d, dtype) => {
      const [b, h, n, half] = [1 + d.below(3), 1 + d.below(3), 1 + d.below(9), 1 + d.below(20)];
      const angles = d.chance(0.5) ? [n, half] : [b, n, half];
      return {
        operands: [
          d.operand([b, h, n, 2 * half], dtype),
          d.operand(angles, dtype),
          d.operand(angles, dtype),
        ],
      };
    },
    run: ([x, cos, sin]) => roots.rope(x!, cos!.detach(), sin!.detach(), { interleaved }),
  })),
  {
    name: 'lstmCell',
    expression:
      '(lambda i, f, g, o: (lambda c: torch.cat([torch.sigmoid(o) * torch.tanh(c), c]))(torch.sigmoid(f) * t[1] + torch.sigmoid(i) * torch.tanh(g)))(*t[0].chunk(4, 1))',
    dtypes: wide,
    build: (d, dtype) => {
      const [b, h] = [1 + d.below(5), 1 + d.below(20)];
      return { operands: [d.operand([b, 4 * h], dtype), d.operand([b, h], dtype)] };
    },
    run: ([pre, c]) => {
      const next = roots.lstmCell(pre!, c!);
      return roots.concat([next.h, next.c]);
    },
  },
  {
    name: 'gruCell',
    expression:
      '(lambda xr, xz, xn, hr, hz, hn: (lambda r, z: (lambda n: (1 - z) * n + z * t[2])(torch.tanh(xn + r * hn)))(torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)))(*t[0].chunk(3, 1), *t[1].chunk(3, 1))',
    dtypes: wide,
    build: (d, dtype) => {
      const [b, h] = [1 + d.below(5), 1 + d.below(20)];
      return {
        operands: [
          d.operand([b, 3 * h], dtype),
          d.operand([b, 3 * h], dtype),
          d.operand([b, h], dtype),
        ],
      };
    },
    run: ([x, hidden, h]) => roots.gruCell(x!, hidden!, h!),
  },
  {
    name: 'lstmSequence',
    finite: true,
    expression:
      '(lambda l: torch.func.functional_call(l, {"weight_ih_l0": torch.eye(t[1].shape[0], dtype=torch.float64), "bias_ih_l0": torch.zeros(t[1].shape[0], dtype=torch.float64), "weight_hh_l0": t[1], "bias_hh_l0": t[2]}, (t[0], (t[3][None], t[4][None])))[0])(torch.nn.LSTM(t[1].shape[0], t[1].shape[1], batch_first=True).double())',
    dtypes: wide,
    build: (d, dtype) => sequence(d, dtype, 4, 2),
    run: ([pre, w, b, h, c]) => roots.lstmSequence(pre!, w!, b!, h!, c!).y,
  },
  {
    name: 'gruSequence',
    finite: true,
    expression:
      '(lambda l: torch.func.functional_call(l, {"weight_ih_l0": torch.eye(t[1].shape[0], dtype=torch.float64), "bias_ih_l0": torch.zeros(t[1].shape[0], dtype=torch.float64), "weight_hh_l0": t[1], "bias_hh_l0": t[2]}, (t[0], t[3][None]))[0])(torch.nn.GRU(t[1].shape[0], t[1].shape[1], batch_first=True).double())',
    dtypes: wide,
    build: (d, dtype) => sequence(d, dtype, 3, 1),
    run: ([pre, w, b, h]) => roots.gruSequence(pre!, w!, b!, h!).y,
  },
  {
    name: 'packedAttention',
    finite: true,
    expression:
      '(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=o["causal"]).transpose(1, 2).flatten(2))(*[p.unflatten(2, (o["heads"], -1)).transpose(1, 2) for p in t[0].chunk(3, 2)])',
    dtypes: wide,
    build: (d, dtype) => {
      const [b, n, heads, depth] = [
        1 + d.below(3),
        1 + d.below(40),
        1 + d.below(4),
        1 + d.below(20),
      ];
      return {
        operands: [d.operand([b, n, 3 * heads * depth], dtype)],
        options: { heads, causal: d.chance(0.5) },
      };
    },
    run: ([qkv], o) => roots.packedAttention(qkv!, o.heads, { causal: o.causal }),
  },
  {
    name: 'attention, lengths and starts',
    finite: true,
    expression: `F.scaled_dot_product_attention(t[0], t[1], t[2], attn_mask=(lambda j: (j < t[3].reshape(-1, 1, 1, 1)) & (j >= t[4].reshape(-1, 1, 1, 1)))(torch.arange(t[1].shape[2])))`,
    dtypes: wide,
    build: (d, dtype) => {
      const [b, h, n, tk] = [1 + d.below(3), 1 + d.below(3), 1 + d.below(20), 3 + d.below(30)];
      const depth = 1 + d.below(40);
      return {
        operands: [
          d.operand([b, h, n, depth], dtype),
          d.operand([b, h, tk, depth], dtype),
          d.operand([b, h, tk, depth], dtype),
          d.operand([b], 'int64', (dice) => 2 + dice.below(tk - 2)),
          d.operand([b], 'int64', (dice) => dice.below(2)),
        ],
      };
    },
    run: ([q, k, v, lengths, starts]) =>
      roots.attention(q!, k!, v!, { lengths: lengths!, starts: starts! }),
  },
  {
    name: 'dropout',
    expression: null,
    dtypes: floats,
    build: (d, dtype) => ({
      operands: [d.operand(d.shape(1, 4), dtype)],
      options: { seed: d.below(99) },
    }),
    run: ([x], o) => roots.dropout(x!, 0.3, { generator: new roots.Generator(o.seed) }),
  },
  {
    name: 'matmulStrassen',
    finite: true,
    expression: 't[0] @ t[1]',
    dtypes: ['float32'],
    build: (d, dtype) => ({
      operands: [
        d.operand([1 + d.below(40), 1 + d.below(40)], dtype),
        d.operand([0, 0], dtype),
      ].map((o, i, all) => (i === 1 ? d.operand([all[0]!.shape[1]!, 1 + d.below(40)], dtype) : o)),
    }),
    run: ([a, b]) => roots.matmulStrassen(a!, b!),
  },
  {
    name: 'matmulI8',
    expression: 't[0] @ t[1]',
    dtypes: ['int8'],
    build: (d) => {
      const [m, n, k] = [d.size(), d.size(), d.size()];
      return { operands: [int8(d, [m, k]), int8(d, [k, n])], smooth: false };
    },
    run: ([a, b]) => roots.matmulI8(a!, b!),
  },
  {
    name: 'quantizeRowsI8',
    expression: null,
    dtypes: ['float32'],
    build: (d, dtype) => ({ operands: [d.operand(d.shape(1, 4), dtype)], smooth: false }),
    run: ([x]) => {
      const { q, scale } = roots.quantizeRowsI8(x!);
      return q.cast('float32').mul(scale.unsqueeze(-1));
    },
  },
  {
    name: 'attentionI8',
    expression: null,
    dtypes: ['float32'],
    build: (d, dtype) => {
      const [b, shared, groups, n, tk, depth] = [
        1 + d.below(2),
        1 + d.below(3),
        1 + d.below(3),
        1 + d.below(5),
        1 + d.below(40),
        1 + d.below(40),
      ];
      return {
        operands: [
          d.operand([b, shared * groups, n, depth], dtype),
          int8(d, [b, shared, tk, depth]),
          d.operand([b, shared, tk], dtype, positive),
          int8(d, [b, shared, tk, depth]),
          d.operand([b, shared, tk], dtype, positive),
        ],
        smooth: false,
      };
    },
    run: ([q, k, ks, v, vs]) =>
      roots.attentionI8(q!, { q: k!, scale: ks! }, { q: v!, scale: vs! }, { scale: 0.01 }),
  },
  ...[
    'linearPacked',
    'linearPacked bf16',
    'linearW8A8',
    'linearW8A8Sparse24',
    'linearW8A16',
    'linearW4A16',
    'linear of a stored bf16 weight',
  ].map((name): Op => ({
    name,
    expression: null,
    dtypes: ['float32'],
    cpuOnly: name.startsWith('linearPacked') || name === 'linearW8A8Sparse24',
    build: (d, dtype) => {
      const shape = d.shape(1, 3);
      shape[shape.length - 1] = 1 + d.below(200);
      const n = 1 + d.below(60);
      const operands = [
        d.operand(shape, dtype),
        d.operand([n, shape.at(-1)!], dtype),
        d.operand([n], dtype, positive),
        d.operand([n], dtype),
      ];
      const options: Record<string, unknown> = { activation: d.of(Object.keys(activationIn)) };
      for (const end of ['gate', 'residual']) {
        options[end] = d.chance(0.5) ? operands.length : 0;
        if (options[end]) operands.push(d.operand([...shape.slice(0, -1), n], dtype));
      }
      return { operands, options, smooth: false };
    },
    run: (t, o) => {
      const [x, w, scale, bias] = t as [Tensor, Tensor, Tensor, Tensor];
      const end = {
        activation: o.activation as roots.Activation,
        gate: o.gate ? t[o.gate]! : null,
        residual: o.residual ? t[o.residual]! : null,
      };
      const outputs = w.shape[0]!;
      if (name === 'linearPacked')
        return roots.linearPacked(x, roots.packLinear(w), bias, { ...end, outputs });
      if (name === 'linearPacked bf16')
        return roots.linearPacked(x, roots.packLinear(w.cast('bfloat16')), bias, {
          ...end,
          outputs,
        });
      if (name === 'linear of a stored bf16 weight')
        return roots.linear(x, w.cast('bfloat16').detach(), bias, end);
      if (name === 'linearW4A16') {
        const { q, scale: scales } = roots.quantizeWeightI4(w, { group: 32 });
        return roots.linearW4A16(x, roots.packI4(q, scales, { group: 32 }), bias, {
          ...end,
          outputs,
          group: 32,
        });
      }
      const { q } = roots.quantizeWeightI8(w);
      if (name === 'linearW8A16') return roots.linearW8A16(x, roots.packI8(q), scale, bias, end);
      if (name === 'linearW8A8') return roots.linearW8A8(x, roots.packI8(q), scale, bias, end);
      const keep = tensor(
        Array.from({ length: q.shape[1]! }, (_, i) => (i % 4 < 2 ? 1 : 0)),
        { dtype: 'int32' },
      );
      return roots.linearW8A8Sparse24(
        x,
        roots.packI8Sparse24(q.mul(keep).cast('int8')),
        scale,
        bias,
        end,
      );
    },
  })),
];

const int8 = (d: Dice, shape: number[]): Operand =>
  d.operand(shape, 'int8', (dice) => dice.below(255) - 127);

function sequence(d: Dice, dtype: DType, gates: number, states: number): ReturnType<Build> {
  const [b, t, h] = [1 + d.below(4), 1 + d.below(6), 1 + d.below(12)];
  return {
    operands: [
      d.operand([b, t, gates * h], dtype),
      d.operand([gates * h, h], dtype),
      d.operand([gates * h], dtype),
      ...Array.from({ length: states }, () => d.operand([b, h], dtype)),
    ],
  };
}

/** An operand without stretched axes, some with gaps. */
function dense(d: Dice, shape: number[], dtype: DType): Operand {
  const bounds = shape.map((n): [number, number] => {
    const start = d.below(3);
    return [start, start + n];
  });
  const base = bounds.map(([, end]) => end + d.below(2));
  const values = Array.from({ length: sizeOf(base) }, () => d.normal());
  return { dtype, base, bounds, shape, values, order: shape.map((_, i) => i) };
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** The same for a gradient: what a stretched axis gets is a long sum. */
export function relativeGradientError(c: Case, y: Tensor, o: Operand): number {
  return 4 * relativeError(c, y) * Math.sqrt(Math.max(1, sizeOf(o.shape) / sizeOf(o.base)));
}

/** How far results may be off, in units of the largest. */
export function relativeError(c: Case, y: Tensor): number {
  const own = y.dtype === 'float32' ? 1e-6 : 0;
  return Math.max(...c.operands.map((o) => epsilons[o.dtype] ?? own));
}

const epsilons: Partial<Record<DType, number>> = {
  float64: 1e-11,
  float32: 1e-5,
  bfloat16: 0.02,
  float16: 0.003,
};

export function compare(
  got: ArrayLike<number>,
  want: readonly (number | string)[],
  relative: number,
  what: string,
): void {
  const expected = want.map((v) =>
    Number(typeof v === 'string' ? v.replace('inf', 'Infinity') : v),
  );
  expect(got.length, what).toBe(expected.length);
  const scale = expected.reduce((m, v) => (Number.isFinite(v) ? Math.max(m, Math.abs(v)) : m), 1);
  for (let i = 0; i < expected.length; i++) {
    const [g, w] = [got[i]!, expected[i]!];
    if (Object.is(g, w) || g === w || (Number.isNaN(g) && Number.isNaN(w))) continue;
    if (!(Math.abs(g - w) <= relative * scale))
      throw new Error(`${what}: element ${i} is ${g}, expected ${w} (largest ${scale})`);
  }
}
