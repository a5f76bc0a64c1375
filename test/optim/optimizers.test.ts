import { describe, expect, it } from 'vitest';
import {
  Adafactor,
  Adam,
  AdamW,
  AdamW8bit,
  Lion,
  SGD,
  cast,
  clipGradNorm,
  gradientScale,
  schedule,
  tensor,
} from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import * as kernels from '../../lib/native/kernels.gen.js';
import type { ScheduleName, ScheduleOptions } from '../../lib/optim/schedules.js';
import {
  describeWithFixtures,
  expectClose,
  expectNoLeak,
  fixtureTensors,
  numbers,
} from '../harness.js';

type Make = (p: Tensor[]) => {
  step(options?: object): void;
  zeroGrad(): void;
  dispose(): void;
};
const rules: Record<string, Make> = {
  optim_sgd: (p) => new SGD(p, { lr: 0.1 }),
  optim_sgd_momentum: (p) => new SGD(p, { lr: 0.05, momentum: 0.9 }),
  optim_sgd_nesterov_wd: (p) =>
    new SGD(p, { lr: 0.05, momentum: 0.9, nesterov: true, weightDecay: 0.01 }),
  optim_adam: (p) => new Adam(p, { lr: 0.01 }),
  optim_adam_l2: (p) => new Adam(p, { lr: 0.01, betas: [0.9, 0.98], eps: 1e-6, weightDecay: 0.1 }),
  optim_adamw: (p) => new AdamW(p, { lr: 0.01, weightDecay: 0.01 }),
  optim_adamw_amsgrad: (p) => new AdamW(p, { lr: 0.01, amsgrad: true, weightDecay: 0.05 }),
  optim_lion: (p) => new Lion(p, { lr: 0.01 }),
  optim_adafactor: (p) => new Adafactor(p, { lr: 0.01 }),
};

describeWithFixtures('optimizers against torch for 12 steps (T09)', () => {
  for (const [name, make] of Object.entries(rules))
    for (const [kind, dtype] of [
      ['f32', 'float32'],
      ['f64', 'float64'],
    ] as const) {
      if (name === 'optim_adafactor' && dtype === 'float64') continue; // keeps float32 state
      it(`${name} ${dtype}`, async () => {
        const file = await fixtureTensors('ops/ops.safetensors');
        for (const p of ['p0', 'p1']) {
          const param = cast(await file.get(`optim|in.${p}`), dtype);
          const gradients = await numbers(await file.get(`optim|in.${p.replace('p', 'g')}`));
          const optimizer = make([param]);
          const want = await numbers(await file.get(`${name}|${kind}.${p}`));
          const n = param.size;
          for (let step = 0; step < 12; step++) {
            param.grad = tensor(gradients.slice(step * n, (step + 1) * n), {
              shape: param.shape,
              dtype,
            });
            optimizer.step();
            optimizer.zeroGrad();
            expectClose(
              await numbers(param),
              want.slice(step * n, (step + 1) * n),
              kind === 'f32' ? { rtol: 1e-6, atol: 1e-6 } : { rtol: 1e-12, atol: 1e-13 },
              `${p} step ${step}`,
            );
          }
          optimizer.dispose();
        }
      });
    }

  it('clipGradNorm and the scale inside step() equal torch (T10)', async () => {
    const file = await fixtureTensors('ops/ops.safetensors');
    const names = file.names.filter((n) => n.startsWith('clip|in.g'));
    for (const [name, max] of [
      ['clip_norm1', 1],
      ['clip_norm_large', 1000],
    ] as const) {
      const params = await Promise.all(
        names.map(async (n) => {
          const g = await file.get(n);
          const p = tensor(new Float32Array(g.size), { shape: g.shape });
          p.grad = g;
          return p;
        }),
      );
      const total = (await numbers(await file.get(`${name}|f32.total`)))[0]!;
      const sgd = new SGD(params, { lr: 1 });
      sgd.step({ scale: gradientScale(params, { maxNorm: max }) });
      expect(await clipGradNorm(params, max)).toBeCloseTo(total, 4);
      for (const [i, n] of names.entries()) {
        const want = await numbers(await file.get(`${name}|f32.${n.slice('clip|in.'.length)}`));
        expectClose(await numbers(params[i]!.grad!), want, { rtol: 1e-6, atol: 1e-7 }, n);
        expectClose(
          await numbers(params[i]!),
          want.map((v) => -v),
          { rtol: 1e-6, atol: 1e-7 },
          `step ${n}`,
        );
      }
    }
  });
});

