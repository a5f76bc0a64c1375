import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { synchronize, tensor, tidy, zeros } from '../../lib/index.js';
import { between, checkOp, expectClose, normal, numbers } from '../harness.js';
import type { OpCase } from '../harness.js';

const erf = (x: number): number => {
  // Σ 2^n x^(2n+1) / (2n+1)!! · 2/√π e^(-x²)
  let term = x;
  let sum = x;
  for (let n = 1; n < 200; n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return Math.abs(x) > 6 ? Math.sign(x) : (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
};
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

const unary: Record<
  string,
  [op: (x: Tensor) => Tensor, f: (x: number) => number, low: number, high: number]
> = {
  exp: [roots.exp, Math.exp, -5, 5],
  log: [roots.log, Math.log, 0.05, 20],
  sqrt: [roots.sqrt, Math.sqrt, 0.1, 20],
  rsqrt: [roots.rsqrt, (x) => 1 / Math.sqrt(x), 0.1, 20],
  reciprocal: [roots.reciprocal, (x) => 1 / x, 0.2, 5],
  square: [roots.square, (x) => x * x, -3, 3],
  abs: [roots.abs, Math.abs, -3, 3],
  neg: [roots.neg, (x) => -x, -3, 3],
  tanh: [roots.tanh, Math.tanh, -4, 4],
  sigmoid: [roots.sigmoid, sigmoid, -9, 9],
  erf: [roots.erf, erf, -5, 5],
  softplus: [roots.softplus, (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), -6, 6],
  relu: [roots.relu, (x) => Math.max(x, 0), -3, 3],
  silu: [roots.silu, (x) => x * sigmoid(x), -6, 6],
  'gelu (erf)': [(x) => roots.gelu(x), (x) => (x / 2) * (1 + erf(x / Math.SQRT2)), -4, 4],
  'gelu (tanh)': [
    (x) => roots.gelu(x, { approximate: 'tanh' }),
    (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    -4,
    4,
  ],
  clamp: [(x) => roots.clamp(x, -1, 1.5), (x) => Math.min(Math.max(x, -1), 1.5), -3, 3],
  'add a number': [(x) => roots.add(x, 2.5), (x) => x + 2.5, -3, 3],
  'multiply by a number': [(x) => roots.mul(x, -3), (x) => x * -3, -3, 3],
  'divide by a number': [(x) => roots.div(x, 4), (x) => x / 4, -3, 3],
};

checkOp(
  'unary ops',
  Object.entries(unary).map(([name, [op, f, low, high]]): OpCase => ({
    name,
    op,
    inputs: () => [between(low, high, [3, 37])],
    reference: (x) => x!.data.map(f),
    f32: { rtol: 3e-6, atol: 1e-6 },
  })),
);

const binary: Record<
  string,
  [op: (a: Tensor, b: Tensor) => Tensor, f: (a: number, b: number) => number]
> = {
  add: [roots.add, (a, b) => a + b],
  sub: [roots.sub, (a, b) => a - b],
  mul: [roots.mul, (a, b) => a * b],
  div: [roots.div, (a, b) => a / b],
  maximum: [roots.maximum, Math.max],
  minimum: [roots.minimum, Math.min],
};

checkOp(
  'binary ops with broadcasting',
  Object.entries(binary).flatMap(([name, [op, f]]) =>
    (
      [
        [
          [2, 3, 5],
          [2, 3, 5],
        ],
        [[2, 3, 5], [5]],
        [
          [2, 3, 5],
          [3, 1],
        ],
        [
          [4, 1],
          [1, 7],
        ],
        [[3, 4], []],
      ] as [number[], number[]][]
    ).map(([sa, sb]): OpCase => ({
      name: `${name} [${sa}] with [${sb}]`,
      op,
      inputs: () => [between(0.5, 3, sa), between(1.1, 4, sb)],
      reference: (a, b) => broadcast(a!, b!, f),
    })),
  ),
);

function broadcast(
  a: { data: Float64Array; shape: readonly number[] },
  b: { data: Float64Array; shape: readonly number[] },
  f: (x: number, y: number) => number,
): number[] {
  const rank = Math.max(a.shape.length, b.shape.length);
  const dim = (s: readonly number[], i: number): number => s[i - rank + s.length] ?? 1;
  const shape = Array.from({ length: rank }, (_, i) => Math.max(dim(a.shape, i), dim(b.shape, i)));
  const out: number[] = [];
  const total = shape.reduce((x, y) => x * y, 1);
  for (let n = 0; n < total; n++) {
    let rest = n;
    let [ia, ib, sa, sb] = [0, 0, 1, 1];
    for (let i = rank - 1; i >= 0; i--) {
      const index = rest % shape[i]!;
      rest = Math.floor(rest / shape[i]!);
      if (dim(a.shape, i) > 1) ia += index * sa;
      if (dim(b.shape, i) > 1) ib += index * sb;
      sa *= dim(a.shape, i);
      sb *= dim(b.shape, i);
    }
    out.push(f(a.data[ia]!, b.data[ib]!));
  }
  return out;
}

checkOp('where, maskedFill, swiglu', [
  {
    name: 'where',
    inputs: () => [normal(3, 4), normal(4)],
    op: (a, b) => tidy(() => roots.where(roots.greater(a.detach(), 0), a, b)),
    reference: (a, b) => a!.data.map((v, i) => (v > 0 ? v : b!.data[i % 4]!)),
  },
  {
    name: 'maskedFill',
    inputs: () => [normal(2, 6)],
    op: (a) => tidy(() => roots.maskedFill(a, roots.less(a.detach(), 0), -7)),
    reference: (a) => a!.data.map((v) => (v < 0 ? -7 : v)),
  },
  {
    name: 'swiglu',
    inputs: () => [normal(3, 5), normal(3, 5)],
    op: roots.swiglu,
    reference: (g, u) => g!.data.map((v, i) => v * sigmoid(v) * u!.data[i]!),
  },
]);

describe('special values (N4)', () => {
  const special = [0, -0, 1, -1, Infinity, -Infinity, NaN, 1e-40, -1e-40, 3.4e38, 88.9, -104.5];
  it('gives the class of result that IEEE arithmetic has', async () => {
    const x = tensor(Float32Array.from(special));
    for (const [name, f] of [
      ['exp', Math.exp],
      ['log', Math.log],
      ['sqrt', Math.sqrt],
      ['tanh', Math.tanh],
      ['sigmoid', sigmoid],
      ['erf', (v: number) => (Number.isNaN(v) ? NaN : erf(v))],
      ['relu', (v: number) => (Number.isNaN(v) ? NaN : Math.max(v, 0))],
    ] as const) {
      const got = await numbers(roots[name](x));
      special.forEach((v, i) => {
        const want = Math.fround(f(Math.fround(v)));
        const same = Number.isNaN(want)
          ? Number.isNaN(got[i]!)
          : Math.abs(got[i]! - want) <= 1e-6 * Math.abs(want) + 1e-37 || got[i] === want;
        expect(same, `${name}(${v}) = ${got[i]}, expected ${want}`).toBe(true);
      });
    }
  });
  it('erf of float64 is 1 where it rounds to 1, so that the tail of GELU is 0', async () => {
    const x = tensor([-1e30, -6, 6, 1e30], { dtype: 'float64' });
    expect([...(await x.erf().data())]).toEqual([-1, -1, 1, 1]);
    expect([...(await tensor([-1e30, 1e30], { dtype: 'float64' }).gelu().data())]).toEqual([
      -0, 1e30,
    ]);
  });
  it('logsumexp of an infinity is that infinity', async () => {
    expect(await tensor([1, Infinity]).logsumexp().item()).toBe(Infinity);
    expect(await tensor([-Infinity, -Infinity]).logsumexp().item()).toBe(-Infinity);
    expect(await tensor([Infinity, NaN]).logsumexp().item()).toBeNaN();
  });
  it('maximum and minimum let NaN win', async () => {
    const a = tensor([NaN, 1, NaN, 2]);
    const b = tensor([1, NaN, NaN, 3]);
    expect([...(await a.maximum(b).data())]).toEqual([NaN, NaN, NaN, 3]);
    expect([...(await a.minimum(b).data())]).toEqual([NaN, NaN, NaN, 2]);
  });
});

describe('comparison and integers', () => {
  it('compares with broadcasting, NaN equal to nothing', async () => {
    const a = tensor([[1, 2, NaN]]);
    expect([...(await a.equal(tensor([[1], [2]])).data())]).toEqual([1, 0, 0, 0, 1, 0]);
    expect([...(await a.lessEqual(1).data())]).toEqual([1, 0, 0]);
    expect([...(await a.notEqual(NaN).data())]).toEqual([1, 1, 1]);
    expect(a.greater(0).dtype).toBe('bool');
  });
  it('adds integers as integers and divides them as floats', async () => {
    const a = tensor([7, -3], { dtype: 'int32' });
    expect(a.add(tensor([1, 1], { dtype: 'int64' })).dtype).toBe('int64');
    expect([...(await a.mul(2).data())]).toEqual([14, -6]);
    const q = a.div(tensor([2, 0], { dtype: 'int32' }));
    expect(q.dtype).toBe('float32');
    expect([...(await q.data())]).toEqual([3.5, -Infinity]);
  });
  it('finds the largest of integers that float32 cannot tell apart', async () => {
    const x = tensor(new BigInt64Array([2n ** 40n, 2n ** 40n + 2n, 2n ** 40n + 1n]));
    expect(await x.argmax().item()).toBe(1);
    const top = x.topk(2);
    expect([...(await top.values.data())]).toEqual([2n ** 40n + 2n, 2n ** 40n + 1n]);
    expect(
      await tensor([2 ** 25, 2 ** 25 + 1], { dtype: 'int32' })
        .argmax()
        .item(),
    ).toBe(1);
  });
  it('adds up gradients of 16-bit floats', async () => {
    const x = tensor([[1.5], [2]], { dtype: 'bfloat16', requiresGrad: true });
    x.expand([2, 3]).mul(x).sum().backward();
    expect([...(await numbers(x.grad!))]).toEqual([9, 12]);
  });
  it('computes 16-bit floats in float32', async () => {
    const x = tensor([1.5, -2.25], { dtype: 'bfloat16' });
    const y = x.mul(x);
    expect(y.dtype).toBe('bfloat16');
    expectClose(await numbers(y), [2.25, 5.0625], { rtol: 0, atol: 0 });
  });
});

describe('odd sizes', () => {
  it.each([0, 1, 2, 3, 15, 16, 17, 31, 33, 1000, 32769])('adds %i elements', async (n) => {
    const a = tensor(Float32Array.from({ length: n }, (_, i) => i));
    const got = await a.add(a).data();
    expect(got.length).toBe(n);
    expect((got as Float32Array).every((v, i) => v === 2 * i)).toBe(true);
  });
});

describe('nothing', () => {
  it('is sliced, added and summed like anything else', async () => {
    const x = zeros([0, 5, 3], { requiresGrad: true });
    const part = x.slice(1, 2, 4).permute([2, 0, 1]);
    const y = part.add(part).sum({ dim: 2 });
    expect(y.shape).toEqual([3, 0]);
    expect((await part.data()).length).toBe(0);
    y.sum().backward();
    expect(x.grad!.shape).toEqual([0, 5, 3]);
    const stretched = zeros([1, 0, 1, 2], { requiresGrad: true });
    stretched.expand([7, 0, 16, 2]).sum().backward();
    expect(stretched.grad!.shape).toEqual([1, 0, 1, 2]);
    await synchronize();
  });
});

describe('bad input', () => {
  it('names shapes that do not broadcast', () => {
    expect(() => tensor([1, 2, 3]).add(tensor([1, 2]))).toThrow(
      /add: shapes \[3\] and \[2\] do not broadcast/,
    );
  });
  it('refuses what is not a tensor', () => {
    expect(() => roots.exp([1] as unknown as Tensor)).toThrow(
      /exp: x must be a Tensor, got object/,
    );
    expect(() => roots.add(tensor([1]), 'x' as unknown as number)).toThrow(
      /add: b must be a Tensor, got string/,
    );
  });
  it('refuses unknown options and bad numbers', () => {
    expect(() => roots.gelu(tensor([1]), { approximat: 'tanh' } as object)).toThrow(
      /unknown option "approximat"/,
    );
    expect(() => roots.clamp(tensor([1]), 2, 1)).toThrow(/high must be a number from 2/);
  });
});
