import { describe, expect, it } from 'vitest';
import {
  add,
  embedding,
  mul,
  Generator,
  GPT2LMHeadModel,
  LlamaForCausalLM,
  autocast,
  cast,
  checkpoint,
  crossEntropy,
  gradcheck,
  linear,
  linearCrossEntropy,
  manualSeed,
  matmul,
  rand,
  randn,
  relu,
  tensor,
  tidy,
  transpose,
} from '../../lib/index.js';
import type { CausalLM, Tensor } from '../../lib/index.js';
import { expectClose, expectNoLeak, numbers } from '../harness.js';

const tiny = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  n_embd: 16,
  n_head: 2,
  n_layer: 2,
  n_positions: 12,
  vocab_size: 19,
  resid_pdrop: 0.2,
  embd_pdrop: 0.1,
  attn_pdrop: 0.1,
};
const tinyLlama = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 12,
  vocab_size: 19,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};
const models = {
  gpt2: () => GPT2LMHeadModel.create(tiny, new Generator(3)),
  llama: () => LlamaForCausalLM.create(tinyLlama, new Generator(3)),
};
const ids = (): Tensor =>
  tensor(
    Int32Array.from({ length: 24 }, (_, i) => (i * 7) % 19),
    { shape: [2, 12] },
  );

async function gradients(model: CausalLM): Promise<number[][]> {
  const out: number[][] = [];
  for (const p of model.parameters()) out.push([...(await numbers(p.grad!))]);
  return out;
}

describe('linearCrossEntropy', () => {
  const targets = [1, 4, -100, 0, 2];
  it('has the gradients of central differences, in pieces and whole', () => {
    for (const maxLogits of [1, 12, 1000])
      gradcheck(
        (x, w) =>
          linearCrossEntropy(x, w, tensor(targets, { dtype: 'int32' }), {
            maxLogits,
            labelSmoothing: 0.1,
          }),
        [rand([5, 3], { dtype: 'float64' }), rand([6, 3], { dtype: 'float64' })],
      );
  });
  it('equals crossEntropy(linear(x, w))', async () => {
    const [x, w] = [rand([2, 5, 8]).setRequiresGrad(), rand([7, 8]).setRequiresGrad()];
    const t = tensor([1, 2, 3, -100, 5, 0, 0, 6, -100, 1], { dtype: 'int64' }).reshape([2, 5]);
    const a = linearCrossEntropy(x, w, t, { maxLogits: 21 });
    a.backward();
    const [dx, dw] = [await numbers(x.grad!), await numbers(w.grad!)];
    [x.grad, w.grad] = [null, null];
    const b = crossEntropy(linear(x, w), t);
    b.backward();
    expectClose([await a.item()], [await b.item()], { rtol: 1e-6, atol: 0 }, 'loss');
    expectClose(dx, await numbers(x.grad!), { rtol: 1e-5, atol: 1e-7 }, 'dx');
    expectClose(dw, await numbers(w.grad!), { rtol: 1e-5, atol: 1e-7 }, 'dw');
  });
  it('gives the same gradients when backward runs again, and with a table that is also the embedding', async () => {
    const [w, t] = [rand([7, 8]).setRequiresGrad(), tensor([1, 2, 3, 0, 5], { dtype: 'int32' })];
    const rows = tensor([6, 2, 2, 0, 1], { dtype: 'int32' });
    const loss = mul(linearCrossEntropy(embedding(rows, w), w, t), 3);
    loss.backward(undefined, { retainGraph: true });
    const once = [...(await numbers(w.grad!))];
    loss.backward();
    const twice = await numbers(w.grad!);
    expectClose(
      twice,
      once.map((g) => 2 * g),
      { rtol: 1e-5, atol: 1e-6 },
      'twice',
    );
    // the two roles of the table as two tensors
    const [table, head] = [w.detach().setRequiresGrad(), w.detach().setRequiresGrad()];
    mul(linearCrossEntropy(embedding(rows, table), head, t), 3).backward();
    const apart = await numbers(add(table.grad!, head.grad!));
    expectClose(once, apart, { rtol: 1e-5, atol: 1e-6 }, 'two roles');
  });
  it('is NaN when nothing counts, and names wrong shapes', async () => {
    const [x, w] = [rand([2, 3]), rand([4, 3])];
    expect(
      await linearCrossEntropy(x, w, tensor([-100, -100], { dtype: 'int32' })).item(),
    ).toBeNaN();
    expect(() => linearCrossEntropy(x, rand([4, 2]), tensor([0, 0], { dtype: 'int32' }))).toThrow(
      /last dimension/,
    );
    expect(() => linearCrossEntropy(x, w, tensor([0], { dtype: 'int32' }))).toThrow(
      /targets must have shape/,
    );
    expect(() => linearCrossEntropy(x, w, tensor([0, 9], { dtype: 'int32' })).dataSync()).toThrow(
      /target/,
    );
  });
});

