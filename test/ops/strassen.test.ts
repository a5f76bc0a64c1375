// matmulStrassen: the numbers of matmul within the bound it states, at even and odd sizes.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import { checkOp, matmulReference, normal, numbers } from '../harness.js';

checkOp(
  'matmulStrassen',
  [
    [1, 1, 1],
    [2, 2, 2],
    [4, 6, 8],
    [3, 5, 7],
    [7, 4, 2],
    [1, 9, 4],
    [5, 1, 6],
  ].map(([m, k, n]) => ({
    name: `${m} × ${k} by ${k} × ${n}`,
    inputs: () => [normal(m!, k!), normal(k!, n!)],
    op: roots.matmulStrassen,
    reference: matmulReference,
    f32: { rtol: 1e-5, atol: 1e-5 },
  })),
);

describe('matmulStrassen', () => {
  it.each([
    [300, 300, 300],
    [257, 129, 301],
    [64, 801, 33],
  ])('%i × %i × %i is far within the bound it states (K02)', async (m, k, n) => {
    const generator = new roots.Generator(5);
    const [a, b] = [roots.randn([m, k], { generator }), roots.randn([k, n], { generator })];
    const exact = roots.matmul(roots.cast(a, 'float64'), roots.cast(b, 'float64'));
    const worst = async (x: roots.Tensor): Promise<number> =>
      Number(await roots.max(roots.abs(roots.sub(roots.cast(x, 'float64'), exact))).item());
    const largest = async (x: roots.Tensor): Promise<number> =>
      Number(await roots.max(roots.abs(x)).item());
    const error = await worst(roots.matmulStrassen(a, b));
    const bound = (4.5 * k * k + 48 * k) * 2 ** -24 * (await largest(a)) * (await largest(b));
    expect(error).toBeLessThan(bound / 1000);
    expect(error).toBeLessThan(5 * (await worst(roots.matmul(a, b))));
    expect(error).toBeGreaterThan(0);
  });

  it('has the same bits for every number of threads (N3)', async () => {
    const generator = new roots.Generator(6);
    const [a, b] = [roots.randn([131, 260], { generator }), roots.randn([260, 143], { generator })];
    const before = roots.getThreads();
    const results: Float64Array[] = [];
    for (const threads of [1, 2, 3, 7]) {
      roots.setThreads(threads);
      results.push(await numbers(roots.matmulStrassen(a, b)));
    }
    roots.setThreads(before);
    for (const r of results) expect(r).toEqual(results[0]);
  });

  it('names what it does not take', () => {
    expect(() => roots.matmulStrassen(normal(3, 4), normal(5, 6))).toThrow(
      'matmulStrassen: inner dimensions differ: [3, 4] × [5, 6] (4 ≠ 5)',
    );
    expect(() => roots.matmulStrassen(normal(2, 3, 4), normal(4, 5))).toThrow(
      /a must have shape \(M, K\)/,
    );
    const half = roots.cast(normal(4, 4), 'bfloat16');
    expect(() => roots.matmulStrassen(half, half)).toThrow(/float32 or float64, got bfloat16/);
  });
});
