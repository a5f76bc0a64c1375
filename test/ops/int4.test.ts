import { describe, expect, it } from 'vitest';
import {
  Generator,
  linearW4A16,
  packI4,
  quantizeWeightI4,
  randn,
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
  it('are packed and unpacked exactly, with their scales, whatever the shape', async () => {
    for (const [n, k] of [
      [1, 1],
      [3, 31],
      [15, 32],
      [16, 33],
      [17, 100],
      [40, 160],
    ] as const)
      for (const group of [32, 64, 128]) {
        const values = Int8Array.from({ length: n * k }, (_, i) => ((i * 7) % 16) - 8);
        const scale = randn([n, Math.ceil(k / group)], { generator });
        const packed = packI4(tensor(values, { shape: [n, k] }), scale, { group });
        const panels = Math.ceil(n / 16);
        expect(packed.size).toBe(panels * (Math.ceil(k / group) * 64 + Math.ceil(k / 32) * 256));
        const back = unpackI4(packed, n, k, { group });
        expect(await back.q.data()).toEqual(values);
        expect(await back.scale.data()).toEqual(await scale.data());
      }
  });
  it('linearW4A16 equals linear() with the widened weights, within the rounding of x, few rows and many', async () => {
    for (const [m, n, k] of shapes)
      for (const group of [32, 64, 128]) {
        const [x, w, bias] = [
          randn([m, k], { generator }),
          randn([n, k], { generator }),
          randn([n], { generator }),
        ];
        const { q, scale } = quantizeWeightI4(w, { group });
        const [xs, qs, ss, bs] = await Promise.all([x, q, scale, bias].map(numbers));
        const got = await numbers(
          linearW4A16(x, packI4(q, scale, { group }), bias, {
            outputs: n,
            group,
            activation: 'relu',
          }),
        );
        const groups = scale.shape[1]!;
        for (let i = 0; i < m; i++)
          for (let j = 0; j < n; j++) {
            // in float64, and how far the rounding of x and of float32 sums may move it
            let [want, size, moved] = [bs![j]!, Math.abs(bs![j]!), 0];
            for (let b = 0; b < k; b += 32) {
              const inputs = xs!.slice(i * k + b, i * k + Math.min(b + 32, k));
              const step = Math.max(...inputs.map(Math.abs)) / 32512;
              inputs.forEach((value, c) => {
                const weight = qs![j * k + b + c]! * ss![j * groups + Math.floor((b + c) / group)]!;
                want += weight * value;
                size += Math.abs(weight * value);
                moved += Math.abs(weight) * step;
              });
            }
            const error = Math.abs(got[i * n + j]! - Math.max(want, 0));
            expect(error, `${m} ${n} ${k} ${group}`).toBeLessThanOrEqual(
              1.001 * moved + 1e-6 * size,
            );
          }
      }
  });
  it('is exact where x is: integers, and their multiples by powers of two', async () => {
    const [n, k] = [33, 96];
    const { q } = quantizeWeightI4(randn([n, k], { generator }), { group: 32 });
    const scale = tensor(new Float32Array(n * 3).fill(0.25), { shape: [n, 3] });
    const packed = packI4(q, scale, { group: 32 });
    // the largest of each block is 127 * 2^e, so that every step of 2^e is a multiple of 1 / 128
    const values = Float32Array.from({ length: 3 * k }, (_, i) => {
      const block = Math.floor(i / 32);
      return (i % 32 === 5 ? 127 : ((i * 37) % 255) - 127) * 2 ** ((block % 5) - 2);
    });
    const got = await numbers(
      linearW4A16(tensor(values, { shape: [3, k] }), packed, null, { outputs: n, group: 32 }),
    );
    const qs = await numbers(q);
    for (let i = 0; i < 3; i++)
      for (let j = 0; j < n; j++) {
        let want = 0;
        for (let c = 0; c < k; c++) want += 0.25 * qs[j * k + c]! * values[i * k + c]!;
        expect(got[i * n + j]).toBe(want);
      }
  });
  it('keeps leading axes, an infinity of one row, and a group of zeros', async () => {
    const w = randn([6, 40], { generator });
    const { q, scale } = quantizeWeightI4(w);
    const x = randn([2, 3, 40], { generator });
    expect(linearW4A16(x, packI4(q, scale), null, { outputs: 6 }).shape).toEqual([2, 3, 6]);
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
        packI4(q, scale),
        null,
        { outputs: 6 },
      ),
    );
    expect(values.slice(0, 6).every(Number.isNaN)).toBe(true);
    const clean = await numbers(linearW4A16(bad, packI4(q, scale), null, { outputs: 6 }));
    expectClose(values.slice(6), clean.slice(6), { rtol: 0, atol: 0 }, 'the other row');
  });
  it('leaves nothing behind, and names wrong input', async () => {
    const { q, scale } = quantizeWeightI4(randn([6, 40], { generator }));
    const packed = packI4(q, scale);
    const x = randn([2, 40], { generator });
    const outputs = 6;
    await expectNoLeak(() => linearW4A16(x, packed, null, { outputs }).dispose());
    expect(() => linearW4A16(x, packed, null, { outputs, group: 48 })).toThrow(/multiple of 32/);
    expect(() => linearW4A16(randn([2, 70]), packed, null, { outputs })).toThrow(/packed/);
    expect(() => linearW4A16(x, packed, null, { outputs: 17 })).toThrow(/packed/);
    expect(() => linearW4A16(x, packed, null, { outputs, group: 32 })).toThrow(/packed/);
    expect(() => quantizeWeightI4(randn([2, 4]), { group: 0 })).toThrow(/group/);
    expect(() => packI4(randn([2, 4]), randn([2, 1]))).toThrow(/int8/);
    expect(() => packI4(q, randn([6, 2]))).toThrow(/scale/);
    expect(() => unpackI4(packed, 6, 100)).toThrow(/packed/);
  });
});
