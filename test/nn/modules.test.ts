import { describe, expect, it } from 'vitest';
import {
  Generator,
  cast,
  createModel,
  gradcheck,
  gruCell,
  gruSequence,
  lstmCell,
  lstmSequence,
  manualSeed,
  nn,
  noGrad,
  optim,
  rand,
  tensor,
  tidy,
  zeros,
} from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import * as kernels from '../../lib/native/kernels.gen.js';
import {
  describeWithFixtures,
  expectClose,
  expectNoLeak,
  fixtureTensors,
  numbers,
} from '../harness.js';

const f64 = { dtype: 'float64' } as const;
const generator = (): Generator => new Generator(11);
const random = (shape: number[]): Tensor =>
  rand(shape, { ...f64, low: -1, high: 1, generator: generator() });

/** Gradients of a module's parameters and of its input against central differences. */
async function check(module: nn.Module, x: Tensor, forward: (x: Tensor) => Tensor): Promise<void> {
  module.requiresGrad();
  for (const p of module.parameters()) p.grad = null;
  const weights = (() => {
    const y = forward(x);
    const w = rand(y.shape, { ...f64, generator: new Generator(5) });
    y.dispose();
    return w;
  })();
  const value = (): number => tidy(() => forward(x).mul(weights).sum().itemSync());
  x.setRequiresGrad();
  tidy(() => forward(x).mul(weights).sum().backward());
  const all: [string, Tensor][] = [['x', x], ...module.namedParameters()];
  for (const [name, p] of all) {
    const gradient = p.grad ? await numbers(p.grad) : new Float64Array(p.size);
    const values = Float64Array.from(await numbers(p));
    const some = new Set([0, 1, (p.size / 2) | 0, p.size - 1].filter((i) => i < p.size));
    for (const i of some) {
      const at = (v: number): number => {
        const changed = values.slice();
        changed[i] = v;
        const t = tensor(changed, { shape: p.shape });
        kernels.copy(t, p);
        t.dispose();
        return value();
      };
      const eps = 1e-6;
      const want = (at(values[i]! + eps) - at(values[i]! - eps)) / (2 * eps);
      at(values[i]!);
      expect(
        Math.abs(gradient[i]! - want),
        `${name}[${i}]: ${gradient[i]} and ${want}`,
      ).toBeLessThan(1e-5 + 1e-4 * Math.abs(want));
    }
  }
}