describeWithFixtures('schedules against transformers (T10)', () => {
  const base = { warmupSteps: 10, totalSteps: 60 };
  const cases: [string, ScheduleName, ScheduleOptions][] = [
    ['lr_linear', 'linear', base],
    ['lr_cosine', 'cosine', base],
    ['lr_cosine_with_restarts', 'cosine_with_restarts', { ...base, numCycles: 3 }],
    ['lr_polynomial', 'polynomial', { ...base, power: 2, endFactor: 1e-7 / 1e-3 }],
    ['lr_constant_with_warmup', 'constant_with_warmup', base],
    ['lr_inverse_sqrt', 'inverse_sqrt', { warmupSteps: 10 }],
    ['lr_constant', 'constant', {}],
    ['lr_cosine_with_min_lr', 'cosine_with_min_lr', { ...base, minLrRate: 0.1 }],
  ];
  it.each(cases)('%s', async (key, name, options) => {
    const file = await fixtureTensors('ops/ops.safetensors');
    const stored = file.names.find((n) => n.startsWith(`${key}|`))!;
    const want = await numbers(await file.get(stored));
    const factor = schedule(name, options);
    expectClose(
      want.map((_, i) => 1e-3 * factor(i)),
      want,
      { rtol: 1e-6, atol: 1e-10 },
      key,
    );
  });
});

describe('many parameters in one call', () => {
  // more than one call takes, of two types, one longer than a piece of work, one without a gradient
  const sizes = [40000, ...Array.from({ length: 300 }, (_, i) => 1 + ((i * 37) % 120))];
  const make = (): Tensor[] =>
    sizes.map((n, i) => {
      const wave = (f: number): number[] =>
        Array.from({ length: n }, (_, j) => Math.sin(i + f * j));
      const dtype = i % 5 === 2 ? 'float64' : 'float32';
      const p = tensor(wave(0.37), { dtype, requiresGrad: true });
      if (i !== 7) p.grad = tensor(wave(0.11), { dtype });
      return p;
    });
  for (const [name, rule] of Object.entries(rules)) {
    if (name === 'optim_adafactor') continue; // keeps float32 state
    it(`${name}: the same numbers as parameter by parameter`, async () => {
      const [together, apart] = [make(), make()];
      const one = rule(together);
      const each = apart.map((p) => rule([p]));
      for (let step = 0; step < 3; step++) {
        one.step();
        for (const optimizer of each) optimizer.step();
      }
      for (const [i, p] of together.entries())
        expect(await p.data(), `parameter ${i}`).toEqual(await apart[i]!.data());
    });
  }
  it('the norm of their gradients equals the sum over all', async () => {
    const params = make();
    let want = 0;
    for (const p of params) if (p.grad) for (const x of await numbers(p.grad)) want += x * x;
    const { norm } = await gradientScale(params).read();
    expect(norm).toBeCloseTo(Math.sqrt(want), 8);
  });
  it('the addon refuses lists that do not belong together, and too long ones', async () => {
    const t = (n: number): Tensor => tensor(new Float32Array(n));
    const call = (p: Tensor[], g: Tensor[]): void => kernels.lion(p, g, p, null, 0.1, 0.9, 0.9, 0);
    const long = Array.from({ length: 200 }, () => t(1));
    expect(() => call(long, long)).toThrow(/at most 128/);
    for (const [p, g] of [
      [[t(3)], [t(4)]],
      [[t(3), t(3)], [t(3)]],
      [[t(3)], []],
    ] as const) {
      // at once or, when the queue is at it, at the next read
      const failing = async (): Promise<void> => {
        call([...p], [...g]);
        await t(1).data();
      };
      await expect(failing()).rejects.toThrow(/lion/);
    }
    call([], []);
    await t(1).data();
  });
});

