// 100 steps of each optimizer that PyTorch has too, from the same parameters and gradients: equal within 1e-6. Needs the Python named
// by ROOTS_PEER_PYTHON.
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { optim, tensor } from '../../lib/index.js';
import type { Tensor } from '../../lib/index.js';
import { numbers } from '../harness.js';

const python = process.env['ROOTS_PEER_PYTHON'];
const steps = 100;
const size = 24;
const script = `
import json, sys, torch
name, options, start, gradients = json.load(sys.stdin)
p = torch.tensor(start, dtype=torch.float32).reshape(4, -1).requires_grad_()
opt = getattr(torch.optim, name)([p], **options)
for g in gradients:
    p.grad = torch.tensor(g, dtype=torch.float32).reshape(4, -1)
    opt.step()
print(json.dumps(p.detach().flatten().tolist()))
`;
const f32 = (x: number): number => Math.fround(x);
const start = Array.from({ length: size }, (_, i) => f32(Math.sin(7 * i + 1)));
const gradients = Array.from({ length: steps }, (_, s) =>
  Array.from({ length: size }, (_u, i) => f32(Math.cos(3 * s + 11 * i) * (1 + (i % 5)))),
);

type Make = (params: Tensor[]) => optim.SGD | optim.Adam;
const cases: [string, string, Record<string, unknown>, Make][] = [
  ['SGD', 'SGD', { lr: 0.01 }, (p) => new optim.SGD(p, { lr: 0.01 })],
  [
    'SGD with momentum and decay',
    'SGD',
    { lr: 0.01, momentum: 0.9, weight_decay: 0.05 },
    (p) => new optim.SGD(p, { lr: 0.01, momentum: 0.9, weightDecay: 0.05 }),
  ],
  [
    'Nesterov',
    'SGD',
    { lr: 0.01, momentum: 0.9, nesterov: true },
    (p) => new optim.SGD(p, { lr: 0.01, momentum: 0.9, nesterov: true }),
  ],
  [
    'Adam',
    'Adam',
    { lr: 0.01, weight_decay: 0.1 },
    (p) => new optim.Adam(p, { lr: 0.01, weightDecay: 0.1 }),
  ],
  [
    'AMSGrad',
    'Adam',
    { lr: 0.01, amsgrad: true },
    (p) => new optim.Adam(p, { lr: 0.01, amsgrad: true }),
  ],
  [
    'AdamW',
    'AdamW',
    { lr: 0.01, betas: [0.9, 0.95], weight_decay: 0.1 },
    (p) => new optim.AdamW(p, { lr: 0.01, betas: [0.9, 0.95], weightDecay: 0.1 }),
  ],
];

describe.skipIf(!python)(
  `${steps} optimizer steps against PyTorch${python ? '' : ' (skipped: set ROOTS_PEER_PYTHON)'}`,
  () => {
    it.each(cases)('%s (C02)', async (_, name, options, make) => {
      const r = spawnSync(python!, ['-c', script], {
        input: JSON.stringify([name, options, start, gradients]),
        encoding: 'utf8',
      });
      expect(r.status, r.stderr).toBe(0);
      const want = JSON.parse(r.stdout) as number[];
      const p = tensor(Float32Array.from(start), { shape: [4, size / 4] }).setRequiresGrad();
      const optimizer = make([p]);
      for (const g of gradients) {
        p.grad = tensor(Float32Array.from(g), { shape: [4, size / 4] });
        optimizer.step();
        optimizer.zeroGrad();
      }
      const got = await numbers(p);
      const scale = Math.max(...want.map(Math.abs));
      want.forEach((w, i) =>
        expect(Math.abs(got[i]! - w), `${i}: ${got[i]} and ${w}`).toBeLessThanOrEqual(
          1e-6 * Math.max(Math.abs(w), 0.1 * scale) + 1e-7,
        ),
      );
    });
  },
);
