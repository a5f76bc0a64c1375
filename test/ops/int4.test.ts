import { describe, expect, it } from 'vitest';
import {
  Generator,
  linear,
  linearW4A16,
  packI4,
  quantizeWeightI4,
  randn,
  relu,
  tensor,
  unpackI4,
} from '../../lib/index.js';
import { expectClose, expectNoLeak, numbers } from '../harness.js';

const generator = new Generator(4);
const shapes = [
  [1, 1, 1],
  [1, 5, 31],
  [2, 7, 33],
  [3, 64, 128],
  [8, 33, 300],
  [9, 65, 260],
  [40, 130, 129],
] as const;

describe('int4 weights in groups (G07)', () => {
  it('stay in [-8, 7], within half a step of the weight where nothing is clipped', async () => {
    for (const [, n, k] of shapes)
      for (const group of [32, 128]) {
        const w = randn([n, k], { generator });
        const { q, scale } = quantizeWeightI4(w, { group, clip: false });
        expect([q.dtype, scale.shape]).toEqual(['int8', [n, Math.ceil(k / group)]]);
        const [ws, qs, ss] = [await numbers(w), await numbers(q), await numbers(scale)];
        const groups = scale.shape[1]!;
        for (let i = 0; i < n * k; i++) {
          const s = ss[Math.floor(i / k) * groups + Math.floor((i % k) / group)]!;
          expect(Math.abs(qs[i]! + 0.5)).toBeLessThanOrEqual(7.5);
          expect(Math.abs(ws[i]! - qs[i]! * s)).toBeLessThanOrEqual(0.50001 * s);
        }
      }
  });
  it('clipping leaves no larger squared error', async () => {
    const w = randn([16, 256], { generator });
    const error = async (clip: boolean): Promise<number> => {
      const { q, scale } = quantizeWeightI4(w, { clip });
      const [ws, qs, ss] = [await numbers(w), await numbers(q), await numbers(scale)];
      return ws.reduce((sum, x, i) => sum + (x - qs[i]! * ss[Math.floor(i / 128)]!) ** 2, 0);
    };
    expect(await error(true)).toBeLessThan(await error(false));
  });
  it('are packed and unpacked exactly, whatever the width', async () => {
    for (const k of [1, 15, 16, 17, 31, 32, 33, 100]) {
      const values = Int8Array.from({ length: 3 * k }, (_, i) => ((i * 7) % 16) - 8);
      const packed = packI4(tensor(values, { shape: [3, k] }));
      expect(packed.shape).toEqual([3, Math.ceil(k / 32) * 16]);
      expect(await unpackI4(packed, k).data()).toEqual(values);
    }
  });
  it('linearW4A16 equals linear() with the widened weights, few rows and many, with bias and activation', async () => {
    for (const [m, n, k] of shapes)
      for (const group of [32, 64, 128]) {
        const [x, w, bias] = [
          randn([m, k], { generator }),
          randn([n, k], { generator }),
          randn([n], { generator }),
        ];
        const { q, scale } = quantizeWeightI4(w, { group });
        const [qs, ss] = [await numbers(q), await numbers(scale)];
        const groups = scale.shape[1]!;
        const wide = Float32Array.from(
          qs,
          (v, i) => v * ss[Math.floor(i / k) * groups + Math.floor((i % k) / group)]!,
        );
        const want = relu(linear(x, tensor(wide, { shape: [n, k] }), bias));
        const got = linearW4A16(x, packI4(q), scale, bias, { group, activation: 'relu' });
        expect(got.shape).toEqual([m, n]);
        expectClose(
          await numbers(got),
          await numbers(want),
          { rtol: 2e-5, atol: 2e-5 },
          `${m} ${n} ${k} ${group}`,
        );
      }
  });
  it('keeps leading axes, an infinity of one row, and a group of zeros', async () => {
    const w = randn([6, 40], { generator });
    const { q, scale } = quantizeWeightI4(w);
    const x = randn([2, 3, 40], { generator });
    expect(linearW4A16(x, packI4(q), scale).shape).toEqual([2, 3, 6]);
    const zero = quantizeWeightI4(tensor(new Float32Array(40), { shape: [1, 40] }));
    expect([...(await numbers(zero.q)), ...(await numbers(zero.scale))]).toEqual([
      ...Array.from({ length: 40 }, () => 0),
      1,
    ]);
    const bad = tensor(new Float32Array(80).fill(1), { shape: [2, 40] });
    const values = await numbers(
      linearW4A16(
        tensor(
          Float32Array.from({ length: 80 }, (_, i) => (i === 3 ? NaN : 1)),
          { shape: [2, 40] },
        ),
        packI4(q),
        scale,
      ),
    );
    expect(values.slice(0, 6).every(Number.isNaN)).toBe(true);
    const clean = await numbers(linearW4A16(bad, packI4(q), scale));
    expectClose(values.slice(6), clean.slice(6), { rtol: 0, atol: 0 }, 'the other row');
  });
  it('leaves nothing behind, and names wrong input', async () => {
    const { q, scale } = quantizeWeightI4(randn([6, 40], { generator }));
    const packed = packI4(q);
    const x = randn([2, 40], { generator });
    await expectNoLeak(() => linearW4A16(x, packed, scale).dispose());
    expect(() => linearW4A16(x, packed, scale, null, { group: 48 })).toThrow(/multiple of 32/);
    expect(() => linearW4A16(randn([2, 70]), packed, scale)).toThrow(
      /does not belong to 70 inputs/,
    );
    expect(() => linearW4A16(x, packed, scale, null, { group: 32 })).toThrow(/scale/);
    expect(() => quantizeWeightI4(randn([2, 4]), { group: 0 })).toThrow(/group/);
    expect(() => packI4(randn([2, 4]))).toThrow(/int8/);
    expect(() => unpackI4(packed, 100)).toThrow(/packed/);
  });
});
