// What the benchmarks run: one kernel at one shape each, with the arithmetic or the bytes it needs and what peers call the same.
import { backward } from '../autograd/backward.js';
import { autocast } from '../autograd/modes.js';
import { GPT2LMHeadModel } from '../models/gpt2.js';
import { AdamW } from '../optim/adam.js';
import { gradientScale } from '../optim/optimizer.js';
import { attention } from '../ops/attention.js';
import { cast } from '../ops/cast.js';
import { linearPacked, packLinear } from '../ops/linear_packed.js';
import { add, gelu, mul, swiglu } from '../ops/elementwise.js';
import { layerNorm } from '../ops/layer_norm.js';
import { crossEntropy } from '../ops/losses.js';
import { linear, matmul } from '../ops/matmul.js';
import { linearW4A16, packI4, quantizeWeightI4 } from '../ops/matmul_i4.js';
import {
  linearW8A16,
  linearW8A8,
  linearW8A8Sparse24,
  matmulI8,
  packI8,
  packI8Sparse24,
  quantizeWeightI8,
} from '../ops/matmul_i8.js';
import { softmax } from '../ops/softmax.js';
import { matmulStrassen } from '../ops/strassen.js';
import { reshape, transpose } from '../ops/view.js';
import { ones, tensor, zeros } from '../tensor/create.js';
import { OptionError } from '../tensor/errors.js';
import { Generator, randn } from '../tensor/random.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { encoderCase } from './encoder_case.js';
import type { PeerSpec } from './peers.js';

/** Arithmetic of a kind with a measured peak, or bytes moved. */
export type Kind = 'f32' | 'bf16' | 'i8' | 'bytes';

export interface Case {
  kernel: string;
  shape: string;
  /** Operations (a multiply-add is two), or bytes. */
  operations: number;
  /** Bytes of operands and results, each counted once: what must cross the memory bus when no cache helps. */
  bytes: number;
  kind: Kind;
  inputs: () => Tensor[];
  /** Issues the operation; what it returns is disposed. */
  run: (...inputs: Tensor[]) => Tensor | null;
  /** Calls before timing last this long: the JavaScript engine compiles what a model does in the first second. Default 0. */
  warmMs?: number;
  /** Releases what `inputs` made besides tensors. */
  dispose?: () => void;
  /** The same by other libraries. */
  peer?: PeerSpec;
}

export interface Suite {
  about: string;
  sizes: readonly number[];
  cases: (sizes: readonly number[]) => Case[];
}

const layouts = ['nn', 'nt', 'tn', 'tt'] as const;

function gemm(sizes: readonly number[]): Case[] {
  return sizes.flatMap((n) => {
    const product = (
      kernel: string,
      run: Case['run'],
      layout: string,
      dtype: 'float32' | 'bfloat16' = 'float32',
    ): Case => ({
      kernel,
      shape: `${n}x${n}x${n}`,
      operations: 2 * n ** 3,
      bytes: 12 * n * n,
      kind: dtype === 'float32' ? 'f32' : 'bf16',
      inputs: () => [randn([n, n]), randn([n, n])],
      run,
      peer: { op: 'matmul', m: n, n, k: n, layout, dtype },
    });
    return [
      ...layouts.map((layout) =>
        product(
          `gemm f32 ${layout}`,
          (a, b) => {
            const x = layout[0] === 't' ? transpose(a!) : a!;
            const y = layout[1] === 't' ? transpose(b!) : b!;
            const out = matmul(x, y);
            if (x !== a) x.dispose();
            if (y !== b) y.dispose();
            return out;
          },
          layout,
        ),
      ),
      // counted as the product that it replaces: its share of the peak may exceed 100 %
      product('gemm f32 nn, Strassen', (a, b) => matmulStrassen(a!, b!), 'nn'),
      product(
        'gemm bf16 nn',
        (a, b) => autocast('bfloat16', () => matmul(a!, b!)),
        'nn',
        'bfloat16',
      ),
    ];
  });
}

type Weight =
  | 'f32'
  | 'f32 packed'
  | 'bf16'
  | 'bf16 packed'
  | 'w8a8'
  | 'w8a8 2:4'
  | 'w8a16'
  | 'w4a16';