describe('layers made from sizes', () => {
  it('have the names, shapes and initial values of torch.nn', async () => {
    const g = generator();
    const linear = new nn.Linear(300, 20, { generator: g });
    expect([...linear.stateDict()].map(([n, t]) => [n, t.shape])).toEqual([
      ['weight', [20, 300]],
      ['bias', [20]],
    ]);
    const values = await numbers(linear.weight);
    const bound = 1 / Math.sqrt(300);
    expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...values)).toBeGreaterThan(0.99 * bound);
    expect(Math.min(...values)).toBeLessThan(-0.99 * bound);
    expect(new nn.Linear(3, 4, { bias: false, dtype: 'float64' }).weight.dtype).toBe('float64');
    const table = await numbers(new nn.Embedding(100, 50, { generator: g }).weight);
    const mean = table.reduce((a, b) => a + b, 0) / table.length;
    const variance = table.reduce((a, b) => a + (b - mean) ** 2, 0) / table.length;
    expect(Math.abs(mean)).toBeLessThan(0.05);
    expect(Math.abs(variance - 1)).toBeLessThan(0.08);
    const norm = new nn.LayerNorm(4);
    expectClose(
      await numbers(norm.forward(tensor([1, 2, 3, 4]))),
      [-1.3416, -0.4472, 0.4472, 1.3416],
      { rtol: 0, atol: 1e-4 },
    );
    expect(new nn.LayerNorm(4, { bias: false }).stateDict().size).toBe(1);
    expect(new nn.RMSNorm(4, { eps: 1e-5 }).eps).toBe(1e-5);
    // the same seed, the same values
    const again = new nn.Linear(300, 20, { generator: generator() });
    expect([...(await again.weight.data())]).toEqual([...values]);
  });
  it('refuse what they cannot be made of', () => {
    const bad = nn.Linear as unknown as new (...args: unknown[]) => unknown;
    expect(() => new bad()).toThrow(/Linear: weight must be a Tensor, got undefined/);
    expect(() => new bad(3)).toThrow(/Linear: outFeatures must be an integer from 1/);
    expect(() => new bad(3, 4, { biass: true })).toThrow(/unknown option "biass"/);
    expect(() => new nn.Linear({ weight: zeros([3]) })).toThrow(
      /weight must have shape \(out, in\)/,
    );
    expect(() => new nn.Embedding(10, 0)).toThrow(/width must be an integer from 1/);
    expect(() => new nn.Embedding(zeros([3]))).toThrow(/weight must have shape \(rows, width\)/);
    expect(() => new nn.LayerNorm(0)).toThrow(/width must be an integer from 1/);
    expect(() => new nn.Sequential({} as never)).toThrow(/layer 0 must be a Module/);
  });
  it('learn exclusive or in a Sequential, and its state dict loads into another', async () => {
    const make = (): nn.Sequential => {
      const g = generator();
      return new nn.Sequential(
        new nn.Linear(2, 16, { generator: g }),
        (x) => x.tanh(),
        new nn.Linear(16, 2, { generator: g }),
      );
    };
    const model = make().requiresGrad();
    expect([...model.stateDict().keys()]).toEqual(['0.weight', '0.bias', '2.weight', '2.bias']);
    const optimizer = new optim.AdamW(model.parameters(), { lr: 0.05 });
    const x = tensor([
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ]);
    const y = tensor([0, 1, 1, 0], { dtype: 'int32' });
    for (let i = 0; i < 100; i++) {
      tidy(() => model.forward(x).crossEntropy(y).backward());
      optimizer.step();
      optimizer.zeroGrad();
    }
    const copy = make();
    copy.loadStateDict(model.stateDict());
    expect([...(await copy.forward(x).argmax().data())].map(Number)).toEqual([0, 1, 1, 0]);
  });
});

