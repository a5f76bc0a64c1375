// matmul, linear, attention, norms, softmax, rope, losses, dropout, embedding: strides, gradients, leaks, bad input.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { setThreads, getThreads, tensor, tidy } from '../../lib/index.js';
import { between, checkOp, expectClose, matmulReference, normal, numbers } from '../harness.js';

const ids = (...v: number[]): Tensor => tensor(v, { dtype: 'int32' });

const loose = { rtol: 1e-5, atol: 1e-5 };

checkOp('matmul', [
  ...[
    [1, 1, 1],
    [3, 5, 7],
    [4, 33, 9],
    [17, 40, 65],
    [15, 400, 34],
  ].map(([m, k, n]) => ({
    name: `${m}x${k} by ${k}x${n}`,
    inputs: () => [normal(m!, k!), normal(k!, n!)],
    op: roots.matmul,
    reference: matmulReference,
    f32: { rtol: 1e-5, atol: 1e-4 },
    gradient: m! * k! * n! < 2000,
  })),
  {
    name: 'batched',
    inputs: () => [normal(2, 3, 4, 5), normal(2, 3, 5, 6)],
    op: roots.matmul,
    reference: matmulReference,
    f32: loose,
  },
]);

checkOp(
  'linear with every activation',
  (['none', 'gelu_tanh', 'gelu', 'silu', 'relu'] as const).map((activation) => ({
    name: activation,
    inputs: () => [normal(2, 3, 9), normal(7, 9), normal(7)],
    op: (x: Tensor, w: Tensor, b: Tensor) => roots.linear(x, w, b, { activation }),
  })),
);

checkOp('attention', [
  {
    name: 'causal, grouped heads',
    inputs: () => [normal(2, 4, 5, 6), normal(2, 2, 7, 6), normal(2, 2, 7, 6)],
    op: (q, k, v) => roots.attention(q, k, v, { causal: true }),
  },
  {
    name: 'window',
    inputs: () => [normal(1, 2, 6, 4), normal(1, 2, 6, 4), normal(1, 2, 6, 3)],
    op: (q, k, v) => roots.attention(q, k, v, { causal: true, window: 3 }),
  },
  {
    name: 'additive mask with a gradient',
    inputs: () => [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4), normal(1, 2, 3, 5)],
    op: (q, k, v, m) => roots.attention(q, k, v, { mask: m }),
  },
  {
    name: 'padding on both sides',
    inputs: () => [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4)],
    op: (q, k, v) =>
      tidy(() =>
        roots.attention(q, k, v, {
          starts: tensor(new BigInt64Array([0n, 2n])),
          lengths: tensor(new BigInt64Array([3n, 5n])),
        }),
      ),
  },
  {
    name: 'more than one block of queries',
    inputs: () => [normal(1, 1, 70, 4), normal(1, 1, 70, 4), normal(1, 1, 70, 4)],
    op: (q, k, v) => roots.attention(q, k, v, { causal: true }),
    gradient: true,
  },
]);

checkOp('norms, softmax, rope', [
  {
    name: 'layerNorm',
    inputs: () => [normal(3, 19), normal(19), normal(19)],
    op: (x, w, b) => roots.layerNorm(x, w, b),
  },
  {
    name: 'layerNorm without parameters',
    inputs: () => [normal(2, 3, 8)],
    op: (x) => roots.layerNorm(x),
  },
  { name: 'rmsNorm', inputs: () => [normal(3, 19), normal(19)], op: (x, w) => roots.rmsNorm(x, w) },
  { name: 'softmax', inputs: () => [normal(3, 19)], op: (x) => roots.softmax(x) },
  { name: 'softmax over axis 0', inputs: () => [normal(5, 3)], op: (x) => roots.softmax(x, 0) },
  { name: 'logSoftmax', inputs: () => [normal(3, 19)], op: (x) => roots.logSoftmax(x) },
  {
    name: 'rope',
    inputs: () => [normal(2, 2, 3, 8), between(-1, 1, [3, 4]), between(-1, 1, [3, 4])],
    op: (x, c, s) => tidy(() => roots.rope(x, c.detach(), s.detach())),
    gradient: false,
  },
  {
    name: 'rope gradient',
    inputs: () => [normal(2, 2, 3, 8)],
    op: (x) =>
      tidy(() =>
        roots.rope(x, between(-1, 1, [3, 4]), between(-1, 1, [3, 4]), { interleaved: true }),
      ),
  },
]);

