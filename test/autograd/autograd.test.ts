import { PerformanceObserver, constants } from 'node:perf_hooks';
import { describe, expect, it } from 'vitest';
import {
  backward,
  keep,
  memory,
  noGrad,
  ones,
  randn,
  synchronize,
  tensor,
  tidy,
  zeros,
} from '../../lib/index.js';
import { record } from '../../lib/autograd/record.js';
import type { Tensor } from '../../lib/index.js';
import { expectNoLeak, numbers } from '../harness.js';

describe('backward', () => {
  it('computes x³ by two multiplications inside nested tidy, intermediate disposed, nothing left over 1000 steps', async () => {
    const x = tensor([2, -3], { requiresGrad: true });
    const step = (): void =>
      tidy(() => {
        const y = tidy(() => {
          const square = x.mul(x);
          const cube = square.mul(x);
          square.dispose();
          return cube;
        });
        y.sum().backward();
      });
    step();
    expect([...(await x.grad!.data())]).toEqual([12, 27]);
    await expectNoLeak(() => {
      for (let i = 0; i < 1000; i++) {
        x.grad!.dispose();
        x.grad = null;
        step();
      }
    });
    expect([...(await x.grad!.data())]).toEqual([12, 27]);
  });
  it('accumulates, and adds both uses of one tensor', async () => {
    const x = tensor([3], { requiresGrad: true });
    x.add(x.mul(2)).backward(ones([1]));
    x.mul(10).backward();
    expect([...(await x.grad!.data())]).toEqual([13]);
  });
  it('hands over what other operations contributed to a gradient, once, and to nodes only', async () => {
    const taken: (number[] | null)[] = [];
    const taking = (x: Tensor): Tensor =>
      record(x.detach().mul(3), { x }, {}, (dy, _, walk) => {
        const rest = walk.take('x');
        taken.push(rest && [...(rest.dataSync() as Float32Array)]);
        const dx = dy.mul(3);
        return { x: rest ? dx.add(rest) : dx };
      });
    const x = tensor([1, 2], { requiresGrad: true });
    const y = x.mul(10);
    // the gradient by way of mul is there before taking() is asked
    taking(y).add(y.mul(5)).add(taking(x)).sum().backward();
    expect(await x.grad!.data()).toEqual(Float32Array.of(83, 83));
    expect(taken.toSorted()).toEqual([[5, 5], null].toSorted());
  });
  it('frees the graph, says so on a second call, and keeps it on request', () => {
    const x = tensor([3], { requiresGrad: true });
    const y = x.mul(x);
    y.backward(undefined, { retainGraph: true });
    y.backward();
    expect(() => y.backward()).toThrow(expect.objectContaining({ code: 'ERR_GRAPH_FREED' }));
  });
  it('refuses what has no gradient or several elements', () => {
    expect(() => backward(tensor([1]))).toThrow(/does not depend on any tensor with requiresGrad/);
    const x = tensor([1, 2], { requiresGrad: true });
    expect(() => x.mul(2).backward()).toThrow(/expected a tensor of one element/);
    expect(() => x.mul(2).backward(ones([3]))).toThrow(/gradient has shape \[3\], expected \[2\]/);
    expect(() => tensor([1], { dtype: 'int32', requiresGrad: true })).toThrow(
      /only floating-point/,
    );
  });
  it('survives a chain of 20000 operations without recursion', async () => {
    const x = tensor([1], { requiresGrad: true });
    let y = x.mul(1);
    for (let i = 0; i < 20_000; i++) {
      const next = y.add(1);
      y.dispose();
      y = next;
    }
    y.backward();
    y.dispose();
    expect([...(await x.grad!.data())]).toEqual([1]);
  });
});

describe('noGrad', () => {
  it('holds across await', async () => {
    const x = tensor([1], { requiresGrad: true });
    await noGrad(async () => {
      await Promise.resolve();
      expect(x.mul(2).requiresGrad).toBe(false);
    });
    expect(x.mul(2).requiresGrad).toBe(true);
  });
});

describe('memory', () => {
  it('tidy keeps what is returned, disposes the rest, refuses promises, cleans up after an error', async () => {
    const [a, held] = tidy(() => {
      const x = ones([4]);
      const dropped = x.add(1);
      const out = { list: [dropped.add(1)] };
      return [out, dropped];
    });
    expect(held.isDisposed).toBe(false);
    expect([...(await a.list[0]!.data())]).toEqual([3, 3, 3, 3]);
    expect(() => tidy(() => Promise.resolve(1))).toThrow(/returned a promise/);
    await expectNoLeak(() => {
      expect(() =>
        tidy(() => {
          ones([1000]);
          throw new Error('inside');
        }),
      ).toThrow('inside');
    });
    const kept = tidy(() => void 0) ?? keep(ones([1]));
    expect(kept.isDisposed).toBe(false);
  });
  it('views share bytes and outlive their base', async () => {
    const base = tensor([
      [1, 2],
      [3, 4],
    ]);
    const before = memory().bytes;
    const row = base.select(0, 1);
    const t = base.transpose();
    expect(memory().bytes).toBe(before);
    base.dispose();
    expect([...(await row.data())]).toEqual([3, 4]);
    expect([...(await t.data())]).toEqual([1, 3, 2, 4]);
    expect(() => base.add(1)).toThrow(expect.objectContaining({ code: 'ERR_ROOTS_DISPOSED' }));
    await expect(base.data()).rejects.toThrow(/used after dispose/);
  });
  it('frees garbage when the code yields', async () => {
    for (let i = 0; i < 200; i++) {
      randn([65536]);
      if (i % 20 === 19) {
        globalThis.gc?.();
        await new Promise((r) => setImmediate(r));
      }
    }
    globalThis.gc?.();
    await new Promise((r) => setImmediate(r));
    await synchronize();
    expect(memory().bytes).toBeLessThan(200 * 65536 * 4 * 0.5);
  });
  it('a loop that disposes what it makes does not set off the collector', async () => {
    let marked = 0;
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries())
        if (
          (entry as unknown as { detail: { kind: number } }).detail.kind ===
          constants.NODE_PERFORMANCE_GC_MAJOR
        )
          marked++;
    });
    observer.observe({ entryTypes: ['gc'] });
    for (let i = 0; i < 40; i++) {
      zeros([25_000_000]).dispose();
      await new Promise((r) => setTimeout(r, 2));
    }
    await new Promise((r) => setTimeout(r, 20));
    observer.disconnect();
    expect(marked).toBeLessThan(10);
  });
  it('the event loop turns while the core works (B11)', async () => {
    const a = randn([900, 900]);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const start = performance.now();
    let x = a;
    for (let i = 0; i < 12; i++) {
      const y = x.matmul(a).mul(0.03);
      if (x !== a) x.dispose();
      x = y;
    }
    const submitted = performance.now() - start;
    await numbers(x);
    const total = performance.now() - start;
    clearInterval(timer);
    if (process.env['ROOTS_STREAM'] === 'inline') return;
    expect(submitted).toBeLessThan(total);
    expect(turns).toBeGreaterThan(3);
  });
});
