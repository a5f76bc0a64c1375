// Fused attention at the borders of its tiles, against the same formula by plain tensor operations in float64.
import { describe, expect, it } from 'vitest';
import * as roots from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { expectClose, expectNoLeak, numbers } from '../harness.js';

const { tidy } = roots;
const generator = new roots.Generator(5);
const normal = (...shape: number[]): Tensor => roots.randn(shape, { dtype: 'float64', generator });

interface Case {
  b?: number;
  h?: number;
  hkv?: number;
  tq: number;
  tk: number;
  d: number;
  dv?: number;
  causal?: boolean;
  window?: number;
  scale?: number;
  mask?: boolean;
  starts?: bigint[];
  lengths?: bigint[];
}

/** What attention() is told of a case, the mask aside. */
const optionsOf = (c: Case): roots.AttentionOptions => ({
  ...(c.causal && { causal: true }),
  ...(c.window && { window: c.window }),
  ...(c.scale !== undefined && { scale: c.scale }),
  ...(c.starts && { starts: roots.tensor(BigInt64Array.from(c.starts)) }),
  ...(c.lengths && { lengths: roots.tensor(BigInt64Array.from(c.lengths)) }),
});

/** softmax(scale q kᵀ + mask) v with everything written down; rows without a key are zero. */
function composed(q: Tensor, k: Tensor, v: Tensor, m: Tensor | null, c: Case): Tensor {
  const { b = 1, h = 1, hkv = h, tq, tk, causal = false, window = 0 } = c;
  const wide = (x: Tensor): Tensor =>
    x
      .unsqueeze(2)
      .expand([b, hkv, h / hkv, tk, x.shape[3]!])
      .reshape([b, h, tk, x.shape[3]!]);
  const allowed = new Uint8Array(b * tq * tk);
  for (let n = 0; n < b; n++)
    for (let i = 0; i < tq; i++)
      for (let j = 0; j < tk; j++) {
        const at = i + tk - tq;
        const seen =
          (!causal || j <= at) &&
          (window === 0 || j > at - window) &&
          j >= Number(c.starts?.[n] ?? 0n) &&
          j < Number(c.lengths?.[n] ?? tk);
        allowed[(n * tq + i) * tk + j] = seen ? 1 : 0;
      }
  const see = roots.tensor(allowed, { shape: [b, 1, tq, tk] }).notEqual(0);
  let s = q.matmul(wide(k).transpose()).mul(c.scale ?? 1 / Math.sqrt(c.d));
  if (m) s = s.add(m);
  const p = roots.softmax(roots.where(see, s, -1e30));
  return roots.where(see, p, 0).matmul(wide(v));
}

const cases: [string, Case][] = [
  ['one block of keys, all tiles whole', { h: 2, tq: 56, tk: 256, d: 64 }],
  ['one query and one key more', { h: 2, tq: 57, tk: 257, d: 33, dv: 31 }],
  ['causal over three blocks of keys', { h: 2, tq: 530, tk: 530, d: 16, causal: true }],
  ['causal behind a cache', { tq: 70, tk: 600, d: 24, causal: true }],
  ['grouped heads, two batches', { b: 2, h: 6, hkv: 2, tq: 60, tk: 60, d: 32, causal: true }],
  ['a window over a border of blocks', { tq: 400, tk: 400, d: 8, causal: true, window: 130 }],
  ['heads wider than a block of keys', { tq: 20, tk: 40, d: 300, dv: 270, causal: true }],
  ['additive mask', { h: 2, tq: 30, tk: 300, d: 16, mask: true }],
  ['a negative scale, and none', { tq: 30, tk: 70, d: 16, scale: -0.3, causal: true }],
  ['scale zero', { tq: 17, tk: 70, d: 16, scale: 0, causal: true }],
  [
    'padding on both sides over blocks',
    { b: 3, tq: 40, tk: 520, d: 16, starts: [0n, 270n, 100n], lengths: [300n, 520n, 100n] },
  ],
  ['one query over a long cache', { b: 2, h: 4, hkv: 2, tq: 1, tk: 777, d: 64, causal: true }],
  ['three queries, odd heads', { h: 3, tq: 3, tk: 65, d: 21, dv: 70, causal: true }],
  [
    'two queries with a mask and padding',
    { b: 2, tq: 2, tk: 90, d: 20, mask: true, starts: [5n, 89n] },
  ],
  [
    'pieces of a long cache, the first of them empty',
    { b: 2, h: 4, hkv: 1, tq: 2, tk: 1300, d: 40, causal: true, starts: [700n, 0n] },
  ],
  [
    'a window inside the last pieces of a long cache',
    { h: 2, tq: 3, tk: 1100, d: 24, dv: 130, causal: true, window: 90 },
  ],
  ['more queries than keys', { tq: 90, tk: 20, d: 16, causal: true }],
];