checkOp('losses', [
  {
    name: 'crossEntropy',
    inputs: () => [normal(5, 11)],
    op: (x) => tidy(() => roots.crossEntropy(x, ids(0, 10, -100, 3, 7), { labelSmoothing: 0.1 })),
  },
  {
    name: 'crossEntropy none',
    inputs: () => [normal(2, 3, 4)],
    op: (x) =>
      tidy(() =>
        roots.crossEntropy(x, ids(0, 1, 2, 3, 0, 1).reshape([2, 3]), { reduction: 'none' }),
      ),
  },
  {
    name: 'mseLoss',
    inputs: () => [normal(3, 4), normal(3, 4)],
    op: (x, y) => roots.mseLoss(x, y),
  },
  {
    name: 'klDiv',
    inputs: () => [normal(3, 7), normal(3, 7)],
    op: (x, y) => roots.klDiv(x, y, { temperature: 2 }),
  },
]);

checkOp('indexing', [
  {
    name: 'embedding',
    inputs: () => [normal(6, 5)],
    op: (w) => tidy(() => roots.embedding(ids(1, 5, 1, 0).reshape([2, 2]), w)),
  },
  {
    name: 'indexSelect with repeats',
    inputs: () => [normal(3, 4, 2)],
    op: (x) => tidy(() => roots.indexSelect(x, 1, ids(3, 0, 3))),
  },
  {
    name: 'gather',
    inputs: () => [normal(3, 4)],
    op: (x) => tidy(() => roots.gather(x, 0, tensor([[2, 2, 0, 1]], { dtype: 'int64' }))),
  },
  {
    name: 'scatterAdd',
    inputs: () => [normal(3, 4), normal(3, 2)],
    op: (x, s) =>
      tidy(() =>
        roots.scatterAdd(
          x,
          1,
          tensor(
            [
              [1, 1],
              [0, 3],
              [2, 2],
            ],
            { dtype: 'int64' },
          ),
          s,
        ),
      ),
  },
  {
    name: 'topk',
    inputs: () => [between(-3, 3, [3, 9])],
    op: (x) => tidy(() => roots.topk(x, 4).values),
  },
]);

checkOp('reductions', [
  ...([[0], [-1], [0, 2], [1]] as number[][]).flatMap((dim) => [
    {
      name: `sum ${dim}`,
      inputs: () => [normal(3, 4, 5)],
      op: (x: Tensor) => roots.sum(x, { dim }),
    },
    {
      name: `max ${dim}`,
      inputs: () => [between(-3, 3, [3, 4, 5])],
      op: (x: Tensor) => roots.max(x, { dim, keepdim: true }),
    },
  ]),
  {
    name: 'sum of all',
    inputs: () => [normal(70, 1000)],
    op: (x) => roots.sum(x),
    gradient: false,
    reference: (x) => [x!.data.reduce((a, b) => a + b, 0)],
    tolerance: { rtol: 1e-9, atol: 1e-9 },
    f32: { rtol: 1e-5, atol: 1e-3 },
  },
  {
    name: 'sum over many rows',
    inputs: () => [normal(700, 33)],
    op: (x) => roots.sum(x, { dim: 0 }),
    gradient: false,
  },
  { name: 'mean', inputs: () => [normal(3, 4)], op: (x) => roots.mean(x) },
  { name: 'min', inputs: () => [between(-3, 3, [3, 4])], op: (x) => roots.min(x) },
  { name: 'variance', inputs: () => [normal(3, 8)], op: (x) => roots.variance(x, { dim: -1 }) },
  { name: 'logsumexp', inputs: () => [normal(3, 8)], op: (x) => roots.logsumexp(x, { dim: 1 }) },
  {
    name: 'argmax',
    inputs: () => [between(-3, 3, [3, 4, 5])],
    op: (x) => roots.argmax(x, 1),
    gradient: false,
  },
]);

