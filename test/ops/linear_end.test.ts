// gate ⊙ activation(x Wᵀ + b) + residual inside the kernels of linear layers, against the same by separate ones.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import type { LinearOptions, Tensor } from '../../lib/index.js';
import { checkOp, expectClose, normal as doubles, numbers } from '../harness.js';

const generator = new roots.Generator(23);
const normal = (...shape: number[]): Tensor => roots.randn(shape, { generator });
const cuda = process.env['ROOTS_TEST_DEVICE'] === 'cuda';

checkOp('linear with a gate and a residual', [
  {
    name: 'both',
    inputs: () => [doubles(2, 3, 9), doubles(7, 9), doubles(7), doubles(2, 3, 7), doubles(2, 3, 7)],
    op: (x, w, b, gate, residual) => roots.linear(x, w, b, { activation: 'silu', gate, residual }),
  },
  {
    name: 'residual after an activation',
    inputs: () => [doubles(5, 9), doubles(7, 9), doubles(7), doubles(5, 7)],
    op: (x, w, b, residual) => roots.linear(x, w, b, { activation: 'gelu', residual }),
  },
  {
    name: 'the input as the residual',
    inputs: () => [doubles(5, 7), doubles(7, 7)],
    op: (x, w) => roots.linear(x, w, null, { residual: x }),
  },
]);

type Product = (x: Tensor, options: LinearOptions) => Tensor;

/** Every kind of linear layer with a weight of (n, k). */
function products(n: number, k: number): Record<string, Product> {
  const [w, bias] = [normal(n, k), normal(n)];
  const turned = roots.transpose(roots.transpose(w).clone());
  const { q, scale } = roots.quantizeWeightI8(w);
  const packed = roots.packI8(q);
  // the first two of each four inputs
  const keep = roots.tensor(Int32Array.from({ length: k }, (_, i) => (i % 4 < 2 ? 1 : 0)));
  const int4 = roots.quantizeWeightI4(w, { group: 32 });
  const packed4 = roots.packI4(int4.q, int4.scale, { group: 32 });
  const inPrecision =
    (precision: 'bfloat16' | 'float16' | 'tfloat32'): Product =>
    (x, options) =>
      roots.autocast(precision, () => roots.linear(x, w, bias, options));
  const [packedF32, packedBf16, sparse] = cuda
    ? []
    : [
        roots.packLinear(w),
        roots.packLinear(roots.cast(w, 'bfloat16')),
        roots.packI8Sparse24(roots.cast(roots.mul(q, keep), 'int8')),
      ];
  return {
    linear: (x, options) => roots.linear(x, w, bias, options),
    'linear, transposed weight': (x, options) => roots.linear(x, turned, null, options),
    'linear, stored in bfloat16': (x, options) =>
      roots.linear(x, roots.cast(w, 'bfloat16'), bias, options),
    'autocast bfloat16': inPrecision('bfloat16'),
    'autocast float16': inPrecision('float16'),
    'autocast tfloat32': inPrecision('tfloat32'),
    w8a8: (x, options) => roots.linearW8A8(x, packed, scale, bias, options),
    w8a16: (x, options) => roots.linearW8A16(x, packed, scale, bias, options),
    w4a16: (x, options) =>
      roots.linearW4A16(x, packed4, bias, { outputs: n, group: 32, ...options }),
    ...(packedF32 && {
      'packed float32': (x, options) =>
        roots.linearPacked(x, packedF32, bias, { outputs: n, ...options }),
      'packed bfloat16': (x, options) =>
        roots.linearPacked(x, packedBf16!, bias, { outputs: n, ...options }),
      'w8a8, 2:4': (x, options) => roots.linearW8A8Sparse24(x, sparse!, scale, bias, options),
    }),
  };
}

