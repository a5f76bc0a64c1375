// outputAttentions is computed beside the fused kernel: it has to say what the kernel did.
import { describe, expect, it } from 'vitest';
import { attention, concat, matmul, rand, tensor } from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { attend } from '../../lib/models/causal_lm.js';
import { KVCache } from '../../lib/nn/kv_cache.js';
import { expectClose, numbers } from '../harness.js';

describe('attention probabilities', () => {
  const [q, k, v] = [rand([2, 4, 6, 8]), rand([2, 2, 6, 8]), rand([2, 2, 6, 8])];
  /** probabilities × values, key heads repeated for their groups. */
  async function mixed(weights: Tensor, values: Tensor): Promise<ArrayLike<number>> {
    const [b, h, t, d] = values.shape as [number, number, number, number];
    const wide = values
      .unsqueeze(2)
      .expand([b, h, 2, t, d])
      .reshape([b, 2 * h, t, d]);
    return numbers(matmul(weights, wide));
  }
  it.each([0, 3])('times the values give the fused result, window %i', async (window) => {
    const attentions: Tensor[] = [];
    const input = { cache: null, layer: 0, mask: null, attentions };
    const out = attend(q, k, v, input, 0.3, window);
    expectClose(
      await mixed(attentions[0]!, v),
      await numbers(out),
      { rtol: 1e-5, atol: 1e-6 },
      'out',
    );
  });
  it('with a cache whose rows begin at different places', async () => {
    using cache = new KVCache(16);
    cache.starts = tensor(BigInt64Array.from([0n, 2n]));
    const attentions: Tensor[] = [];
    const input = { cache, layer: 0, mask: null, attentions };
    attend(q, k, v, input, 0.3);
    cache.advance(6);
    const [q1, k1, v1] = [rand([2, 4, 1, 8]), rand([2, 2, 1, 8]), rand([2, 2, 1, 8])];
    const out = attend(q1, k1, v1, input, 0.3);
    const weights = attentions[1]!;
    expect(weights.shape).toEqual([2, 4, 1, 7]);
    const w = await numbers(weights);
    // row 1 never sees its first two positions
    for (let head = 0; head < 4; head++)
      expect([w[(4 + head) * 7], w[(4 + head) * 7 + 1]]).toEqual([0, 0]);
    const all = concat([v, v1], 2);
    expectClose(await mixed(weights, all), await numbers(out), { rtol: 1e-5, atol: 1e-6 }, 'out');
  });
  it('an int8 cache: what one token after the other sees is what all at once do (G14)', async () => {
    const long = [rand([2, 4, 100, 8]), rand([2, 2, 100, 8]), rand([2, 2, 100, 8])] as const;
    const at = (x: Tensor, from: number, to: number): Tensor => x.slice(2, from, to);
    const run = async (steps: number[]): Promise<number[]> => {
      using cache = new KVCache(100, { dtype: 'int8' });
      const out: number[][] = [];
      for (const [i, n] of steps.entries()) {
        const from = steps.slice(0, i).reduce((a, x) => a + x, 0);
        const [q1, k1, v1] = long.map((x) => at(x, from, from + n)) as [Tensor, Tensor, Tensor];
        const y = attend(q1, k1, v1, { cache, layer: 0, mask: null }, 0.3);
        cache.advance(n);
        const rows = await numbers(y.permute([0, 2, 1, 3]).clone());
        // (B, T, H D): the rows of one text behind those before
        for (let b = 0; b < 2; b++)
          (out[b] ??= []).push(...rows.slice(b * n * 32, (b + 1) * n * 32));
      }
      return out.flat();
    };
    const whole = await run([100]);
    const exact = await numbers(
      attention(...long, { causal: true, scale: 0.3 })
        .permute([0, 2, 1, 3])
        .clone(),
    );
    expectClose(whole, exact, { rtol: 0.02, atol: 0.01 }, 'int8 against float32');
    // room for 64 tokens at first, for 100 then
    for (const steps of [
      [60, 40],
      [7, ...Array.from({ length: 93 }, () => 1)],
    ])
      expectClose(await run(steps), whole, { rtol: 1e-5, atol: 1e-6 }, `${steps.length} steps`);
  });
  it('an int8 cache also serves those who look at the probabilities', async () => {
    using cache = new KVCache(16, { dtype: 'int8' });
    const attentions: Tensor[] = [];
    const input = { cache, layer: 0, mask: null };
    const plain = await numbers(attend(q, k, v, { ...input }, 0.3));
    const out = attend(q, k, v, { ...input, attentions }, 0.3);
    expectClose(await numbers(out), plain, { rtol: 1e-5, atol: 1e-6 }, 'out');
    expect(attentions[0]!.shape).toEqual([2, 4, 6, 6]);
    expect(() => new KVCache(4, { dtype: 'int4' as 'int8' })).toThrow(/dtype/);
  });
  it('dropout on the weights is part of training only', async () => {
    const input = { cache: null, layer: 0, mask: null };
    const plain = await numbers(attend(q, k, v, input, 0.3));
    expect(await numbers(attend(q, k, v, { ...input, dropout: 0.5 }, 0.3))).not.toEqual(plain);
    expectClose(
      plain,
      await numbers(attention(q, k, v, { causal: true, scale: 0.3 })),
      { rtol: 0, atol: 0 },
      'fused',
    );
  });
});