describe('recurrent cells', () => {
  it('lstmCell: gradcheck, odd sizes', () => {
    for (const [b, h] of [
      [1, 1],
      [3, 5],
      [2, 17],
    ] as const)
      gradcheck(
        (pre, c) => {
          const out = lstmCell(pre, c);
          return out.h.add(out.c.mul(0.5));
        },
        [random([b, 4 * h]), random([b, h])],
      );
  });
  it('gruCell: gradcheck, odd sizes', () => {
    for (const [b, h] of [
      [1, 1],
      [3, 5],
      [2, 17],
    ] as const)
      gradcheck(
        (x, y, h0) => gruCell(x, y, h0),
        [random([b, 3 * h]), random([b, 3 * h]), random([b, h])],
      );
  });
  it('lstmSequence and gruSequence: gradcheck of outputs, last states, weights and first states', () => {
    for (const [b, t, h] of [
      [1, 1, 1],
      [3, 4, 5],
    ] as const) {
      gradcheck(
        (pre, w, bias, h0, c0) => {
          const out = lstmSequence(pre, w, bias, h0, c0);
          return out.y.sum({ dim: 1 }).add(out.h.mul(0.3)).add(out.c.mul(0.5));
        },
        [
          random([b, t, 4 * h]),
          random([4 * h, h]),
          random([4 * h]),
          random([b, h]),
          random([b, h]),
        ],
      );
      gradcheck(
        (pre, w, bias, h0) => {
          const out = gruSequence(pre, w, bias, h0);
          return out.y.sum({ dim: 1 }).add(out.h.mul(0.3));
        },
        [random([b, t, 3 * h]), random([3 * h, h]), random([3 * h]), random([b, h])],
      );
    }
  });
  it('sequences are their cells in turn', async () => {
    const [b, t, h] = [2, 3, 4];
    const [pre, w, bias, h0, c0] = [
      random([b, t, 4 * h]),
      random([4 * h, h]),
      random([4 * h]),
      random([b, h]),
      random([b, h]),
    ];
    const out = lstmSequence(pre, w, bias, h0, c0);
    let state = { h: h0, c: c0 };
    for (let i = 0; i < t; i++) {
      const x = pre.slice(1, i, i + 1).reshape([b, 4 * h]);
      state = lstmCell(x.add(state.h.linear(w, bias)), state.c);
      expect(await numbers(out.y.slice(1, i, i + 1))).toEqual(await numbers(state.h));
    }
    expect(await numbers(out.c)).toEqual(await numbers(state.c));
    const gru = gruSequence(pre.slice(2, 0, 12), w.slice(0, 0, 12), bias.slice(0, 0, 12), h0);
    let g = h0;
    for (let i = 0; i < t; i++) {
      const x = pre
        .slice(1, i, i + 1)
        .slice(2, 0, 12)
        .reshape([b, 12]);
      g = gruCell(x, g.linear(w.slice(0, 0, 12), bias.slice(0, 0, 12)), g);
      expect(await numbers(gru.y.slice(1, i, i + 1))).toEqual(await numbers(g));
    }
  });
  it('name wrong shapes', () => {
    expect(() =>
      lstmSequence(zeros([1, 2, 9]), zeros([8, 2]), zeros([8]), zeros([1, 2]), zeros([1, 2])),
    ).toThrow(/expected pre of shape \[B, T, 8\]/);
    expect(() => gruSequence(zeros([1, 2, 6]), zeros([6, 2]), zeros([6]), zeros([2, 2]))).toThrow(
      /expected h of shape \[1, 2\], got \[2, 2\]/,
    );
    expect(() => lstmCell(zeros([2, 9]), zeros([2, 2]))).toThrow(
      /expected products of shape \[B, 4 H\]/,
    );
    expect(() => gruCell(zeros([2, 6]), zeros([2, 5]), zeros([2, 2]))).toThrow(/\[B, 3 H\]/);
  });
});

describeWithFixtures('LSTM against torch (M06)', () => {
  it.each(['lstm_seq', 'lstm_cell'])(
    '%s: outputs, states and gradients in both precisions',
    async (name) => {
      const file = await fixtureTensors('ops/ops.safetensors');
      for (const [kind, dtype, tolerance] of [
        ['f32', 'float32', { rtol: 1e-5, atol: 2e-6 }],
        ['f64', 'float64', { rtol: 1e-10, atol: 1e-11 }],
      ] as const) {
        const take = async (n: string): Promise<Tensor> =>
          cast(await file.get(`${name}|in.${n}`), dtype).setRequiresGrad();
        const x = await take('x');
        const [b, , i] = x.shape as [number, number, number];
        const h0 = await take('h0');
        const c0 = await take('c0');
        const units = h0.shape[1]!;
        const lstm = new nn.LSTM({ inputSize: i, hiddenSize: units, dtype });
        lstm.loadStateDict(
          new Map(
            await Promise.all(
              (
                [
                  ['weight_ih_l0', 'w_ih'],
                  ['weight_hh_l0', 'w_hh'],
                  ['bias_ih_l0', 'b_ih'],
                  ['bias_hh_l0', 'b_hh'],
                ] as const
              ).map(async ([own, theirs]) => [own, await take(theirs)] as const),
            ),
          ),
        );
        lstm.requiresGrad();
        const { y, state } = lstm.forward(x, {
          h: h0.reshape([1, b, units]),
          c: c0.reshape([1, b, units]),
        });
        for (const [n, got] of [
          ['y', y],
          ['h', state.h],
          ['c', state.c!],
        ] as const)
          expectClose(
            await numbers(got),
            await numbers(await file.get(`${name}|${kind}.${n}`)),
            tolerance,
            n,
          );
        const dys = file.names.filter((n) => n.startsWith(`${name}|dy.`));
        let total: Tensor | null = null;
        for (const key of dys) {
          const which = { y, h: state.h, c: state.c! }[key.split('.')[1] as 'y']!;
          const part = which
            .reshape([which.size])
            .mul(cast(await file.get(key), dtype).reshape([which.size]))
            .sum();
          total = total ? total.add(part) : part;
        }
        total!.backward();
        const p = lstm.stateDict();
        for (const [n, t] of [
          ['x', x],
          ['h0', h0],
          ['c0', c0],
          ['w_ih', p.get('weight_ih_l0')!],
          ['w_hh', p.get('weight_hh_l0')!],
          ['b_ih', p.get('bias_ih_l0')!],
          ['b_hh', p.get('bias_hh_l0')!],
        ] as const)
          expectClose(
            await numbers(t.grad!),
            await numbers(await file.get(`${name}|${kind}.d_${n}`)),
            tolerance,
            `d_${n}`,
          );
      }
    },
  );
});