describe('autocast to bfloat16', () => {
  // products of operands rounded to bf16: 8 bits of mantissa, so relative errors of 2^-8 at most per operand
  const round = (x: number): number => {
    const f = new Float32Array([x]);
    const u = new Uint32Array(f.buffer);
    u[0] = (u[0]! + 0x7fff + ((u[0]! >>> 16) & 1)) & 0xffff0000;
    return f[0]!;
  };
  it.each([
    [1, 1, 1],
    [3, 5, 7],
    [17, 33, 31],
    [64, 64, 64],
    [15, 40, 769],
    [5, 3, 9001],
    [34, 33, 2500],
    [130, 70, 801],
  ])(
    'matmul %i × %i × %i of every transpose equals float64 on rounded operands (C15)',
    async (m, n, k) => {
      for (const [ta, tb] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ]) {
        const a = rand(ta ? [k, m] : [m, k], { low: -1, high: 1 });
        const b = rand(tb ? [n, k] : [k, n], { low: -1, high: 1 });
        const [av, bv] = [(await numbers(a)).map(round), (await numbers(b)).map(round)];
        const y = autocast('bfloat16', () =>
          matmul(ta ? a.transpose() : a, tb ? b.transpose() : b),
        );
        const want: number[] = [];
        for (let i = 0; i < m; i++)
          for (let j = 0; j < n; j++) {
            let sum = 0;
            for (let q = 0; q < k; q++)
              sum +=
                (ta ? av[q * m + i]! : av[i * k + q]!) * (tb ? bv[j * k + q]! : bv[q * n + j]!);
            want.push(sum);
          }
        expectClose(
          await numbers(y),
          want,
          { rtol: 1e-5, atol: 1e-5 * Math.sqrt(k) },
          `${ta} ${tb}`,
        );
      }
    },
  );
  it.each([1, 2, 3, 4, 7, 8, 33, 64, 65])(
    'a stored bfloat16 weight serves %i rows of float32 as its rounded values would (C15)',
    async (m) => {
      for (const [n, k] of [
        [1, 1],
        [50, 33],
        [17, 100],
        [129, 768],
      ] as const) {
        const x = rand([m, k], { low: -1, high: 1 });
        const w = rand([n, k], { low: -1, high: 1 });
        const b = rand([n]);
        const stored = w.cast('bfloat16');
        const [xv, wv, bv] = [
          (await numbers(x)).map(round),
          (await numbers(w)).map(round),
          await numbers(b),
        ];
        const want: number[] = [];
        for (let i = 0; i < m; i++)
          for (let j = 0; j < n; j++) {
            let sum = bv[j]!;
            for (let q = 0; q < k; q++) sum += xv[i * k + q]! * wv[j * k + q]!;
            want.push(Math.max(0, sum));
          }
        const tolerance = { rtol: 1e-5, atol: 1e-5 * Math.sqrt(k) };
        const y = linear(x, stored, b, { activation: 'relu' });
        expect(y.dtype).toBe('float32');
        expectClose(await numbers(y), want, tolerance, `${n} ${k}`);
        const conv = stored.transpose().contiguous(); // (K, N), as GPT-2 stores it
        const z = linear(x, conv.transpose(), b, { activation: 'relu' });
        expectClose(await numbers(z), want, tolerance, `${n} ${k} transposed`);
        const half = linear(x.cast('bfloat16'), stored, b.cast('bfloat16'), { activation: 'relu' });
        expect(half.dtype).toBe('bfloat16');
        expectClose(await numbers(half), want, { rtol: 0.02, atol: 0.02 }, 'bfloat16 all over');
      }
      expect(() => linear(rand([m, 4]).cast('float64'), rand([2, 4]).cast('bfloat16'))).toThrow(
        /different dtypes/,
      );
    },
  );
  it('bfloat16 tensors, odd strides, NaN and infinity', async () => {
    const a = rand([6, 10]).cast('bfloat16');
    const b = rand([10, 9]).cast('bfloat16');
    const exact = await numbers(matmul(a.cast('float32'), b.cast('float32')));
    expectClose(await numbers(matmul(a, b)), exact, { rtol: 2 ** -8, atol: 1e-6 }, 'bf16');
    const wide = rand([6, 20]);
    const odd = wide.view([6, 10], [20, 2], 1); // no dense axis
    const y = await numbers(autocast('bfloat16', () => matmul(odd, b.cast('float32'))));
    expectClose(
      y,
      await numbers(matmul(odd.cast('bfloat16').cast('float32'), b.cast('float32'))),
      { rtol: 1e-5, atol: 1e-6 },
      'odd',
    );
    const special = autocast('bfloat16', () =>
      matmul(
        tensor([
          [NaN, 1],
          [Infinity, 1],
          [1, 1],
        ]),
        tensor([[1], [1]]),
      ),
    );
    expect([...(await numbers(special))]).toEqual([NaN, Infinity, 2]);
    expect([
      ...(await numbers(autocast('bfloat16', () => matmul(rand([2, 0]), rand([0, 3]))))),
    ]).toEqual([0, 0, 0, 0, 0, 0]);
  });
  it('gradients use the same precision, in backward() outside of it', async () => {
    const x = rand([20, 40]).setRequiresGrad();
    const w = rand([30, 40]).setRequiresGrad();
    const b = rand([30]).setRequiresGrad();
    const run = async (precision: 'float32' | 'bfloat16'): Promise<number[][]> => {
      const y = autocast(precision, () => linear(x, w, b, { activation: 'gelu' }));
      y.backward(y.detach());
      const out = await Promise.all([x, w, b].map(async (t) => [...(await numbers(t.grad!))]));
      for (const t of [x, w, b]) t.grad = null;
      return out;
    };
    const [full, half] = [await run('float32'), await run('bfloat16')];
    full.forEach((g, i) => {
      const scale = Math.max(...g.map(Math.abs));
      expectClose(half[i]!, g, { rtol: 0, atol: 0.01 * scale }, `gradient ${i}`);
      expect(half[i]).not.toEqual(g);
    });
  });
  it.each([
    [5, 7, 33],
    [1, 40, 128],
    [70, 66, 130],
    [130, 140, 96],
  ])('float16 products of %i × %i × %i: rows, batches, activations', async (m, n, k) => {
    const exact = (t: Tensor): Tensor => cast(cast(t, 'float16'), 'float64');
    const near = async (got: Tensor, want: Tensor): Promise<void> =>
      expectClose(await numbers(got), await numbers(want), { rtol: 1e-5, atol: 3e-5 }, 'float16');
    const [x, w, bias] = [randn([2, m, k]), randn([n, k]), randn([n])];
    const want = matmul(exact(x), transpose(exact(w)));
    await near(
      autocast('float16', () => linear(x, w, bias, { activation: 'relu' })),
      relu(add(want, cast(bias, 'float64'))),
    );
    const several = randn([2, k, n]);
    await near(
      autocast('float16', () => matmul(x, several)),
      matmul(exact(x), exact(several)),
    );
    const turned = transpose(randn([2, n, k]));
    await near(
      autocast('float16', () => matmul(x, turned)),
      matmul(exact(x), exact(turned)),
    );
    // tensors of float16: the same, rounded once more on the way out
    const [xh, wh] = [cast(x, 'float16'), cast(transpose(w), 'float16')];
    const half = matmul(xh, wh);
    expect(half.dtype).toBe('float16');
    expectClose(await numbers(half), await numbers(want), { rtol: 1e-3, atol: 1e-3 }, 'stored');
  });
  it('float16 rounds the operands of products, and their gradients, to float16', async () => {
    const exact = (t: Tensor): Tensor => cast(cast(t, 'float16'), 'float64');
    const [x, w] = [randn([5, 33]), randn([7, 33])].map((t) => t.setRequiresGrad());
    const y = autocast('float16', () => matmul(x!, transpose(w!)));
    const dy = randn([5, 7]);
    y.backward(dy);
    const near = async (got: Tensor, want: Tensor): Promise<void> =>
      expectClose(await numbers(got), await numbers(want), { rtol: 1e-5, atol: 1e-5 }, 'float16');
    const [xd, wd, dyd] = [x!.detach(), w!.detach(), dy].map(exact);
    await near(y, matmul(xd!, transpose(wd!)));
    await near(x!.grad!, matmul(dyd!, wd!));
    await near(w!.grad!, matmul(transpose(dyd!), xd!));
  });
  it('tfloat32 rounds the operands to 10 bits of mantissa on a GPU, and to none fewer than 23 on the CPU', async () => {
    const [x, w] = [randn([5, 33]), randn([70, 33])].map((t) => t.setRequiresGrad());
    const dy = randn([5, 70]);
    // half away from zero
    const rounded = async (t: Tensor): Promise<Tensor> => {
      const values = Float32Array.from(await numbers(t));
      const bits = new Uint32Array(values.buffer);
      if (t.device === 'cuda') bits.forEach((b, i) => (bits[i] = (b + 0x1000) & ~0x1fff));
      return cast(tensor(values, { shape: t.shape }), 'float64');
    };
    const [xd, wd, dyd] = await Promise.all([x!.detach(), w!.detach(), dy].map(rounded));
    for (const product of [() => linear(x!, w!), () => matmul(x!, transpose(w!))]) {
      x!.grad = w!.grad = null;
      const y = autocast('tfloat32', product);
      y.backward(dy);
      const near = async (got: Tensor, want: Tensor): Promise<void> =>
        expectClose(await numbers(got), await numbers(want), { rtol: 1e-5, atol: 1e-5 }, 'tf32');
      await near(y, matmul(xd!, transpose(wd!)));
      await near(x!.grad!, matmul(dyd!, wd!));
      await near(w!.grad!, matmul(transpose(dyd!), xd!));
    }
  });
  it('refuses other types', () => {
    expect(() => autocast('int8' as 'bfloat16', () => 0)).toThrow(
      /expected one of float32, tfloat32, bfloat16, float16, got "int8"/,
    );
  });
});

