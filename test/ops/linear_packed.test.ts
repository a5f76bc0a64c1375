// Products with packed weights: the numbers of the plain ones, at every edge of a panel.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import { expectClose, numbers } from '../harness.js';

const generator = new roots.Generator(11);
const normal = (...shape: number[]): roots.Tensor => roots.randn(shape, { generator });

const shapes: [m: number, n: number, k: number][] = [
  [1, 1, 1],
  [1, 31, 5],
  [1, 33, 70],
  [1, 70, 801],
  [2, 64, 16],
  [3, 32, 33],
  [7, 100, 65],
  [14, 31, 384],
  [15, 97, 1024],
  [64, 65, 401],
  [130, 4100, 50],
  [5, 40, 0],
  [0, 40, 3],
];

describe.skipIf(process.env['ROOTS_TEST_DEVICE'] === 'cuda')('packed weights', () => {
  it.each(shapes)('%i x %i x %i equals linear (K02)', async (m, n, k) => {
    const [x, w, bias] = [normal(m, k), normal(n, k), normal(n)];
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const weight = roots.cast(w, dtype);
      const packed = roots.packLinear(weight);
      const back = roots.unpackLinear(packed, n, k);
      expect(await numbers(back)).toEqual(await numbers(weight));
      const exact = roots.cast(weight, 'float64');
      // products of bfloat16 round x too
      const given = roots.cast(dtype === 'bfloat16' ? roots.cast(x, dtype) : x, 'float64');
      for (const activation of ['none', 'gelu_tanh', 'silu'] as const) {
        const y = roots.linearPacked(x, packed, bias, { outputs: n, activation });
        const want = roots.linear(given, exact, roots.cast(bias, 'float64'), { activation });
        expect(y.shape).toEqual([m, n]);
        const atol = 1e-5 * Math.sqrt(Math.max(1, k));
        expectClose(await numbers(y), await numbers(want), { rtol: 1e-5, atol }, activation);
      }
    }
  });

  it('takes transposed weights, strided x and no bias (K02)', async () => {
    const [w, x] = [normal(40, 70), normal(6, 2, 80)];
    const packed = roots.packLinear(roots.transpose(w));
    const part = roots.slice(x, 2, 3, 43);
    const y = roots.linearPacked(part, packed, null, { outputs: 70 });
    expect(y.shape).toEqual([6, 2, 70]);
    const want = roots.linear(part, roots.transpose(w));
    expectClose(await numbers(y), await numbers(want), { rtol: 1e-5, atol: 1e-5 }, 'strided');
  });

  it('names what does not fit', () => {
    const packed = roots.packLinear(normal(40, 8));
    expect(() => roots.linearPacked(normal(2, 9), packed, null, { outputs: 40 })).toThrow(
      /packed must have shape \[2, 9, 32\], got \[2, 8, 32\]/,
    );
    expect(() => roots.linearPacked(normal(2, 8), packed, normal(39), { outputs: 40 })).toThrow(
      /bias must have shape \[40\]/,
    );
    expect(() => roots.packLinear(roots.tensor([[1, 2]], { dtype: 'int32' }))).toThrow(
      /float32 or bfloat16, got int32/,
    );
  });

  it('a layer packs, computes the same, and gives its weight back exactly (K02)', async () => {
    for (const conv1d of [false, true]) {
      const [weight, bias] = [normal(...(conv1d ? [20, 50] : [50, 20])), normal(50)];
      const before = await numbers(weight);
      const layer = new roots.nn.Linear({ weight, bias, conv1d });
      const x = normal(3, 20);
      const want = await numbers(layer.forward(x));
      const bytes = roots.memory().bytes;
      layer.pack();
      // 50 outputs are padded to 64, and the original is gone
      expect(roots.memory().bytes - bytes).toBe(14 * 20 * 4);
      expectClose(await numbers(layer.forward(x)), want, { rtol: 1e-5, atol: 1e-5 }, 'packed');
      // a gradient needs the weight itself
      const moved = x.detach().setRequiresGrad();
      layer.forward(moved).sum().backward();
      expect(moved.grad!.shape).toEqual([3, 20]);
      layer.pack();
      expect([...layer.namedParameters()].map(([name]) => name)).toEqual(['weight', 'bias']);
      expect(layer.weight.shape).toEqual(conv1d ? [20, 50] : [50, 20]);
      expect(await numbers(layer.weight)).toEqual(before);
      layer.pack();
      layer.storeBfloat16();
      expect(layer.weight.dtype).toBe('bfloat16');
      const half = await numbers(roots.cast(roots.cast(layer.weight, 'bfloat16'), 'float32'));
      expectClose(half, before, { rtol: 0.01, atol: 0.01 }, 'bfloat16');
      layer.dispose();
    }
  });
});
