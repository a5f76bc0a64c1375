import { describe, expect, it } from 'vitest';
import {
  cast,
  embeddingI4,
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
  [100, 70, 129],
  [97, 35, 1500],
  [190, 20, 2000], // more rows than a chunk has
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
          // rounding a scale to float16 moves the end of the range, 7.5 s
          const beyond = 7.5 * 2 ** -11;
          expect(Math.abs(ws[i]! - qs[i]! * s)).toBeLessThanOrEqual((0.50001 + beyond) * s);
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
  it('have scales of float16, also where weights are tiny', async () => {
    for (const size of [1, 1e-3, 1e-6, 1e-9]) {
      const values = Float32Array.from({ length: 64 }, (_, i) => size * Math.sin(i));
      const { q, scale } = quantizeWeightI4(tensor(values, { shape: [2, 32] }), { group: 32 });
      const back = await numbers(cast(cast(scale, 'float16'), 'float32'));
      expect(back).toEqual(await numbers(scale));
      expect(back.every((s) => s > 0)).toBe(true);
      expect((await numbers(q)).some((x) => x !== 0)).toBe(size > 1e-8);
    }
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
        const scale = cast(
          cast(randn([n, Math.ceil(k / group)], { generator }), 'float16'),
          'float32',
        );
        const packed = packI4(tensor(values, { shape: [n, k] }), scale, { group });
        const lines = Math.ceil(k / group / 2);
        expect(packed.size).toBe(Math.ceil(n / 16) * (lines * 64 + Math.ceil(k / 32) * 256));
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
    const wide = quantizeWeightI4(randn([6, 160], { generator }));
    const wider = packI4(wide.q, wide.scale);
    expect(() => linearW4A16(randn([2, 160]), wider, null, { outputs, group: 32 })).toThrow(
      /packed/,
    );
    expect(() => quantizeWeightI4(randn([2, 4]), { group: 0 })).toThrow(/group/);
    expect(() => packI4(randn([2, 4]), randn([2, 1]))).toThrow(/int8/);
    expect(() => packI4(q, randn([6, 2]))).toThrow(/scale/);
    expect(() => unpackI4(packed, 6, 100)).toThrow(/packed/);
  });
  it('embeddingI4 reads the rows that ids name', async () => {
    for (const [rows, width] of [
      [1, 1],
      [17, 33],
      [40, 160],
    ] as const)
      for (const group of [32, 128]) {
        const { q, scale } = quantizeWeightI4(randn([rows, width], { generator }), { group });
        const chosen = Int32Array.from({ length: 70 }, (_, i) => (i * 7) % rows);
        const ids = tensor(chosen, { shape: [7, 10] });
        const packed = packI4(q, scale, { group });
        const y = embeddingI4(ids, packed, { rows, width, group });
        expect(y.shape).toEqual([7, 10, width]);
        const [got, qs, ss] = await Promise.all([y, q, scale].map(numbers));
        const groups = scale.shape[1]!;
        for (let i = 0; i < 70; i++)
          for (let c = 0; c < width; c++) {
            const row = (i * 7) % rows;
            const want = qs![row * width + c]! * ss![row * groups + Math.floor(c / group)]!;
            expect(got![i * width + c]).toBe(Math.fround(want));
          }
      }
  });
  it('embeddingI4 names wrong ids and shapes', async () => {
    const { q, scale } = quantizeWeightI4(randn([6, 40], { generator }));
    const packed = packI4(q, scale);
    const size = { rows: 6, width: 40 };
    const ids = tensor(new Int32Array([0, 5]));
    await expectNoLeak(() => embeddingI4(ids, packed, size).dispose());
    expect(() => embeddingI4(ids, packed, { rows: 17, width: 40 })).toThrow(/packed/);
    expect(() => embeddingI4(randn([2]), packed, size)).toThrow(/int/);
    // at once where kernels run inline
    const read = async (id: number): Promise<unknown> =>
      embeddingI4(tensor(new Int32Array([id])), packed, size).data();
    for (const id of [6, -1])
      await expect(read(id)).rejects.toThrow(/embedding_i4: index out of range/);
  });
});