describe('modules: gradients of every parameter', () => {
  const x = (): Tensor => random([2, 5, 8]);
  it('LSTM and GRU of two layers', async () => {
    const lstm = new nn.LSTM({
      inputSize: 8,
      hiddenSize: 3,
      numLayers: 2,
      generator: generator(),
      ...f64,
    });
    await check(lstm, x(), (v) => lstm.forward(v).y);
    const gru = new nn.GRU({
      inputSize: 8,
      hiddenSize: 3,
      numLayers: 2,
      generator: generator(),
      ...f64,
    });
    await check(gru, x(), (v) => gru.forward(v).y);
  });
  it('MultiHeadAttention: alone, causal, across, with padding', async () => {
    const m = new nn.MultiHeadAttention({
      embedDim: 8,
      numHeads: 2,
      generator: generator(),
      ...f64,
    });
    const source = random([2, 7, 8]);
    const keyMask = tensor([1, 1, 1, 1, 0, 1, 1, 0, 0, 0], { dtype: 'int32' }).reshape([2, 5]);
    await check(m, x(), (v) => m.forward(v).output);
    await check(m, x(), (v) => m.forward(v, v, { causal: true }).output);
    await check(m, x(), (v) => m.forward(v, source).output);
    await check(m, x(), (v) => m.forward(v, v, { keyMask }).output);
    // the written-out weights give the same result as the fused kernel
    const { output, weights } = m.forward(x(), undefined, { causal: true, needWeights: true });
    expectClose(
      await numbers(output),
      await numbers(m.forward(x(), undefined, { causal: true }).output),
      { rtol: 1e-9, atol: 1e-10 },
      'weights',
    );
    expectClose(
      await numbers(weights!.sum({ dim: -1 })),
      Array.from({ length: 20 }, () => 1),
      { rtol: 1e-12, atol: 0 },
      'rows',
    );
  });
  it('MLP with GELU and SwiGLU', async () => {
    for (const activation of ['gelu', 'relu', 'swiglu'] as const) {
      const m = new nn.MLP({ dim: 8, hidden: 12, activation, generator: generator(), ...f64 });
      await check(m, x(), (v) => m.forward(v));
    }
  });
  it('encoder and decoder, pre-norm and post-norm', async () => {
    for (const preNorm of [true, false]) {
      const options = { dim: 8, heads: 2, hidden: 12, preNorm, generator: generator(), ...f64 };
      const encoder = new nn.TransformerEncoder(2, options);
      await check(encoder, x(), (v) => encoder.forward(v));
      const decoder = new nn.TransformerDecoder(1, options);
      const source = random([2, 6, 8]);
      await check(decoder, x(), (v) => decoder.forward(v, source));
      expect(() => new nn.TransformerLayer(options).forward(x(), { source })).toThrow(
        /takes no source/,
      );
      expect(() => new nn.TransformerLayer(options, true).forward(x())).toThrow(/needs a source/);
    }
  });
  it('dropout acts in training alone, and memory is given back', async () => {
    const encoder = new nn.TransformerEncoder(1, { dim: 8, heads: 2, hidden: 12, dropout: 0.5 });
    const v = rand([2, 5, 8]);
    const plain = await numbers(encoder.forward(v));
    encoder.train();
    manualSeed(1);
    const a = await numbers(encoder.forward(v));
    manualSeed(1);
    expect(await numbers(encoder.forward(v))).toEqual(a);
    expect(a).not.toEqual(plain);
    await expectNoLeak(() => tidy(() => void encoder.forward(v)));
  });
  it('names wrong sizes', () => {
    expect(() => new nn.MultiHeadAttention({ embedDim: 8, numHeads: 3 })).toThrow(/not a multiple/);
    expect(() => new nn.Dropout(1)).toThrow(/from 0 to 1/);
    expect(() => new nn.LSTM({ inputSize: 4, hiddenSize: 4 }).forward(zeros([2, 3, 5]))).toThrow(
      /expected \(B, T, 4\)/,
    );
  });
});