describe('optimizers', () => {
  const make = (values: number[]): Tensor => tensor(values, { requiresGrad: true });

  it('warmup_stable_decay rises, holds and falls to the last factor', () => {
    const f = schedule('warmup_stable_decay', {
      warmupSteps: 10,
      totalSteps: 100,
      decaySteps: 20,
      minLrRate: 0.1,
    });
    expect([f(0), f(5), f(10), f(80), f(90), f(100)]).toEqual([0, 0.5, 1, 1, 0.55, 0.1]);
  });

  it('AdamW8bit follows AdamW (T09)', async () => {
    // a noisy quadratic bowl of 1000 dimensions with curvatures over three decades
    const n = 1000;
    const curvature = Array.from({ length: n }, (_, i) => 10 ** ((3 * i) / n - 2));
    const loss: number[] = [];
    for (const Rule of [AdamW, AdamW8bit]) {
      const p = make(Array.from({ length: n }, (_, i) => Math.sin(i)));
      const optimizer = new Rule([p], { lr: 0.01, weightDecay: 0 });
      for (let step = 0; step < 150; step++) {
        const x = await numbers(p);
        p.grad = tensor(
          Float32Array.from(x, (v, i) => v * curvature[i]! * (1 + 0.5 * Math.sin(i * step))),
        );
        optimizer.step();
        optimizer.zeroGrad();
      }
      const x = await numbers(p);
      loss.push(x.reduce((s, v, i) => s + curvature[i]! * v * v, 0));
      if (Rule === AdamW8bit) expect(optimizer.stateBytes).toBeLessThan(2.1 * n);
    }
    expect(loss[1]! / loss[0]!).toBeGreaterThan(0.8);
    expect(loss[1]! / loss[0]!).toBeLessThan(1.25);
  });

  it('a step whose gradients or loss are not finite changes nothing at all (N5)', async () => {
    for (const make1 of [
      ...Object.values(rules),
      (p: Tensor[]) => new AdamW8bit(p, { lr: 0.01 }),
    ]) {
      const p = make([1, 2, 3]);
      const optimizer = make1([p]);
      p.grad = tensor([1, 2, 3]);
      optimizer.step({ scale: gradientScale([p]) });
      const before = await numbers(p);
      for (const [gradient, loss] of [
        [[1, NaN, 1], 0],
        [[1, Infinity, 1], 0],
        [[1, 1, 1], NaN],
      ] as const) {
        p.grad = tensor([...gradient]);
        const scale = gradientScale([p], { maxNorm: 1, loss: tensor(loss) });
        optimizer.step({ scale });
        expect((await scale.read()).finite).toBe(false);
        expect(await numbers(p)).toEqual(before);
      }
    }
  });

  it('groups have options of their own, and a schedule scales each', async () => {
    const [a, b] = [make([1]), make([1])];
    const optimizer = new SGD([{ params: [a] }, { params: [b], lr: 0.5 }], { lr: 0.1 });
    optimizer.scaleLr(0.5);
    a.grad = tensor([1]);
    b.grad = tensor([1]);
    optimizer.step();
    expectClose(await numbers(a), [0.95], { rtol: 1e-6, atol: 0 }, 'a');
    expectClose(await numbers(b), [0.75], { rtol: 1e-6, atol: 0 }, 'b');
  });

  it('state can be saved and loaded, and goes on with the same bits', async () => {
    const run = async (split: boolean): Promise<number[]> => {
      const p = make([1, 2, 3]);
      let optimizer = new AdamW([p], { lr: 0.1 });
      for (let step = 0; step < 6; step++) {
        if (split && step === 3) {
          const { steps, tensors } = optimizer.stateDict();
          const copies = new Map([...tensors].map(([k, t]) => [k, t.clone()]));
          optimizer = new AdamW([p], { lr: 0.1 });
          optimizer.loadStateDict({ steps, tensors: copies });
        }
        p.grad = tensor([1, -step, 0.5]);
        optimizer.step();
      }
      return [...(await numbers(p))];
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it('frees what it allocates', async () => {
    await expectNoLeak(() => {
      const p = make([1, 2, 3]);
      p.grad = tensor([1, 1, 1]);
      const optimizer = new Adam([p]);
      using scale = gradientScale([p], { maxNorm: 1 });
      optimizer.step({ scale });
      optimizer.zeroGrad();
      optimizer.dispose();
      p.dispose();
    });
  });

  it('refuses bad options', () => {
    expect(() => new AdamW([], { lr: -1 })).toThrow(/lr must be a number from 0/);
    expect(() => new AdamW([], { learningRate: 1 } as object)).toThrow(
      /unknown option "learningRate"/,
    );
    expect(() => new SGD([], { nesterov: true })).toThrow(/nesterov needs momentum/);
    const p = make([1]);
    expect(() => new Adam([{ params: [p] }, { params: [p] }])).toThrow(/two groups/);
    expect(() => new AdamW([p.reshape([1, 1]).expand([1, 3])])).toThrow(/dense parameters.*view/);
    expect(() => new AdamW([cast(p, 'bfloat16')])).toThrow(/float32 or float64 parameters, got bf/);
    expect(() => schedule('cosin' as ScheduleName)).toThrow(/name must be one of/);
    const adam = new Adam([p]);
    expect(() =>
      adam.loadStateDict({ steps: 1, tensors: new Map([['0.m', tensor([1, 2])]]) }),
    ).toThrow(/0\.m must be float32/);
  });
});
