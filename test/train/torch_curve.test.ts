// 200 steps of a tiny GPT from the same initial weights, here and in PyTorch (transformers): every loss within 1e-4. Needs the Python named
// by ROOTS_PEER_PYTHON.
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  AdamW,
  Generator,
  createModel,
  gradientScale,
  schedule,
  tensor,
  tidy,
} from '../../lib/index.js';
import { writeModel } from '../../lib/models/registry.js';
import { temporaryFolder } from '../harness.js';

const python = process.env['ROOTS_PEER_PYTHON'];
const script = `
import json, sys, torch
from transformers import AutoModelForCausalLM
o = json.load(open(sys.argv[1]))
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(o["folder"], attn_implementation="eager").train()
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
losses = []
for step, batch in enumerate(o["batches"]):
    ids = torch.tensor(batch)
    for g in opt.param_groups: g["lr"] = o["rates"][step]
    loss = model(input_ids=ids, labels=ids).loss
    opt.zero_grad(); loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    losses.append(loss.item())
print(json.dumps(losses))
`;

describe.skipIf(!python)(
  `loss curve against PyTorch (C02)${python ? '' : ' (skipped: set ROOTS_PEER_PYTHON)'}`,
  () => {
    it.each(['gpt2', 'llama'] as const)('%s: 200 losses within 1e-4', async (kind) => {
      const work = temporaryFolder('curve');
      try {
        const vocab = 61;
        const [rows, width, steps] = [4, 24, 200];
        const model = createModel(
          kind,
          { layers: 2, heads: 2, dim: 32, context: 32 },
          vocab,
          null,
          new Generator(3),
        );
        await writeModel(join(work, 'model'), model);
        model.requiresGrad();
        const rate = schedule('cosine', { warmupSteps: 20, totalSteps: steps });
        const rates = Array.from({ length: steps }, (_, i) => 1e-3 * rate(i));
        // a language with something to learn: each token mostly follows from the one before
        let state = 1;
        const random = (): number =>
          (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
        const batches = Array.from({ length: steps }, () =>
          Array.from({ length: rows }, () => {
            const row = [Math.floor(random() * vocab)];
            while (row.length < width)
              row.push(
                random() < 0.8 ? (row.at(-1)! * 7 + 3) % vocab : Math.floor(random() * vocab),
              );
            return row;
          }),
        );
        writeFileSync(
          join(work, 'in.json'),
          JSON.stringify({ folder: join(work, 'model'), batches, rates }),
        );
        const r = spawnSync(python!, ['-c', script, join(work, 'in.json')], {
          encoding: 'utf8',
          maxBuffer: 1 << 26,
        });
        expect(r.status, r.stderr).toBe(0);
        const want = JSON.parse(r.stdout) as number[];
        const optimizer = new AdamW(model.parameters(), {
          lr: 1e-3,
          betas: [0.9, 0.99],
          weightDecay: 0.1,
        });
        let worst = 0;
        for (const [step, batch] of batches.entries()) {
          optimizer.lr = rates[step]!;
          const loss = tidy(() => {
            const inputIds = tensor(Int32Array.from(batch.flat()), { shape: [rows, width] });
            const l = model.loss({ inputIds, labels: inputIds });
            l.backward();
            return l.detach();
          });
          using scale = gradientScale(model.parameters(), { maxNorm: 1 });
          optimizer.step({ scale });
          optimizer.zeroGrad();
          worst = Math.max(worst, Math.abs((await loss.item()) - want[step]!));
          loss.dispose();
        }
        expect(want.at(-1)!).toBeLessThan(0.9 * want[0]!);
        expect(worst).toBeLessThan(1e-4);
      } finally {
        rmSync(work, { recursive: true, force: true });
      }
    });
  },
);