const weightBytes: Record<Weight, number> = {
  f32: 4,
  'f32 packed': 4,
  bf16: 2,
  'bf16 packed': 2,
  w8a8: 1,
  'w8a8 2:4': 0.625,
  w8a16: 1,
  w4a16: 0.53,
};

function weightCase(weight: Weight, m: number, n: number, k: number): Case {
  const half = weight.startsWith('bf16');
  return {
    kernel: `linear ${weight}`,
    shape: `${m}x${n}x${k}`,
    operations: 2 * m * n * k,
    bytes: 4 * (m * k + m * n) + weightBytes[weight] * n * k,
    kind: weight.startsWith('w8a8') || weight === 'w4a16' ? 'i8' : half ? 'bf16' : 'f32',
    inputs: () =>
      tidy(() => {
        const x = randn([m, k]);
        const w = randn([n, k], { std: 0.02 });
        if (weight === 'f32') return [x, w];
        if (weight === 'f32 packed') return [x, packLinear(w)];
        if (weight === 'bf16') return [x, cast(w, 'bfloat16')];
        if (weight === 'bf16 packed') return [x, packLinear(cast(w, 'bfloat16'))];
        if (weight === 'w4a16') {
          const int4 = quantizeWeightI4(w, { clip: false });
          return [x, packI4(int4.q, int4.scale)];
        }
        if (weight === 'w8a8 2:4') {
          // two of each four inputs dropped
          const keep = tensor([1, 0, 1, 0]);
          const sparse = reshape(mul(reshape(w, [n, k / 4, 4]), keep), [n, k]);
          const { q, scale } = quantizeWeightI8(sparse, { clip: false });
          return [x, packI8Sparse24(q), scale];
        }
        const { q, scale } = quantizeWeightI8(w, { clip: false });
        return [x, packI8(q), scale];
      }),
    run: (x, w, scale) => {
      if (weight === 'f32' || weight === 'bf16') return linear(x!, w!);
      if (weight === 'f32 packed' || weight === 'bf16 packed')
        return linearPacked(x!, w!, null, { outputs: n });
      if (weight === 'w4a16') return linearW4A16(x!, w!, null, { outputs: n });
      const kernel = {
        w8a8: linearW8A8,
        'w8a8 2:4': linearW8A8Sparse24,
        w8a16: linearW8A16,
      }[weight];
      return kernel(x!, w!, scale!);
    },
    ...(weight.startsWith('f32') && { peer: { op: 'linear', m, n, k } }),
    ...(half && { peer: { op: 'linear', m, n, k, dtype: 'bfloat16' } }),
    ...(weight === 'w8a8' && { peer: { op: 'linear_dynamic_int8', m, n, k } }),
  };
}

function int8(sizes: readonly number[]): Case[] {
  const square = sizes.flatMap((n): Case[] => [
    {
      kernel: 'matmulI8 (int32 out)',
      shape: `${n}x${n}x${n}`,
      operations: 2 * n ** 3,
      bytes: 6 * n * n,
      kind: 'i8',
      inputs: () =>
        tidy(() => [
          cast(randn([n, n], { std: 40 }), 'int8'),
          cast(randn([n, n], { std: 40 }), 'int8'),
        ]),
      run: (a, b) => matmulI8(a!, b!),
      peer: { op: 'int_mm', m: n, n, k: n },
    },
    ...(['f32', 'w8a8', 'w8a16'] as const).map((w) => weightCase(w, n, n, n)),
  ]);
  const few = [1, 8, 64].flatMap((m) =>
    (['f32', 'w8a8', 'w8a16', 'w4a16'] as const).map((w) => weightCase(w, m, 3072, 768)),
  );
  // beyond L3, where decoding is bound by the bytes of weights
  const large =
    Math.max(...sizes) < 512
      ? []
      : (['w8a8', 'w8a8 2:4'] as const).map((w) => weightCase(w, 1, 49152, 4096));
  return [...square, ...few, ...large];
}

function stored(x: Tensor, dtype: 'float32' | 'bfloat16'): Tensor {
  if (dtype === 'float32') return x;
  const half = cast(x, dtype);
  x.dispose();
  return half;
}