checkOp('views', [
  { name: 'reshape', inputs: () => [normal(2, 3, 4)], op: (x) => roots.reshape(x, [4, -1]) },
  { name: 'permute', inputs: () => [normal(2, 3, 4)], op: (x) => roots.permute(x, [2, 0, 1]) },
  { name: 'flatten', inputs: () => [normal(2, 3, 4)], op: (x) => roots.flatten(x, 1) },
  {
    name: 'contiguous',
    inputs: () => [normal(3, 4)],
    op: (x) => tidy(() => roots.contiguous(x.transpose())),
  },
  { name: 'transpose', inputs: () => [normal(3, 4)], op: (x) => roots.transpose(x) },
  { name: 'expand', inputs: () => [normal(3, 1)], op: (x) => roots.expand(x, [2, 3, 4]) },
  { name: 'slice', inputs: () => [normal(5, 4)], op: (x) => roots.slice(x, 0, 1, -1) },
  { name: 'select', inputs: () => [normal(5, 4)], op: (x) => roots.select(x, 1, -1) },
  {
    name: 'split and concat',
    inputs: () => [normal(5, 4)],
    op: (x) => tidy(() => roots.concat(roots.split(x, [2, 3]).toReversed())),
  },
  {
    name: 'stack',
    inputs: () => [normal(2, 3), normal(2, 3)],
    op: (x, y) => roots.stack([x, y], 1),
  },
  { name: 'tril', inputs: () => [normal(2, 4, 5)], op: (x) => roots.tril(x, 1) },
  {
    name: 'squeeze and unsqueeze',
    inputs: () => [normal(2, 3)],
    op: (x) => tidy(() => roots.squeeze(roots.unsqueeze(x, 1), 1)),
  },
]);

describe('dropout', () => {
  it('keeps the mean, zeroes a share p, and its backward draws the same mask', async () => {
    const x = roots.ones([64, 64], { requiresGrad: true });
    const y = x.dropout(0.25, { generator: new roots.Generator(7) });
    const values = await numbers(y);
    const zeros = values.filter((v) => v === 0).length / values.length;
    expect(zeros).toBeGreaterThan(0.22);
    expect(zeros).toBeLessThan(0.28);
    y.sum().backward();
    expectClose(await numbers(x.grad!), values, { rtol: 0, atol: 0 });
    expectClose(
      await numbers(x.detach().dropout(0.25, { generator: new roots.Generator(7) })),
      values,
      { rtol: 0, atol: 0 },
    );
  });
  it('does nothing outside training', async () => {
    const x = tensor([1, 2, 3]);
    expect([...(await x.dropout(0.9, { training: false }).data())]).toEqual([1, 2, 3]);
  });
});