describe('fused attention', () => {
  it.each(cases)('%s: output and gradients (C15, M02)', async (_, c) => {
    const { b = 1, h = 1, hkv = h, tq, tk, d, dv = d } = c;
    const inputs = [normal(b, h, tq, d), normal(b, hkv, tk, d), normal(b, hkv, tk, dv)];
    if (c.mask) inputs.push(normal(1, h, tq, tk));
    for (const t of inputs) t.setRequiresGrad();
    const weights = normal(b, h, tq, dv);
    const options = optionsOf(c);
    const gradients = async (out: Tensor): Promise<Float64Array[]> => {
      out.mul(weights).sum().backward();
      const all = [];
      for (const t of inputs) {
        all.push((await numbers(t.grad!)) as Float64Array);
        t.grad!.dispose();
        t.grad = null;
      }
      return all;
    };
    const [q, k, v, m = null] = inputs as [Tensor, Tensor, Tensor, Tensor?];
    const want = composed(q, k, v, m, c);
    const fused = roots.attention(q, k, v, { ...options, mask: m });
    const tight = { rtol: 1e-9, atol: 1e-10 };
    expectClose(await numbers(fused), await numbers(want), tight, 'float64');
    const [a, e] = [await gradients(fused), await gradients(want)];
    a.forEach((x, i) => expectClose(x, e[i]!, tight, 'gradient of ' + 'qkvm'[i]!));
    // float32: the same within what its additions lose
    const f32 = inputs.map((t) => roots.cast(t.detach(), 'float32').setRequiresGrad());
    const out = roots.attention(f32[0]!, f32[1]!, f32[2]!, { ...options, mask: f32[3] ?? null });
    const loose = { rtol: 2e-5, atol: 2e-5 };
    expectClose(await numbers(out), await numbers(want), loose, 'float32');
    out.mul(roots.cast(weights, 'float32')).sum().backward();
    for (const [i, t] of f32.entries())
      expectClose(await numbers(t.grad!), e[i]!, { rtol: 1e-4, atol: 2e-4 }, 'f32 ' + 'qkvm'[i]!);
  });

  it.each(cases)('%s: bfloat16 (C15)', async (_, c) => {
    const { b = 1, h = 1, hkv = h, tq, tk, d, dv = d } = c;
    const half = [
      normal(b, h, tq, d),
      normal(b, hkv, tk, d),
      normal(b, hkv, tk, dv),
      ...(c.mask ? [normal(1, h, tq, tk)] : []),
    ].map((t) => roots.cast(t, 'bfloat16').setRequiresGrad());
    const exact = half.map((t) => roots.cast(t.detach(), 'float64').setRequiresGrad());
    const [q, k, v, m = null] = exact as [Tensor, Tensor, Tensor, Tensor?];
    const want = composed(q, k, v, m, c);
    const weights = normal(b, h, tq, dv);
    want.mul(weights).sum().backward();
    const options = { ...optionsOf(c), mask: half[3] ?? null };
    // weights are rounded to 8 bits before they meet the values, and so are the results of the first
    const loose = { rtol: 0.01, atol: 0.01 };
    const out = roots.attention(half[0]!, half[1]!, half[2]!, options);
    expect(out.dtype).toBe('bfloat16');
    expectClose(await numbers(out), await numbers(want), loose, 'bfloat16');
    out.mul(roots.cast(weights, 'bfloat16')).sum().backward();
    for (const [i, t] of half.entries())
      expectClose(
        await numbers(t.grad!),
        await numbers(exact[i]!.grad!),
        { rtol: 0.03, atol: 0.06 },
        'gradient of ' + 'qkvm'[i]!,
      );
    if (half[3]) {
      // a mask without a gradient takes another path
      const constant = half.slice(0, 3).map((t) => t.detach().setRequiresGrad());
      roots
        .attention(constant[0]!, constant[1]!, constant[2]!, { ...options, mask: half[3].detach() })
        .mul(roots.cast(weights, 'bfloat16'))
        .sum()
        .backward();
      for (const [i, t] of constant.entries())
        expectClose(
          await numbers(t.grad!),
          await numbers(exact[i]!.grad!),
          { rtol: 0.03, atol: 0.06 },
          'gradient beside a constant mask of ' + 'qkv'[i]!,
        );
    }
    // float32 queries of a bfloat16 cache, and float32 throughout inside autocast
    const wide = half.map((t) => roots.cast(t.detach(), 'float32'));
    const mask = wide[3] ?? null;
    const mixed = roots.attention(wide[0]!, half[1]!.detach(), half[2]!.detach(), {
      ...options,
      mask,
    });
    expect(mixed.dtype).toBe('float32');
    expectClose(await numbers(mixed), await numbers(want), loose, 'float32 queries');
    const cast = roots.autocast('bfloat16', () =>
      roots.attention(wide[0]!, wide[1]!, wide[2]!, { ...options, mask }),
    );
    expectClose(await numbers(cast), await numbers(want), loose, 'autocast');
  });

  it.each(cases)('%s: int8 keys and values (C15, G14)', async (_, c) => {
    const { b = 1, h = 1, hkv = h, tq, tk, d, dv = d } = c;
    const f32 = (x: Tensor): Tensor => roots.cast(x, 'float32');
    const q = f32(normal(b, h, tq, d));
    const m = c.mask ? f32(normal(1, h, tq, tk)) : null;
    const rows = [normal(b, hkv, tk, d), normal(b, hkv, tk, dv)].map((x) =>
      roots.quantizeRowsI8(f32(x)),
    );
    const exact = rows.map(({ q: x, scale }) =>
      roots.cast(x, 'float64').mul(roots.cast(scale, 'float64').unsqueeze(3)),
    );
    const f64 = (x: Tensor): Tensor => roots.cast(x, 'float64');
    const want = await numbers(composed(f64(q), exact[0]!, exact[1]!, m && f64(m), c));
    const options = { ...optionsOf(c), mask: m };
    const out = roots.attentionI8(q, rows[0]!, rows[1]!, options);
    expectClose(await numbers(out), want, { rtol: 2e-5, atol: 2e-5 }, 'int8');
    // parts of longer buffers, as a cache gives them
    const [keys, values] = rows.map(({ q: x, scale }) => {
      const [wide, scales] = [
        roots.zeros([b, hkv, tk + 3, x.shape[3]!], { dtype: 'int8' }),
        roots.zeros([b, hkv, tk + 3]),
      ];
      return {
        q: roots.concat([x, wide.slice(2, 0, 3)], 2).slice(2, 0, tk),
        scale: roots.concat([scale, scales.slice(2, 0, 3)], 2).slice(2, 0, tk),
      };
    });
    const viewed = roots.attentionI8(q, keys!, values!, options);
    expect(await numbers(viewed)).toEqual(await numbers(out));
  });
  it('attentionI8 names wrong input and leaves nothing behind', async () => {
    const q = roots.randn([1, 4, 2, 8]);
    const [k, v] = [0, 1].map(() => roots.quantizeRowsI8(roots.randn([1, 2, 5, 8])));
    await expectNoLeak(() => roots.attentionI8(q, k!, v!, { causal: true }).dispose());
    expect(() => roots.attentionI8(q, { ...k!, q: roots.randn([1, 2, 5, 8]) }, v!)).toThrow(/int8/);
    expect(() => roots.attentionI8(q, { ...k!, scale: roots.ones([1, 2, 4]) }, v!)).toThrow(
      /scale/,
    );
    const other = roots.quantizeRowsI8(roots.randn([1, 2, 6, 8]));
    expect(() => roots.attentionI8(q, k!, other)).toThrow(/v.scale/);
    expect(() => roots.attentionI8(roots.randn([1, 3, 2, 8]), k!, v!)).toThrow(/multiple of 2/);
    expect(() => roots.attentionI8(q, k!, v!, { window: 2 })).toThrow(/causal/);
  });

  it('packedAttention is attention of its parts, and its gradient theirs', async () => {
    const [b, t, h, d] = [2, 75, 3, 20];
    const qkv = normal(b, t, 3 * h * d).setRequiresGrad();
    const weights = normal(b, t, h * d);
    const options = {
      causal: true,
      window: 40,
      starts: roots.tensor(BigInt64Array.from([0n, 9n])),
    };
    const parts = (x: Tensor): Tensor[] =>
      roots
        .split(x, [h * d, h * d, h * d], 2)
        .map((p) => p.reshape([b, t, h, d]).permute([0, 2, 1, 3]));
    const results = [];
    for (const run of [
      () => roots.packedAttention(qkv, h, options),
      () => {
        const [q, k, v] = parts(qkv) as [Tensor, Tensor, Tensor];
        return roots
          .attention(q, k, v, options)
          .permute([0, 2, 1, 3])
          .reshape([b, t, h * d]);
      },
    ]) {
      const out = run();
      out.mul(weights).sum().backward();
      results.push([await numbers(out), await numbers(qkv.grad!)]);
      qkv.grad!.dispose();
      qkv.grad = null;
    }
    expect(results[0]).toEqual(results[1]);
    const half = roots.cast(qkv.detach(), 'bfloat16');
    expect(roots.packedAttention(half, h, { causal: true }).dtype).toBe('bfloat16');
    await expectNoLeak(() => {
      tidy(() => {
        const x = qkv.detach().setRequiresGrad();
        roots.packedAttention(x, h, options).sum().backward();
        x.grad!.dispose();
        x.grad = null;
      });
    });
    expect(() => roots.packedAttention(normal(1, 2, 10), 2)).toThrow(
      /10 channels are not 3 × 2 heads/,
    );
    expect(() => roots.packedAttention(qkv, h, { window: 2 })).toThrow(/needs causal/);
    expect(() => roots.packedAttention(qkv, h, { mask: qkv } as object)).toThrow(
      /unknown option "mask"/,
    );
  });

  it('NaN in a key reaches every query that sees it, and no other', async () => {
    const [q, k, v] = [normal(1, 1, 60, 8), normal(1, 1, 60, 8), normal(1, 1, 60, 8)];
    const values = (await numbers(k)) as Float64Array;
    values[30 * 8 + 3] = NaN;
    const bad = roots.tensor(values, { shape: [1, 1, 60, 8], dtype: 'float64' });
    for (const dtype of ['float32', 'float64'] as const) {
      const c = (t: Tensor): Tensor => roots.cast(t, dtype);
      const out = await numbers(roots.attention(c(q), c(bad), c(v), { causal: true }));
      for (let i = 0; i < 60; i++)
        for (let j = 0; j < 8; j++) expect(Number.isNaN(out[i * 8 + j]!), `${i}`).toBe(i >= 30);
    }
  });
});