function attentionCase(
  t: number,
  options: {
    causal: boolean;
    b?: number;
    tq?: number;
    d?: number;
    backward?: boolean;
    dtype?: 'float32' | 'bfloat16';
  },
): Case {
  const { causal, b = 1, tq = t, d = 64, backward: back = false, dtype = 'float32' } = options;
  const h = 12;
  const half = dtype === 'bfloat16';
  const name = `attention ${half ? 'bf16' : 'f32'} ${back ? 'backward ' : ''}${tq === 1 ? 'one query' : causal ? 'causal' : 'full'}`;
  return {
    kernel: name,
    shape: `b${b}h${h}t${t}d${d}`,
    // Q Kᵀ and P V (five products instead of two on the way back); causal counts the half that is needed
    operations: ((2 * 2 * b * h * tq * t * d) / (causal && tq > 1 ? 2 : 1)) * (back ? 2.5 : 1),
    bytes: (half ? 2 : 4) * b * h * d * (2 * tq + 2 * t) * (back ? 2 : 1),
    kind: half ? 'bf16' : 'f32',
    inputs: () => {
      const [q, k, v] = [tq, t, t].map((n) => stored(randn([b, h, n, d]), dtype)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      if (!back) return [q, k, v];
      for (const x of [q, k, v]) x.setRequiresGrad();
      return [q, k, v, randn([b, h, tq, d]), attention(q, k, v, { causal })];
    },
    run: (q, k, v, dy, out) => {
      if (!back) return attention(q!, k!, v!, { causal: causal && tq > 1 });
      tidy(() => backward(out!, dy!, { retainGraph: true }));
      for (const x of [q!, k!, v!]) {
        x.grad!.dispose();
        x.grad = null;
      }
      return null;
    },
    peer: {
      op: 'attention',
      b,
      h,
      tq,
      tk: t,
      d,
      dtype,
      causal: causal && tq > 1,
      backward: back,
    },
  };
}

/** What the fused kernel replaces: all scores written down, three operations. */
function unfused(t: number): Case {
  const { shape, operations, bytes, kind, inputs } = attentionCase(t, { causal: false });
  return {
    kernel: 'attention f32 full, unfused',
    shape,
    operations,
    bytes,
    kind,
    inputs,
    run: (q, k, v) =>
      tidy(() => matmul(softmax(mul(matmul(q!, transpose(k!)), 1 / Math.sqrt(q!.shape[3]!))), v!)),
  };
}

function attentions(sizes: readonly number[]): Case[] {
  return sizes.flatMap((t) => [
    attentionCase(t, { causal: true }),
    attentionCase(t, { causal: false }),
    unfused(t),
    attentionCase(t, { causal: true, backward: true }),
    attentionCase(t, { causal: true, dtype: 'bfloat16' }),
  ]);
}

/** What one decoded token of GPT-2 124M costs: products with one row, and attention over the cache. */
function decode(sizes: readonly number[]): Case[] {
  const shapes = [
    [2304, 768],
    [3072, 768],
    [768, 3072],
    [50257, 768],
  ] as const;
  return [
    ...shapes.flatMap(([n, k]) =>
      (['f32', 'bf16', 'w8a8', 'w8a16', 'w4a16'] as const).map((w) => weightCase(w, 1, n, k)),
    ),
    ...sizes.flatMap((t) =>
      (['float32', 'bfloat16'] as const).map((dtype) =>
        attentionCase(t, { causal: true, tq: 1, dtype }),
      ),
    ),
  ];
}

function rowsCase(
  op: string,
  rows: number,
  columns: number,
  passes: number,
  inputs: () => Tensor[],
  run: Case['run'],
): Case {
  return {
    kernel: op,
    shape: `${rows}x${columns}`,
    operations: 4 * passes * rows * columns,
    bytes: 4 * passes * rows * columns,
    kind: 'bytes',
    inputs,
    run,
    peer: { op, rows, columns },
  };
}

function memoryBound(sizes: readonly number[]): Case[] {
  return sizes.flatMap((rows) => {
    const x = (columns: number) => (): Tensor[] => [randn([rows, columns])];
    return [
      rowsCase(
        'add',
        rows,
        3072,
        3,
        () => [randn([rows, 3072]), randn([rows, 3072])],
        (a, b) => add(a!, b!),
      ),
      rowsCase('gelu', rows, 3072, 2, x(3072), (a) => gelu(a!, { approximate: 'tanh' })),
      rowsCase(
        'layer_norm',
        rows,
        768,
        2,
        () => [randn([rows, 768]), ones([768]), zeros([768])],
        (a, w, b) => layerNorm(a!, w!, b!),
      ),
      rowsCase('softmax', rows, 1024, 2, x(1024), (a) => softmax(a!)),
      rowsCase(
        'cross_entropy',
        rows,
        50257,
        3,
        () => {
          const t = Int32Array.from({ length: rows }, (_, i) => (i * 7919) % 50257);
          return [randn([rows, 50257]).setRequiresGrad(), tensor(t)];
        },
        (a, t) => {
          tidy(() => backward(crossEntropy(a!, t!)));
          a!.grad!.dispose();
          a!.grad = null;
          return null;
        },
      ),
      adamw(rows * 10_000),
    ];
  });
}

function adamw(size: number): Case {
  const columns = 1000;
  const rows = Math.ceil(size / columns);
  const optimizers = new WeakMap<Tensor, AdamW>();
  return rowsCase(
    'adamw',
    rows,
    columns,
    7,
    () => {
      const p = randn([rows, columns]).setRequiresGrad();
      p.grad = randn([rows, columns]);
      optimizers.set(p, new AdamW([p], { lr: 1e-4 }));
      return [p];
    },
    (p) => {
      optimizers.get(p!)!.step();
      return null;
    },
  );
}

/** x + down(silu(gate(x)) ⊙ up(x)) by kernels of packed weights that do the rest inside, or by separate kernels. */
function swigluCase(m: number, dim: number, fused: boolean): Case {
  const hidden = Math.ceil((dim * 8) / 3 / 32) * 32;
  return {
    kernel: `SwiGLU and residual${fused ? '' : ', unfused'}`,
    shape: `${m}x${dim}x${hidden}`,
    operations: 6 * m * dim * hidden,
    bytes: 4 * (2 * m * dim + 3 * dim * hidden),
    kind: 'f32',
    warmMs: 200,
    inputs: () =>
      tidy(() => [
        randn([m, dim]),
        ...[hidden, hidden, dim].map((n) =>
          packLinear(randn([n, n === dim ? hidden : dim], { std: 0.02 })),
        ),
      ]),
    run: (x, gate, up, down) =>
      tidy(() => {
        if (!fused) {
          const [g, u] = [gate!, up!].map((w) => linearPacked(x!, w, null, { outputs: hidden }));
          return add(x!, linearPacked(swiglu(g!, u!), down!, null, { outputs: dim }));
        }
        const g = linearPacked(x!, gate!, null, { outputs: hidden, activation: 'silu' });
        const h = linearPacked(x!, up!, null, { outputs: hidden, gate: g });
        return linearPacked(h, down!, null, { outputs: dim, residual: x! });
      }),
    peer: { op: 'swiglu', m, dim, hidden },
  };
}

function fewRows(sizes: readonly number[]): Case[] {
  const products = [1, 8, 64].flatMap((m) =>
    sizes.flatMap((n) =>
      (['f32', 'f32 packed', 'bf16', 'bf16 packed'] as const).flatMap((w) => [
        weightCase(w, m, n, 768),
        ...(n === 3072 ? [weightCase(w, m, 768, 3072)] : []),
      ]),
    ),
  );
  const dim = Math.min(...sizes);
  const layers = [1, 8, 64, 512].flatMap((m) =>
    [true, false].map((fused) => swigluCase(m, dim, fused)),
  );
  return [...products, ...layers];
}

/** GPT shapes by width: nanoGPT's CPU preset, and GPT-2 124M with 4 × 256 tokens. */
const trainShapes: Readonly<Record<number, Omit<TrainShape, 'dim'>>> = {
  128: { layers: 4, heads: 4, context: 64, batch: 12, vocab: 65 },
  768: { layers: 12, heads: 12, context: 256, batch: 4, vocab: 50257 },
};

interface TrainShape {
  layers: number;
  heads: number;
  dim: number;
  context: number;
  batch: number;
  vocab: number;
}

/** Forward, backward, clipping to norm 1 and AdamW. */
function trainStep(shape: TrainShape, dtype: 'float32' | 'bfloat16'): Case {
  const { layers, heads, dim, context, batch, vocab } = shape;
  const tokens = batch * context;
  let model: GPT2LMHeadModel | null = null;
  let optimizer: AdamW | null = null;
  return {
    kernel: `train step ${dtype === 'float32' ? 'f32' : 'bf16'}`,
    shape: `${layers}x${dim}, ${batch}x${context}`,
    // forward once and backward twice: products of the blocks and of the head, and attention
    operations:
      3 *
      (layers * (24 * tokens * dim * dim + 4 * tokens * context * dim) + 2 * tokens * dim * vocab),
    bytes: 28 * (12 * layers * dim * dim + vocab * dim),
    kind: dtype === 'float32' ? 'f32' : 'bf16',
    inputs: () => {
      const config = {
        architectures: ['GPT2LMHeadModel'],
        model_type: 'gpt2',
        n_embd: dim,
        n_head: heads,
        n_layer: layers,
        n_positions: context,
        vocab_size: vocab,
        resid_pdrop: 0,
        embd_pdrop: 0,
        attn_pdrop: 0,
      };
      model = GPT2LMHeadModel.create(config, new Generator(1)).requiresGrad();
      model.train();
      optimizer = new AdamW(model.parameters(), { lr: 1e-4 });
      const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocab);
      return [tensor(ids, { shape: [batch, context] })];
    },
    run: (ids) => {
      const params = model!.parameters();
      const loss = tidy(() => {
        const l = autocast(dtype, () => model!.loss({ inputIds: ids!, targets: ids! }));
        backward(l);
        return l.detach();
      });
      using scale = gradientScale(params, { maxNorm: 1, loss });
      optimizer!.step({ scale });
      optimizer!.zeroGrad();
      return loss;
    },
    dispose: () => {
      optimizer?.dispose();
      model?.dispose();
    },
    peer: { op: 'train_step', ...shape, dtype },
  };
}