describe('initialisers', () => {
  it('have the moments that their papers give them', async () => {
    const make = (): Tensor => zeros([200, 300]);
    const std = async (t: Tensor): Promise<number> => {
      const v = await numbers(t);
      const mean = v.reduce((a, b) => a + b, 0) / v.length;
      return Math.sqrt(v.reduce((a, b) => a + (b - mean) ** 2, 0) / v.length);
    };
    const cases: [nn.init.InitName, number][] = [
      ['xavierUniform', Math.sqrt(2 / 500)],
      ['xavierNormal', Math.sqrt(2 / 500)],
      ['kaimingUniform', Math.sqrt(2 / 300)],
      ['kaimingNormal', Math.sqrt(2 / 300)],
      ['normal', 1],
      ['uniform', Math.sqrt(1 / 12)],
    ];
    for (const [name, want] of cases) {
      const got = await std(nn.init.initialise(make(), name, generator()));
      expect(Math.abs(got / want - 1), name).toBeLessThan(0.02);
    }
    expect(() => nn.init.initialise(make(), 'he' as nn.init.InitName)).toThrow(
      /unknown initialiser/,
    );
    expect(() => nn.init.xavierNormal(zeros([3]))).toThrow(/two axes/);
  });
});

describe('Module.to', () => {
  it.each(['gpt2', 'llama', 'lstm'] as const)('%s: other dtypes, and back', async (kind) => {
    const size = { layers: 2, heads: 2, dim: 16, context: 8 };
    using model = createModel(kind, size, 11, null, new Generator(1));
    const inputIds = tensor([[1, 5, 2, 7]], { dtype: 'int32' });
    const logits = async (): Promise<Float64Array> =>
      numbers(tidy(() => noGrad(() => model.forward({ inputIds }).logits)));
    const before = await logits();
    const [weight] = model.parameters() as [Tensor];
    const bytes = weight.storage.bytes;
    model.to('float64');
    expect(weight.dtype).toBe('float64');
    expectClose(await logits(), before, { atol: 1e-5, rtol: 1e-5 }, 'float64');
    model.to('bfloat16');
    expect(weight.storage.bytes).toBe(bytes / 2);
    expectClose(await logits(), before, { atol: 0.02, rtol: 0.02 }, 'bfloat16');
    model.to('float32').requiresGrad();
    model.loss({ inputIds, labels: inputIds }).backward();
    expect(weight.grad!.dtype).toBe('float32');
    expect(() => model.to('int8' as 'float32')).toThrow(/to: target must be one of/);
    expect(() => weight.setData(zeros([1]))).toThrow(/setData: expected a tensor of shape/);
  });
});