describe('small things', () => {
  it('softmax of scores far below the largest: exact to 1e-38, then zero; a NaN stays in its row (C15)', async () => {
    const below = [0, -1, -20, -80, -86, -95, -104, -500, -3e38, -Infinity];
    const rows = [...below, ...below.with(3, NaN)];
    const got = await numbers(roots.softmax(tensor(rows, { shape: [2, below.length] })));
    const total = below.reduce((sum, x) => sum + Math.exp(x), 0);
    below.forEach((x, i) => {
      const want = Math.exp(x) / total;
      expect(Math.abs(got[i]! - want)).toBeLessThanOrEqual(1e-5 * want + 3e-38);
      if (x < -150) expect(got[i]).toBe(0);
    });
    expect(got.slice(below.length).every(Number.isNaN)).toBe(true);
  });
  it('cross-entropy over rows of several pieces: the largest anywhere, infinities and NaN (C15)', async () => {
    const width = 5003; // three pieces of 2048 float32, the last one partial
    const row = (change: (x: number[]) => void): number[] => {
      const x = Array.from({ length: width }, (_, i) => Math.sin(i * 12.9898) * 3);
      change(x);
      return x;
    };
    const rows = [
      row(() => {}),
      row((x) => (x[0] = 60)),
      row((x) => (x[3000] = 60)),
      row((x) => (x[width - 1] = 90)),
      row((x) => x.fill(-500, 0, 4096)),
      row((x) => x.fill(-Infinity, 0, 4500)),
      row((x) => (x[4999] = NaN)),
      row((x) => x.fill(-Infinity).fill(NaN, 2100, 2101)),
    ];
    const target = [0, 1, 2999, 4000, 4999, 5002, 0, 1];
    const x = tensor(rows, { shape: [rows.length, width], requiresGrad: true });
    const loss = roots.crossEntropy(x, ids(...target), { reduction: 'none' });
    const got = await numbers(loss);
    loss.sum().backward();
    const gradient = await numbers(x.grad!);
    rows.forEach((r, i) => {
      const values = r.map(Math.fround);
      if (values.some(Number.isNaN)) return expect(got[i]).toBeNaN();
      const top = Math.max(...values);
      const lse = top + Math.log(values.reduce((sum, v) => sum + Math.exp(v - top), 0));
      const want = lse - values[target[i]!]!;
      expect(Math.abs(got[i]! - want)).toBeLessThanOrEqual(2e-6 * (1 + Math.abs(want)));
      for (let j = 0; j < width; j++) {
        const slope = Math.exp(values[j]! - lse) - (j === target[i] ? 1 : 0);
        if (Math.abs(gradient[i * width + j]! - slope) > 2e-6 + 1e-5 * Math.abs(slope))
          throw new Error(`row ${i}, column ${j}: ${gradient[i * width + j]} instead of ${slope}`);
      }
    });
  });
  it.each([
    [1, 5],
    [7, 37],
    [37, 128],
    [9, 1024],
    [6, 1030],
  ])(
    'norms of %i rows of %i: as in float64, and a row has the bits it has alone (C15)',
    async (count, width) => {
      // every row at a height and of a size of its own
      const x = Array.from({ length: count * width }, (_, i) => {
        const r = Math.floor(i / width);
        return r - 3 + (r + 1) * Math.sin(i * 78.233);
      });
      const run = async (
        dtype: 'float32' | 'float64',
        norm: 'layer' | 'rms',
        first = 0,
        rows = count,
      ): Promise<Float64Array[]> => {
        const part = { shape: [rows, width], dtype };
        const values = (at: (i: number) => number): number[] =>
          Array.from({ length: rows * width }, (_, i) => at(first * width + i));
        const vector = (at: (i: number) => number): Tensor =>
          tensor(
            Array.from({ length: width }, (_, i) => at(i)),
            { dtype },
          ).setRequiresGrad();
        const a = tensor(
          values((i) => x[i]!),
          part,
        ).setRequiresGrad();
        const w = vector((i) => 1 + Math.cos(i));
        const b = vector((i) => Math.cos(i * 3));
        const y = norm === 'layer' ? roots.layerNorm(a, w, b) : roots.rmsNorm(a, w);
        const g = values((i) => Math.cos(i * 0.7));
        y.mul(tensor(g, part)).sum().backward();
        return Promise.all(
          [y, a.grad!, w.grad!, ...(norm === 'layer' ? [b.grad!] : [])].map(numbers),
        );
      };
      for (const norm of ['layer', 'rms'] as const) {
        const [got, want] = [await run('float32', norm), await run('float64', norm)];
        got.forEach((v, i) => expectClose(v, want[i]!, { rtol: 1e-5, atol: 2e-5 }));
        for (let r = 0; r < count; r++) {
          const alone = await run('float32', norm, r, 1);
          for (const i of [0, 1])
            expect(got[i]!.subarray(r * width, (r + 1) * width)).toEqual(alone[i]);
        }
      }
    },
  );
  it('gelu far from zero is the line or nothing', async () => {
    const x = [-1e30, -200, -30, -14, 14, 30, 200, 1e30];
    for (const approximate of ['none', 'tanh'] as const)
      expect((await numbers(roots.gelu(tensor(x), { approximate }))).map((v) => v + 0)).toEqual(
        Float64Array.from(x, (v) => (v < 0 ? 0 : Math.fround(v))),
      );
  });
  it('greaterEqual', async () => {
    expect([...(await tensor([1, 2, NaN]).greaterEqual(2).data())]).toEqual([0, 1, 0]);
    expect([...(await roots.greaterEqual(tensor([3]), tensor([3])).data())]).toEqual([1]);
  });
  it('embeddingI8 widens rows by their scale', async () => {
    const y = roots.embeddingI8(
      ids(2, 0),
      tensor(new Int8Array([1, 2, 3, 4, -128, 127]), { shape: [3, 2] }),
      tensor([1, 1, 0.5]),
    );
    expect([...(await y.data())]).toEqual([-64, 63.5, 1, 2]);
    // the same from the layout that products read
    for (const [rows, width] of [
      [1, 1],
      [33, 7],
      [70, 40],
    ] as const) {
      const table = roots.quantizeRowsI8(roots.randn([rows, width]));
      const chosen = ids(...Array.from({ length: 90 }, (_, i) => (i * 7) % rows));
      const packed = roots.packI8(table.q);
      expect(await numbers(roots.embeddingI8(chosen, packed, table.scale, { width }))).toEqual(
        await numbers(roots.embeddingI8(chosen, table.q, table.scale)),
      );
      expect(() => roots.embeddingI8(chosen, packed, table.scale, { width: width + 9 })).toThrow(
        /weight/,
      );
    }
    const read = async (): Promise<unknown> =>
      roots
        .embeddingI8(ids(3), tensor(new Int8Array(6), { shape: [3, 2] }), tensor([1, 1, 1]))
        .data();
    await expect(read()).rejects.toThrow(/index out of range/);
  });
});

