import { expect, it } from 'vitest';
import { AdamW, cast, tensor } from '../../lib/index.js';
import { describeWithFixtures, expectClose, fixtureTensors, numbers } from '../harness.js';

describeWithFixtures('AdamW (T09)', () => {
  it('equals torch.optim.AdamW for 12 steps in both precisions', async () => {
    const file = await fixtureTensors('ops/ops.safetensors');
    for (const [kind, dtype] of [
      ['f32', 'float32'],
      ['f64', 'float64'],
    ] as const)
      for (const name of ['p0', 'p1']) {
        const p = cast(await file.get(`optim|in.${name}`), dtype);
        const gradients = await numbers(await file.get(`optim|in.${name.replace('p', 'g')}`));
        const optimizer = new AdamW([p], { lr: 0.01, weightDecay: 0.01 });
        const want = await numbers(await file.get(`optim_adamw|${kind}.${name}`));
        const n = p.size;
        for (let step = 0; step < 12; step++) {
          p.grad = tensor(gradients.slice(step * n, (step + 1) * n), { shape: p.shape, dtype });
          optimizer.step();
          optimizer.zeroGrad();
          expectClose(
            await numbers(p),
            want.slice(step * n, (step + 1) * n),
            kind === 'f32' ? { rtol: 1e-6, atol: 1e-6 } : { rtol: 1e-12, atol: 1e-13 },
            `${name} step ${step}`,
          );
        }
      }
  });
  it('refuses bad options', () => {
    expect(() => new AdamW([], { lr: -1 })).toThrow(/lr must be a number from 0/);
    expect(() => new AdamW([], { learningRate: 1 } as object)).toThrow(
      /unknown option "learningRate"/,
    );
  });
});