describe('gates and residuals', () => {
  for (const [m, n, k] of [
    [1, 33, 70],
    [3, 64, 33],
    [9, 97, 65],
    [70, 45, 800],
    [150, 330, 40],
  ] as const)
    for (const [name, product] of Object.entries(products(n, k)))
      it(`${name}, ${m} × ${n} × ${k}: as by kernels of their own (C15)`, async () => {
        const [x, gate, residual] = [normal(m, k), normal(m, n), normal(m, n)];
        for (const activation of ['none', 'gelu_tanh', 'silu'] as const) {
          const y = product(x, { activation });
          const wanted: [LinearOptions, Tensor][] = [
            [{ activation, gate }, roots.mul(y, gate)],
            [{ activation, residual }, roots.add(y, residual)],
            [{ activation, gate, residual }, roots.add(roots.mul(y, gate), residual)],
          ];
          for (const [options, want] of wanted) {
            const got = await numbers(product(x, options));
            const close = { rtol: 1e-5, atol: 1e-5 * Math.sqrt(k) };
            expectClose(got, await numbers(want), close, Object.keys(options).join(', '));
          }
        }
      });

  it('leading axes, strides and bfloat16 tensors (C15)', async () => {
    const [x, w] = [normal(2, 5, 9), normal(7, 9)];
    const residual = roots.slice(normal(2, 5, 11), 2, 3, 10);
    expect(residual.isContiguous).toBe(false);
    const want = roots.add(roots.linear(x, w), residual);
    const close = { rtol: 1e-5, atol: 1e-5 };
    expectClose(await numbers(roots.linear(x, w, null, { residual })), await numbers(want), close);
    const [hx, hw, hr] = [x, w, residual].map((t) => roots.cast(t, 'bfloat16'));
    const half = roots.linear(hx!, hw!, null, { residual: hr! });
    expect(half.dtype).toBe('bfloat16');
    const exact = roots.linear(roots.cast(hx!, 'float64'), roots.cast(hw!, 'float64'), null, {
      residual: roots.cast(hr!, 'float64'),
    });
    expectClose(await numbers(half), await numbers(exact), { rtol: 2 ** -8, atol: 1e-5 });
  });

  it('NaN and infinities of a residual stay where they are (C15)', async () => {
    const [m, n, k] = [20, 50, 300];
    const values = new Float32Array(m * n);
    values[3 * n + 7] = NaN;
    values[19 * n + 49] = -Infinity;
    const residual = roots.tensor(values, { shape: [m, n] });
    for (const [name, product] of Object.entries(products(n, k))) {
      const got = await numbers(product(normal(m, k), { residual }));
      const bad = [...got.keys()].filter((i) => !Number.isFinite(got[i]!));
      expect(bad, name).toEqual([3 * n + 7, 19 * n + 49]);
    }
  });

  it('of another shape or type are refused by name', () => {
    const [x, w] = [normal(2, 5, 9), normal(7, 9)];
    expect(() => roots.linear(x, w, null, { residual: normal(7) })).toThrow(
      'linear: residual must have shape [2, 5, 7], got [7]',
    );
    expect(() =>
      roots.linear(x, w, null, { gate: roots.cast(normal(2, 5, 7), 'float64') }),
    ).toThrow('linear: gate must be float32, got float64');
    expect(() => roots.linear(x, w, null, { residuel: x } as LinearOptions)).toThrow(
      /unknown option "residuel"/,
    );
    const layer = new roots.nn.Linear({ weight: w });
    layer.pack();
    expect(() => layer.forward(x, { activaton: 'gelu' } as LinearOptions)).toThrow(
      /Linear: unknown option "activaton"/,
    );
    expect(() => layer.forward(x, 'gelu' as LinearOptions)).toThrow(/Linear: unknown option/);
  });

  it('a quantized layer passes the gradient of what is added to it', async () => {
    const layer = new roots.nn.Linear({ weight: normal(6, 8), bias: normal(6) });
    const { q, scale } = roots.quantizeWeightI8(layer.matrix());
    layer.setInt8(q, scale, 'w8a8');
    const [x, gate, residual] = [normal(3, 8), normal(3, 6), normal(3, 6)];
    const plain = layer.forward(x);
    for (const t of [gate, residual]) t.setRequiresGrad();
    layer.forward(x, { gate, residual }).sum().backward();
    expect(await numbers(gate.grad!)).toEqual(await numbers(plain));
    expect(await numbers(residual.grad!)).toEqual(new Float64Array(18).fill(1));
  });
});

describe('gradients that meet on a residual stream', () => {
  type Part = (x: Tensor) => Tensor;
  const [a, b] = [doubles(8, 8), doubles(8, 8)];
  const scale = doubles(8);
  const norm: Part = (x) => roots.layerNorm(x, scale);
  const rms: Part = (x) => roots.rmsNorm(x, scale);
  const branch =
    (first: Part): Part =>
    (x) =>
      roots.linear(roots.linear(first(x), a, null, { activation: 'gelu' }), b, null, {
        residual: x,
      });
  const cases: Record<string, Part> = {
    'layer norm, then products': branch(norm),
    'RMS norm, then products': branch(rms),
    'products alone': branch((x) => roots.linear(x, a)),
    'three products of one tensor': (x) => {
      const y = norm(x);
      return roots.add(
        roots.mul(roots.linear(y, a), roots.linear(y, b)),
        roots.linear(y, a, null, { residual: y }),
      );
    },
    'a pending gradient that is a transposed view': (x) => {
      const y = roots.square(x);
      return roots.add(roots.matmul(roots.transpose(roots.transpose(y).clone()), a), norm(y));
    },
    'two blocks': (x) => branch(rms)(branch(norm)(x)),
  };
  for (const [name, f] of Object.entries(cases)) {
    it(`${name}: gradcheck (N2)`, () => {
      // behind an operation, since leaves accumulate for themselves
      roots.gradcheck((x) => f(roots.mul(x, 1.5)), [doubles(3, 8)]);
    });
    it(`${name}: a kept graph gives the same again`, async () => {
      const x = doubles(3, 8).setRequiresGrad();
      const y = f(roots.mul(x, 1.5)).sum();
      y.backward(undefined, { retainGraph: true });
      const once = await numbers(x.grad!);
      x.grad = null;
      y.backward();
      expect(await numbers(x.grad!)).toEqual(once);
    });
  }
});