// Small integers: every sum is exact, whatever its order, so nothing is lost in a tolerance. Panels of 15000 numbers are packed in
// several portions (gemm/tile_size.h), the last of them shorter.
describe('products over many blocks of K are exact', () => {
  const digits = (n: number, seed: number): Float32Array =>
    Float32Array.from(
      { length: n },
      (_, i) => ((Math.imul(i + seed * 1000003, 2654435761) >>> 13) % 5) - 2,
    );
  const product = (
    a: Float32Array,
    b: Float32Array,
    [m, k, n]: readonly [number, number, number],
  ): Float32Array => {
    const out = new Float32Array(m * n);
    for (let i = 0; i < m; i++)
      for (let p = 0; p < k; p++)
        for (let j = 0; j < n; j++) out[i * n + j]! += a[i * k + p]! * b[p * n + j]!;
    return out;
  };
  const kept = (x: Tensor): Tensor => x.transpose().clone().transpose();
  it.each([
    [37, 15000, 45],
    [150, 700, 33],
    [20, 257, 130],
  ] as const)('%i x %i x %i, all layouts', async (m, k, n) => {
    const [da, db] = [digits(m * k, 1), digits(k * n, 2)];
    const want = product(da, db, [m, k, n]);
    const [a, b] = [tensor(da, { shape: [m, k] }), tensor(db, { shape: [k, n] })];
    for (const left of [a, kept(a)])
      for (const right of [b, kept(b)]) expect(await left.matmul(right).data()).toEqual(want);
  });
  it.each([
    [37, 15000, 45],
    [64, 300, 70],
  ] as const)('linear with bias and relu, and its gradients: %i x %i x %i', async (m, k, n) => {
    const [dx, dw, db] = [digits(m * k, 3), digits(k * n, 4), digits(n, 5)];
    const g = digits(m * n, 6);
    const x = tensor(dx, { shape: [m, k] });
    const w = tensor(dw, { shape: [k, n] });
    const b = tensor(db);
    x.requiresGrad = true;
    w.requiresGrad = true;
    b.requiresGrad = true;
    const y = roots.linear(x, roots.transpose(w), b, { activation: 'relu' });
    y.backward(tensor(g, { shape: [m, n] }));
    const pre = product(dx, dw, [m, k, n]).map((v, i) => v + db[i % n]!);
    expect(await y.data()).toEqual(pre.map((v) => Math.max(v, 0)));
    const d = g.map((v, i) => (pre[i]! > 0 ? v : 0));
    const flip = (v: Float32Array, rows: number, columns: number): Float32Array =>
      v.map((_, i) => v[(i % rows) * columns + Math.floor(i / rows)]!);
    const zero = (v: Float32Array): number[] => Array.from(v, (e) => e + 0);
    expect(zero((await x.grad!.data()) as Float32Array)).toEqual(
      zero(product(d, flip(dw, k, n), [m, n, k])),
    );
    expect(zero((await w.grad!.data()) as Float32Array)).toEqual(
      zero(product(flip(dx, m, k), d, [k, m, n])),
    );
    const sums = new Float32Array(n);
    d.forEach((v, i) => (sums[i % n]! += v));
    expect(zero((await b.grad!.data()) as Float32Array)).toEqual(zero(sums));
  });
  it.each([
    [1000, 37],
    [65, 1030],
    [129, 512],
  ])('sum of %i rows of %i', async (rows, columns) => {
    const v = digits(2 * rows * columns, 8);
    const want = new Float32Array(2 * columns);
    v.forEach((e, i) => (want[Math.floor(i / (rows * columns)) * columns + (i % columns)]! += e));
    const x = tensor(v, { shape: [2, rows, columns] });
    expect(await roots.sum(x, { dim: 1 }).data()).toEqual(want);
  });
});

