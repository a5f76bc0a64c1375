// Healing measured: pruned alone, healed by distillation, and the same steps of plain fine-tuning.
//   npx tsx bench/heal.ts MODEL --prune 0.5 --steps 200 --text FILE|self [--calibration FILE] --eval FILE [--tokens N] [--batch N]
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { heal, selfGenerated } from '../lib/compress/heal.js';
import { pruneFfn } from '../lib/compress/prune/structured.js';
import { LanguageModel, devices, divergence, perplexity } from '../lib/index.js';
import type { CausalLM } from '../lib/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prune: { type: 'string', default: '0.5' },
    steps: { type: 'string', default: '200' },
    text: { type: 'string', default: 'self' },
    tokens: { type: 'string', default: '200000' },
    calibration: { type: 'string' },
    eval: { type: 'string' },
    batch: { type: 'string' },
    rates: { type: 'string' },
    plain: { type: 'boolean', default: false },
  },
});
const folder = positionals[0]!;
using lm = await LanguageModel.fromPretrained(folder);
const evaluation = lm.tokenizer.encode(readFileSync(values.eval!, 'utf8'));
const quality = async (
  m: CausalLM,
): Promise<{ kld: number; sameTop1: number; perplexity: number }> => {
  const { kld, sameTop1 } = await divergence(lm.model, m, evaluation);
  return { kld, sameTop1, perplexity: (await perplexity(m, evaluation)).perplexity };
};
const start = performance.now();
const ids =
  values.text === 'self'
    ? await selfGenerated(lm.model, lm.tokenizer.bosTokenId ?? 0, Number(values.tokens))
    : lm.tokenizer.encode(readFileSync(values.text, 'utf8'));
const textSeconds = (performance.now() - start) / 1000;
// without a text of its own, pruning is calibrated on the healing text
const calibration = (
  values.calibration ? lm.tokenizer.encode(readFileSync(values.calibration, 'utf8')) : ids
).slice(0, 16384);
const pruned = lm.model.share();
await pruneFfn(pruned, Number(values.prune), { ids: calibration, context: lm.model.shape.context });
const common = {
  budget: { steps: Number(values.steps) },
  ids,
  ...(values.batch ? { batch: Number(values.batch) } : {}),
  ...(values.rates ? { rates: values.rates.split(',').map(Number) } : {}),
};
const t1 = performance.now();
const healed = await heal(lm.model, pruned, common);
const healSeconds = (performance.now() - t1) / 1000;
const plain = values.plain ? await heal(lm.model, pruned, { ...common, plain: true }) : null;
console.log(
  JSON.stringify(
    {
      command: `npx tsx bench/heal.ts ${process.argv.slice(2).join(' ')}`,
      date: new Date().toISOString(),
      machine: { cpu: cpus()[0]?.model.trim(), ...devices()[0] },
      healingTokens: ids.length,
      textSeconds,
      healSeconds,
      original: await quality(lm.model),
      pruned: await quality(pruned),
      healed: { ...(await quality(healed.model)), detail: healed.detail, probe: healed.probe },
      plain: plain ? { ...(await quality(plain.model)), detail: plain.detail } : undefined,
    },
    null,
    2,
  ),
);
