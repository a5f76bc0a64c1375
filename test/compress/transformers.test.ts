// Pruned dense checkpoints in stock transformers: no missing or unexpected weights, equal logits. Needs a Python with
// torch and transformers, named by ROOTS_PEER_PYTHON; skipped, saying so, without one.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LanguageModel, compress, tensor } from '../../lib/index.js';
import type { PruneRatios } from '../../lib/index.js';
import { fixture, hasFixtures, numbers, temporaryFolder } from '../harness.js';

const python = process.env['ROOTS_PEER_PYTHON'];
const program = `
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
model, info = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
with torch.no_grad():
    logits = model(torch.tensor([json.loads(sys.argv[2])])).logits
print(json.dumps({"class": type(model).__name__, "logits": logits.flatten().tolist()}))
`;

const title = 'transformers loads pruned checkpoints (G11)';
const run = python && hasFixtures ? describe : describe.skip;
run(
  python
    ? title
    : `${title} (skipped: set ROOTS_PEER_PYTHON to a Python with torch and transformers)`,
  () => {
    it.each<[string, PruneRatios, string]>([
      ['gpt2-shakespeare', { ffn: 0.25 }, 'GPT2LMHeadModel'],
      ['gpt2-shakespeare', { layers: 0.25 }, 'GPT2LMHeadModel'],
      ['stories260K-llama', { ffn: 0.25 }, 'LlamaForCausalLM'],
      ['stories260K-llama', { layers: 0.2 }, 'LlamaForCausalLM'],
      ['stories260K-llama', { heads: 0.5 }, 'LlamaForCausalLM'],
      ['stories260K-llama', { heads: 0.25 }, 'MistralForCausalLM'],
    ])('%s pruned by %j as %s', async (name, prune, architecture) => {
      const out = join(temporaryFolder('transformers'), 'out');
      const text = readFileSync(
        fixture(
          name.startsWith('gpt2')
            ? 'datasets/tinyshakespeare/input.txt'
            : 'datasets/tinystories/sample.txt',
        ),
        'utf8',
      ).slice(0, 30_000);
      await compress(fixture(`checkpoints/${name}`), {
        out,
        calibrationText: text,
        evalText: text.slice(0, 2000),
        prune,
        maxKld: 100,
        turns: 1,
        measureMs: 40,
      });
      const ids = [3, 40, 41, 42, 260, 300, 12];
      const r = spawnSync(python!, ['-c', program, out, JSON.stringify(ids)], {
        encoding: 'utf8',
        maxBuffer: 1 << 28,
        timeout: 120_000,
      });
      expect(r.status, r.stderr).toBe(0);
      const theirs = JSON.parse(r.stdout) as { class: string; logits: number[] };
      expect(theirs.class).toBe(architecture);
      using lm = await LanguageModel.fromPretrained(out);
      const ours = await numbers(
        lm.model.forward({ inputIds: tensor([ids], { dtype: 'int32' }) }).logits,
      );
      expect(ours.length).toBe(theirs.logits.length);
      ours.forEach((v, i) => expect(Math.abs(v - theirs.logits[i]!)).toBeLessThan(1e-4));
    });
  },
);