describe('int8 products', () => {
  const exact = (a: Int8Array, b: Int8Array, m: number, n: number, k: number): Int32Array => {
    const out = new Int32Array(m * n);
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++)
        for (let q = 0; q < k; q++) out[i * n + j]! += a[i * k + q]! * b[q * n + j]!;
    return out;
  };
  const random = (n: number, seed: number): Int8Array =>
    Int8Array.from({ length: n }, (_, i) => ((Math.imul(i + seed, 2654435761) >>> 13) & 255) - 128);
  it.each([
    [1, 1, 1],
    [2, 3, 5],
    [9, 33, 17],
    [17, 64, 130],
    [40, 70, 257],
    [150, 70, 4099],
  ])('matmulI8 %ix%ix%i is exact, -128 and 127 included', async (m, n, k) => {
    const [a, b] = [random(m * k, 1), random(k * n, 99)];
    a.fill(-128, 0, Math.min(k, 8));
    b.fill(127, 0, Math.min(n, 8));
    const got = roots.matmulI8(tensor(a, { shape: [m, k] }), tensor(b, { shape: [k, n] }));
    expect([...(await got.data())]).toEqual([...exact(a, b, m, n, k)]);
    // transposed views
    const t = tensor(b, { shape: [k, n] })
      .transpose()
      .clone()
      .transpose();
    expect([...(await roots.matmulI8(tensor(a, { shape: [m, k] }), t).data())]).toEqual([
      ...exact(a, b, m, n, k),
    ]);
  });
  it('packs and unpacks exactly', async () => {
    for (const [n, k] of [
      [1, 1],
      [5, 7],
      [32, 4],
      [33, 130],
    ] as const) {
      const w = tensor(random(n * k, 5), { shape: [n, k] });
      expect(await roots.unpackI8(roots.packI8(w), n, k).data()).toEqual(await w.data());
    }
  });
  it.each([1, 3, 9, 40])('W8A8 and W8A16 with %i rows stay near the float product', async (m) => {
    const [x, w, b] = [
      roots.randn([m, 96]),
      roots.randn([70, 96], { std: 0.05 }),
      roots.randn([70]),
    ];
    const { q, scale } = roots.quantizeWeightI8(w);
    const packed = roots.packI8(q);
    for (const activation of ['none', 'gelu_tanh'] as const) {
      const want = await numbers(roots.linear(x, w, b, { activation }));
      const spread = Math.sqrt(want.reduce((s, v) => s + v * v, 0) / want.length);
      for (const [op, limit] of [
        [roots.linearW8A16, 0.012],
        [roots.linearW8A8, 0.02],
      ] as const) {
        const got = await numbers(op(x, packed, scale, b, { activation }));
        const error = Math.sqrt(got.reduce((s, v, i) => s + (v - want[i]!) ** 2, 0) / want.length);
        expect(error / spread).toBeLessThan(limit);
        expect(error).toBeGreaterThan(0);
      }
    }
  });
  it('a NaN or an infinity in a row of x shows in that row of W8A8, and in no other', async () => {
    const values = Float32Array.from({ length: 4 * 96 }, (_, i) => Math.sin(i));
    values[96 + 7] = NaN;
    values[2 * 96 + 95] = -Infinity;
    const { q, scale } = roots.quantizeWeightI8(roots.randn([40, 96]));
    const y = await numbers(
      roots.linearW8A8(tensor(values, { shape: [4, 96] }), roots.packI8(q), scale),
    );
    y.forEach((v, i) => {
      const row = Math.floor(i / 40);
      expect(Number.isFinite(v), `${i}`).toBe(row === 0 || row === 3);
    });
  });
  it('W8A16 equals the float product of the dequantized weight', async () => {
    for (const m of [1, 4, 5, 30]) {
      const [x, w] = [roots.randn([m, 70]), roots.randn([45, 70])];
      const { q, scale } = roots.quantizeWeightI8(w, { clip: false });
      const dequantized = q.cast('float32').mul(scale.reshape([45, 1]));
      expectClose(
        await numbers(roots.linearW8A16(x, roots.packI8(q), scale)),
        await numbers(roots.linear(x, dequantized)),
        { rtol: 1e-5, atol: 1e-4 },
      );
    }
  });
  it('clipping never increases the error it minimises', async () => {
    const w = roots.randn([16, 300]);
    const values = await numbers(w);
    const errors = await Promise.all(
      [true, false].map(async (clip) => {
        const { q, scale } = roots.quantizeWeightI8(w, { clip });
        const [qs, s] = [await numbers(q), await numbers(scale)];
        return values.reduce(
          (sum, v, i) => sum + Math.abs(v - qs[i]! * s[Math.floor(i / 300)]!) ** 2.4,
          0,
        );
      }),
    );
    expect(errors[0]!).toBeLessThanOrEqual(errors[1]! * 1.0001);
  });
});