describe('checkpoint', () => {
  it('gives the values and gradients of the plain call, dropout included', async () => {
    for (const make of Object.values(models)) {
      const results: number[][][] = [];
      for (const on of [false, true]) {
        using model = make().requiresGrad().train() as CausalLM;
        model.gradientCheckpointing = on;
        manualSeed(5);
        const loss = tidy(() => {
          const l = model.loss({ inputIds: ids(), labels: ids() });
          l.backward();
          return l.detach();
        });
        results.push([[await loss.item()], ...(await gradients(model))]);
      }
      expect(results[1]).toEqual(results[0]);
    }
  });
  it('works on a function of parameters alone and frees everything', async () => {
    await expectNoLeak(() => {
      tidy(() => {
        const w = rand([3, 3]).setRequiresGrad();
        const x = rand([2, 3]);
        checkpoint((y) => y.matmul(w).tanh(), x, { parameters: [w] })
          .sum()
          .backward();
        if (!w.grad) throw new Error('no gradient');
      });
    });
  });
});

describe('gradient accumulation', () => {
  it('adds up in place, to the gradient of the sum', async () => {
    const w = rand([4, 4]).setRequiresGrad();
    const [a, b] = [rand([3, 4]), rand([3, 4])];
    a.matmul(w).square().sum().backward();
    const first = w.grad;
    b.matmul(w).square().sum().backward();
    expect(w.grad).toBe(first);
    const sum = await numbers(w.grad!);
    w.grad = null;
    a.matmul(w).square().sum().add(b.matmul(w).square().sum()).backward();
    expectClose(sum, await numbers(w.grad!), { rtol: 1e-5, atol: 1e-6 }, 'sum');
  });
  it('a gradient never shares bytes with another tensor', async () => {
    const x = tensor([1, 2], { requiresGrad: true });
    const y = tensor([3, 4], { requiresGrad: true });
    const seed = tensor([1, 1]);
    x.add(y).backward(seed);
    x.add(y).backward(seed);
    expect([...(await numbers(seed))]).toEqual([1, 1]);
    expect([...(await numbers(x.grad!))]).toEqual([2, 2]);
    expect([...(await numbers(y.grad!))]).toEqual([2, 2]);
  });
});

