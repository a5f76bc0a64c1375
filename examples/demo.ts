// The main job from nothing, in about two minutes on two cores:
//   a corpus from a small grammar → a GPT trained on it → compressed → measured against the original → a report.
//   npm run demo [-- --steps N --out DIR]
import { rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  Generator,
  LanguageModel,
  TokenDataset,
  byteTokenizer,
  compress,
  createModel,
  devices,
  trainLanguageModel,
} from '../lib/index.js';
import { sentences } from './grammar.js';

const { values } = parseArgs({ options: { steps: { type: 'string' }, out: { type: 'string' } } });
const steps = Number(values.steps ?? 300);
const out = resolve(values.out ?? 'out/demo');
if (!Number.isInteger(steps) || steps < 1)
  throw new RangeError('--steps must be a positive integer');
rmSync(out, { recursive: true, force: true });

const context = 128;
const trainText = sentences(6000, 1);
const evalText = sentences(120, 2);
const tokenizer = byteTokenizer({ text: trainText });
const model = createModel(
  'gpt2',
  { layers: 4, heads: 4, dim: 192, context },
  tokenizer.vocabSize,
  tokenizer.eosTokenId,
  new Generator(1),
);
const trainDataset = await TokenDataset.fromText(trainText, tokenizer, context);
const { isa, threads } = devices()[0]!;
console.log(
  `1. training a GPT of ${model.numParameters().toLocaleString('en-US')} parameters on ${trainDataset.tokens.toLocaleString('en-US')} characters (${isa}, ${threads} threads)`,
);
const summary = await trainLanguageModel({
  model,
  tokenizer,
  trainDataset,
  evalDataset: await TokenDataset.fromText(evalText, tokenizer, context),
  generationConfig: { bos_token_id: 0, eos_token_id: 0 },
  args: {
    outputDir: `${out}/run`,
    maxSteps: steps,
    perDeviceTrainBatchSize: 8,
    learningRate: 2e-3,
    lrSchedulerType: 'cosine_with_min_lr',
    minLrRate: 0.1,
    warmupSteps: 30,
    weightDecay: 0.01,
  },
});
console.log(
  `   ${summary.steps} steps in ${summary.seconds.toFixed(0)} s (${Math.round(summary.tokensPerSecond)} tokens/s), held-out perplexity ${summary.perplexity!.toFixed(3)}; curves in ${out}/run/report.html`,
);

const trained = new LanguageModel(model, tokenizer, {
  generationConfig: { bos_token_id: 0, eos_token_id: 0 },
});
await trained.save(`${out}/original`);
console.log(
  `2. saved ${out}/original; it continues "My sister" with: ${JSON.stringify((await trained.generate('My sister', { maxNewTokens: 60, greedy: true, stop: '\n' })).newText)}`,
);
trained.dispose();

console.log('3. compressing: a quarter of the neurons removed and refitted, then int8');
const report = await compress(`${out}/original`, {
  out: `${out}/compressed`,
  calibrationText: sentences(600, 3),
  evalText,
  prune: { ffn: 0.25 },
  quantize: 'w8a8',
  quantizeEmbeddings: true,
});
for (const s of report.stages)
  console.log(
    `   ${s.accepted ? 'kept  ' : 'undone'} ${s.stage}: KLD ${s.kld.toFixed(5)}, perplexity ${s.perplexity.toFixed(4)}`,
  );
const { before, after, ratio } = report;
console.log(
  `4. measured before and after, in turns:\n` +
    `   disk        ${(before.diskBytes / 1e6).toFixed(2)} → ${(after.diskBytes / 1e6).toFixed(2)} MB  (${ratio.disk.toFixed(2)} × smaller)\n` +
    `   prefill     ${before.prefillMs.toFixed(2)} → ${after.prefillMs.toFixed(2)} ms  (${ratio.prefill.toFixed(2)} ×)\n` +
    `   decode      ${before.decodeTokensPerSecond.toFixed(0)} → ${after.decodeTokensPerSecond.toFixed(0)} tokens/s  (${ratio.decode.toFixed(2)} ×)\n` +
    `   perplexity  ${before.perplexity.toFixed(4)} → ${after.perplexity.toFixed(4)}  (${((ratio.perplexity - 1) * 100).toFixed(2)} %)\n` +
    `   report: ${out}/compressed/report.html`,
);