describe('same bits for 1, 2, 3 and 7 threads (N3)', () => {
  const work: Record<string, () => Tensor> = (() => {
    const g = new roots.Generator(3);
    const [a, b, w] = [
      roots.randn([150, 210], { generator: g }),
      roots.randn([210, 330], { generator: g }),
      roots.randn([210], { generator: g }),
    ];
    const q = [0, 1, 2].map(() => roots.randn([2, 3, 130, 16], { generator: g }));
    const { q: qw, scale } = roots.quantizeWeightI8(b.transpose().clone());
    const packed = roots.packI8(qw);
    const int4 = roots.quantizeWeightI4(b.transpose().clone());
    const packed4 = roots.packI4(int4.q, int4.scale);
    const outputs = int4.q.shape[0]!;
    const few = a.slice(0, 0, 4).clone();
    const [long, one] = [
      roots.quantizeRowsI8(roots.randn([2, 3, 1300, 16], { generator: g })),
      roots.randn([2, 3, 1, 16], { generator: g }),
    ];
    const grad = (f: (x: Tensor) => Tensor) => (): Tensor => {
      const x = a.clone().setRequiresGrad();
      f(x).backward();
      return x.grad!;
    };
    return {
      matmul: () => a.matmul(b),
      attention: () => roots.attention(q[0]!, q[1]!, q[2]!, { causal: true }),
      'attention over int8 rows, pieces': () => roots.attentionI8(one, long, long),
      'attention over int8 rows': () => roots.attentionI8(q[0]!, long, long),
      sum: () => roots.randn([300000], { generator: new roots.Generator(1) }).sum(),
      'sum over rows': () => a.sum({ dim: 0 }),
      softmax: () => a.softmax(),
      'layerNorm weight gradient': () => {
        const p = w.clone().setRequiresGrad();
        roots.layerNorm(a, p).square().sum().backward();
        return p.grad!;
      },
      'matmul gradient': grad((x) => x.matmul(b).square().sum()),
      w8a8: () => roots.linearW8A8(a, packed, scale),
      w8a16: () => roots.linearW8A16(a, packed, scale),
      w4a16: () => roots.linearW4A16(a, packed4, null, { outputs }),
      'w4a16, few rows': () => roots.linearW4A16(few, packed4, null, { outputs }),
    };
  })();
  for (const [name, run] of Object.entries(work))
    it(name, async () => {
      const before = getThreads();
      const results: Float64Array[] = [];
      for (const threads of [1, 2, 3, 7, 2]) {
        setThreads(threads);
        results.push(await numbers(run()));
      }
      setThreads(before);
      for (const r of results.slice(1)) expect(r).toEqual(results[0]);
    });
});