function training(sizes: readonly number[]): Case[] {
  return sizes.flatMap((dim) => {
    const shape = trainShapes[dim];
    if (!shape)
      throw new OptionError(
        `bench train: sizes must be among ${Object.keys(trainShapes).join(', ')}, got ${dim}`,
      );
    return (['float32', 'bfloat16'] as const).map((d) => trainStep({ ...shape, dim }, d));
  });
}

export const benchNames = [
  'gemm',
  'linear',
  'int8',
  'attention',
  'decode',
  'memory',
  'train',
  'encoder',
] as const;
export type BenchName = (typeof benchNames)[number];

export const suites: Readonly<Record<BenchName, Suite>> = {
  gemm: { about: 'square matrix products', sizes: [256, 512, 1024, 2048], cases: gemm },
  linear: {
    about: 'x Wᵀ with 1, 8 and 64 rows, SwiGLU layers',
    sizes: [768, 3072, 50257],
    cases: fewRows,
  },
  int8: { about: 'int8 products', sizes: [512, 1024, 2048], cases: int8 },
  attention: { about: 'fused attention', sizes: [256, 512, 1024], cases: attentions },
  decode: { about: 'one token of GPT-2 124M', sizes: [256, 1024], cases: decode },
  memory: { about: 'kernels bound by memory', sizes: [1024], cases: memoryBound },
  train: {
    about: 'a training step: nanoGPT on a CPU (size 128), GPT-2 124M (768)',
    sizes: [128],
    cases: training,
  },
  encoder: {
    about: 'the layers of BERT-base, batch 1, float32 and int8, by tokens',
    sizes: [128],
    cases: (sizes) =>
      sizes.flatMap((tokens) => [encoderCase(tokens, false), encoderCase(tokens, true)]),
  },
};
