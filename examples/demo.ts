// The main job from nothing, in about two minutes on two cores:
//   a corpus from a small grammar → a GPT trained on it → compressed → measured against the original → a report.
//   npm run demo [-- --steps N --out DIR]
import { rmSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import {
  AdamW,
  GPT2LMHeadModel,
  Generator,
  LanguageModel,
  Tokenizer,
  compress,
  devices,
  tensor,
  tidy,
} from '../lib/index.js';
import { byteTokenizer, sentences } from './grammar.js';

const { values } = parseArgs({ options: { steps: { type: 'string' }, out: { type: 'string' } } });
const steps = Number(values.steps ?? 300);
const out = resolve(values.out ?? 'out/demo');
if (!Number.isInteger(steps) || steps < 1)
  throw new RangeError('--steps must be a positive integer');

const context = 128;
const batch = 8;
const trainText = sentences(6000, 1);
const evalText = sentences(120, 2);
const tokenizer = Tokenizer.fromJson(byteTokenizer(trainText), {
  eos_token: '<|endoftext|>',
  bos_token: '<|endoftext|>',
});
const ids = Int32Array.from(tokenizer.encode(trainText));

const config = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  n_embd: 192,
  n_head: 4,
  n_inner: null,
  n_layer: 4,
  n_positions: context,
  vocab_size: tokenizer.vocabSize,
  bos_token_id: 0,
  eos_token_id: 0,
  tie_word_embeddings: true,
};
const model = GPT2LMHeadModel.create(config, new Generator(1)).requiresGrad();
const { isa, threads } = devices()[0]!;
console.log(
  `1. training a GPT of ${model.numParameters().toLocaleString('en-US')} parameters on ${ids.length.toLocaleString('en-US')} characters (${isa}, ${threads} threads)`,
);

const optimizer = new AdamW(model.parameters(), { lr: 2e-3, weightDecay: 0.01 });
let state = 12345;
const start = performance.now();
let shown = start;
for (let step = 1; step <= steps; step++) {
  const rows = new Int32Array(batch * context);
  for (let b = 0; b < batch; b++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const at = Math.floor((state / 2 ** 32) * (ids.length - context));
    rows.set(ids.subarray(at, at + context), b * context);
  }
  optimizer.lr =
    2e-3 * Math.min(1, step / 30) * (0.1 + 0.9 * 0.5 * (1 + Math.cos((Math.PI * step) / steps)));
  const loss = tidy(() => {
    const inputIds = tensor(rows, { shape: [batch, context] });
    const result = model.forward({ inputIds, labels: inputIds }).loss!;
    result.backward();
    return result.detach();
  });
  optimizer.step();
  optimizer.zeroGrad();
  const value = await loss.item();
  loss.dispose();
  const now = performance.now();
  if (now - shown > 5000 || step === steps) {
    shown = now;
    const rate = (step * batch * context) / ((now - start) / 1000);
    console.log(
      `   step ${step}/${steps}  loss ${value.toFixed(3)}  ${rate.toFixed(0)} tokens/s  ${(((steps - step) * (now - start)) / step / 1000).toFixed(0)} s left`,
    );
  }
}
optimizer.dispose();

rmSync(out, { recursive: true, force: true });
const trained = new LanguageModel(model.requiresGrad(false) as GPT2LMHeadModel, tokenizer, {
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