describe('random numbers', () => {
  it('are the same for the same seed, whatever the cut', async () => {
    const whole = await numbers(
      roots.randn([1000], { generator: new roots.Generator(42), dtype: 'float64' }),
    );
    const g = new roots.Generator(42);
    const parts = [
      ...(await numbers(roots.randn([400], { generator: g, dtype: 'float64' }))),
      ...(await numbers(roots.randn([600], { generator: g, dtype: 'float64' }))),
    ];
    expect(parts).toEqual([...whole]);
    expect(
      await numbers(roots.randn([8], { generator: new roots.Generator(43), dtype: 'float64' })),
    ).not.toEqual(whole.slice(0, 8));
  });
  it('have the right moments', async () => {
    const n = await numbers(
      roots.randn([200000], { generator: new roots.Generator(1), dtype: 'float64' }),
    );
    const mean = n.reduce((a, b) => a + b, 0) / n.length;
    const v = n.reduce((a, b) => a + (b - mean) ** 2, 0) / n.length;
    const fourth = n.reduce((a, b) => a + b ** 4, 0) / n.length;
    expect(Math.abs(mean)).toBeLessThan(0.01);
    expect(Math.abs(v - 1)).toBeLessThan(0.02);
    expect(Math.abs(fourth - 3)).toBeLessThan(0.15);
    const u = await numbers(roots.rand([100000], { generator: new roots.Generator(2) }));
    expect(Math.min(...u.slice(0, 1000))).toBeGreaterThanOrEqual(0);
    expect(u.every((x) => x < 1)).toBe(true);
  });
});

describe('bad input', () => {
  it.skipIf(process.env['ROOTS_TEST_DEVICE'] === 'cuda')(
    'crossEntropy of 70 MB of logits, written past the caches, has the bits of its parts (C15)',
    async () => {
      const [rows, width, part] = [350, 50257, 35];
      const x = roots.randn([rows, width], { generator: new roots.Generator(3) }).setRequiresGrad();
      const targets = roots.tensor(Int32Array.from({ length: rows }, (_, i) => (i * 997) % width));
      roots.crossEntropy(x, targets, { reduction: 'sum' }).backward();
      for (let from = 0; from < rows; from += part) {
        const piece = roots
          .slice(x.detach(), 0, from, from + part)
          .clone()
          .setRequiresGrad();
        const own = roots.slice(targets, 0, from, from + part);
        roots.crossEntropy(piece, own, { reduction: 'sum' }).backward();
        const whole = roots.slice(x.grad!, 0, from, from + part);
        expect(roots.equal(whole, piece.grad!).min().itemSync()).toBe(1);
      }
    },
  );
  it('explains shape mistakes', () => {
    expect(() => roots.matmul(normal(8, 64), normal(32, 16))).toThrow(
      'matmul: inner dimensions differ: [8, 64] × [32, 16] (64 ≠ 32)',
    );
    expect(() => roots.linear(normal(2, 3), normal(4, 5))).toThrow(
      /differ in the inner dimension \(3 ≠ 5\)/,
    );
    expect(() =>
      roots.attention(normal(1, 3, 2, 4), normal(1, 2, 2, 4), normal(1, 2, 2, 4)),
    ).toThrow(/3 query heads are not a multiple of 2 key heads/);
    expect(() => roots.layerNorm(normal(2, 8), normal(7))).toThrow(/weight must have shape \[8\]/);
    expect(() => roots.crossEntropy(normal(4, 10), tensor([[1, 0]], { dtype: 'int32' }))).toThrow(
      /class indices, not one-hot/,
    );
    expect(() => normal(2, 3).reshape([4])).toThrow(
      /reshape: \[2, 3\] \(6 elements\) does not fit \[4\]/,
    );
    expect(() => roots.concat([])).toThrow(/at least one tensor/);
    expect(() => normal(3).sum({ dim: 2 })).toThrow(
      /axis 2 is out of range for a tensor of rank 1/,
    );
    expect(() => roots.max(roots.zeros([0]))).toThrow(/no elements/);
  });
  it('[B9] refuses impossible sizes before reserving anything', () => {
    for (const shape of [
      [2 ** 40],
      [2 ** 53],
      [2 ** 31, 2 ** 31],
      [-1],
      [1.5],
      [NaN],
      [2 ** 20, 2 ** 20, 2 ** 20],
    ])
      expect(() => roots.zeros(shape), String(shape)).toThrow();
    expect(() => roots.zeros([2 ** 53])).toThrow(RangeError);
    expect(() => roots.zeros([1e12])).toThrow(
      expect.objectContaining({ code: 'ERR_OUT_OF_MEMORY' }),
    );
  });
  it('reports an index out of range at the next read, with the kernel', async () => {
    // with kernels run inline, the op itself throws
    const read = async (): Promise<unknown> => roots.embedding(ids(0, 9), normal(4, 2)).data();
    await expect(read()).rejects.toThrow(/embedding_forward: index out of range/);
    expect([...(await tensor([1]).data())]).toEqual([1]);
  });
});
