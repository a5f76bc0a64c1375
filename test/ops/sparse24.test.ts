// int8 products with two of four weights dropped: exactly the numbers of the dense product.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import { numbers } from '../harness.js';

const generator = new roots.Generator(24);

/** (n, k) int8 with at most two of each four neighbouring inputs not zero, sometimes fewer. */
async function sparse(n: number, k: number): Promise<roots.Tensor> {
  const values = (await roots
    .cast(roots.randn([n * k], { std: 60, generator }), 'int8')
    .data()) as Int8Array;
  const order = (await roots.randn([n * k], { generator }).data()) as Float32Array;
  for (let row = 0; row < n; row++)
    for (let q = 0; q < k; q += 4) {
      const at = Array.from({ length: Math.min(4, k - q) }, (_, e) => row * k + q + e);
      at.sort((a, b) => order[a]! - order[b]!);
      for (const i of at.slice(2)) values[i] = 0;
    }
  return roots.tensor(values, { shape: [n, k] });
}

const shapes: [m: number, n: number, k: number][] = [
  [1, 1, 1],
  [1, 33, 64],
  [2, 100, 67],
  [8, 64, 130],
  [9, 31, 6],
  [70, 95, 260],
  [1, 300, 768],
  [0, 8, 8],
];

describe.skipIf(process.env['ROOTS_TEST_DEVICE'] === 'cuda')('2:4 sparse int8', () => {
  it.each(shapes)('%i x %i x %i equals the dense product exactly (K08)', async (m, n, k) => {
    const q = await sparse(n, k);
    const [x, bias] = [roots.randn([m, k], { generator }), roots.randn([n], { generator })];
    const scale = roots.rand([n], { generator }).add(0.5).mul(0.01);
    const packed = roots.packI8Sparse24(q);
    expect(await numbers(roots.unpackI8Sparse24(packed, n, k))).toEqual(await numbers(q));
    const dense = roots.linearW8A8(x, roots.packI8(q), scale, bias, { activation: 'silu' });
    const y = roots.linearW8A8Sparse24(x, packed, scale, bias, { activation: 'silu' });
    expect(await numbers(y)).toEqual(await numbers(dense));
  });

  it('takes 5/8 of the bytes, and refuses weights that are not 2:4 (K08)', async () => {
    const q = await sparse(64, 256);
    const dense = roots.packI8(q).size - 64 * 4;
    expect((roots.packI8Sparse24(q).size - 64 * 4) / dense).toBe(5 / 8);
    const three = roots.tensor(Int8Array.from([1, 2, 0, 3, 0, 0, 0, 0]), { shape: [1, 8] });
    // thrown at once where kernels run inline
    await expect((async () => roots.packI8Sparse24(three).data())()).rejects.toThrow(
      /linear_24_pack: four neighbouring inputs of an output hold more than two values/,
    );
  });
});