describe('model.loss', () => {
  it('equals forward(labels).loss, and targets are labels moved by one', async () => {
    for (const make of Object.values(models)) {
      using model = make();
      const plain = await model.forward({ inputIds: ids(), labels: ids() }).loss!.item();
      expect(await model.loss({ inputIds: ids(), labels: ids() }).item()).toBeCloseTo(plain, 5);
      const row = [...(ids().dataSync() as Int32Array)];
      const targets = row.map((_, i) => (i % 12 === 11 ? -100 : row[i + 1]!));
      const t = tensor(targets, { shape: [2, 12], dtype: 'int32' });
      expect(await model.loss({ inputIds: ids(), targets: t }).item()).toBeCloseTo(plain, 5);
      expect(() => model.loss({ inputIds: ids() })).toThrow(/targets or labels/);
    }
  });
  it('hidden states and attentions: as many as the reference gives, rows sum to 1', async () => {
    for (const make of Object.values(models)) {
      using model = make();
      const out = model.forward({
        inputIds: ids(),
        outputHiddenStates: true,
        outputAttentions: true,
      });
      expect(out.hiddenStates!.map((t) => t.shape)).toEqual([1, 2, 3].map(() => [2, 12, 16]));
      expect(out.attentions!.length).toBe(2);
      for (const a of out.attentions!)
        expectClose(
          await numbers(a.sum({ dim: -1 })),
          Array.from({ length: 2 * a.shape[1]! * 12 }, () => 1),
          { rtol: 1e-5, atol: 0 },
          'rows',
        );
    }
  });
});

describe('training mode', () => {
  it('dropout acts in train() and not in eval(), and repeats with the seed', async () => {
    using model = models.gpt2();
    const loss = async (): Promise<number> => {
      manualSeed(1);
      return model.loss({ inputIds: ids(), labels: ids() }).item();
    };
    const plain = await loss();
    model.train();
    const dropped = await loss();
    expect(dropped).not.toBe(plain);
    expect(await loss()).toBe(dropped);
    model.eval();
    expect(await loss()).toBe(plain);
  });
  it('stateDict, loadStateDict, freeze', async () => {
    using a = models.gpt2();
    using b = GPT2LMHeadModel.create(tiny, new Generator(4));
    b.loadStateDict(a.stateDict());
    expect(await numbers(b.parameters()[0]!)).toEqual(await numbers(a.parameters()[0]!));
    expect(() => b.loadStateDict(new Map())).toThrow(/missing transformer\.wte/);
    b.requiresGrad();
    expect(b.freeze('h.0.')).toBe(12);
    expect([...b.namedParameters()].filter(([, p]) => p.requiresGrad).length).toBe(
      b.parameters().length - 12,
    );
  });
});
