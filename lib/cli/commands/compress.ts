// roots compress DIR --out OUT --calibration FILE --eval FILE
import { parseHeal } from '../../compress/heal.js';
import { compress } from '../../compress/recipe.js';
import type { PruneRatios } from '../../compress/recipe.js';
import type { QuantScheme } from '../../nn/linear.js';
import {
  UsageError,
  defined,
  integerOption,
  numberOption,
  printJson,
  requiredOption,
  textOption,
  useDevice,
} from '../command.js';
import type { Command } from '../command.js';
import { Progress } from '../progress.js';
import { readText } from './eval.js';

/** "ffn=0.25,layers=0.1" */
export function parsePrune(text: string): PruneRatios {
  const ratios: Record<string, number> = {};
  for (const part of text.split(',')) {
    const [name = '', value = ''] = part.split('=').map((s) => s.trim());
    const ratio = Number(value);
    if (
      !['ffn', 'heads', 'layers'].includes(name) ||
      value === '' ||
      Number.isNaN(ratio) ||
      part.split('=').length !== 2
    )
      throw new UsageError(
        `--prune takes parts like ffn=0.25, heads=0.25 or layers=0.1 separated by commas, got ${JSON.stringify(part)}`,
      );
    if (name in ratios) throw new UsageError(`--prune names ${name} twice`);
    ratios[name] = ratio;
  }
  return ratios;
}

export const command: Command = {
  summary: 'Quantize and prune a model, measured before and after',
  usage: `roots compress DIR --out OUT --calibration FILE --eval FILE [options]

  --quantize w8a8|w8a16|w4a16   int8 or int4 weights; w8a8 also quantizes activations on the fly
  --group N                for w4a16: inputs that share a scale, a multiple of 32 (default 128)
  --quantize-embeddings    the token embedding and output head too
  --embedding-bits 8|4     of those (default 8); 4 goes with w4a16
  --prune ffn=R,heads=R,layers=R   remove this share, refitted by least squares on the calibration text
  --heal STEPS|MINUTESm    distil the pruned model from the original; the gate judges both together
  --heal-text FILE|self    text to heal on (default: the calibration text); self: the original makes it up
  --heal-tokens N          tokens of self-made text (default 65536)
  --sparsity R             zero this share of the weights (a mask: no speed by itself)
  --max-kld X              undo a stage that moves the model further than this (default 0.1 nats per token)
  --calibration-tokens N   default 16384
  --device cpu|cuda|auto   where to run (default cpu)
  --seed N  --overwrite  --json

Writes a model folder to OUT, with report.json and report.html.`,
  positionals: [1, 1],
  options: {
    out: { type: 'string' },
    group: { type: 'string' },
    calibration: { type: 'string' },
    eval: { type: 'string' },
    quantize: { type: 'string' },
    'quantize-embeddings': { type: 'boolean' },
    'embedding-bits': { type: 'string' },
    prune: { type: 'string' },
    heal: { type: 'string' },
    'heal-text': { type: 'string' },
    'heal-tokens': { type: 'string' },
    sparsity: { type: 'string' },
    'max-kld': { type: 'string' },
    'calibration-tokens': { type: 'string' },
    device: { type: 'string' },
    seed: { type: 'string' },
    overwrite: { type: 'boolean' },
  },
  async run([folder], values) {
    useDevice(values);
    const out = requiredOption(values, 'out');
    const prune = textOption(values, 'prune');
    const healing = textOption(values, 'heal');
    const healText = textOption(values, 'heal-text');
    const progress = new Progress();
    const report = await compress(folder!, {
      out,
      calibrationText: await readText(requiredOption(values, 'calibration')),
      evalText: await readText(requiredOption(values, 'eval')),
      ...defined({
        quantize: textOption(values, 'quantize') as QuantScheme | undefined,
        quantizeGroup: integerOption(values, 'group'),
        quantizeEmbeddings: values['quantize-embeddings'] === true ? true : undefined,
        embeddingBits: integerOption(values, 'embedding-bits') as 8 | 4 | undefined,
        prune: prune === undefined ? undefined : parsePrune(prune),
        heal: healing === undefined ? undefined : parseHeal(healing),
        healText:
          healText === undefined || healText === 'self' ? healText : await readText(healText),
        healTokens: integerOption(values, 'heal-tokens'),
        sparsity: numberOption(values, 'sparsity'),
        maxKld: numberOption(values, 'max-kld'),
        calibrationTokens: integerOption(values, 'calibration-tokens'),
        seed: integerOption(values, 'seed'),
        overwrite: values['overwrite'] === true ? true : undefined,
      }),
      onProgress: (stage, done) => progress.update(stage, done),
    });
    progress.end();
    if (values['json']) return printJson(report);
    for (const s of report.stages)
      process.stdout.write(
        `${s.accepted ? 'kept  ' : 'undone'}  ${s.stage}: ${s.detail} (KLD ${s.kld.toFixed(5)}, perplexity ${s.perplexity.toFixed(3)})\n`,
      );
    const { before, after, ratio } = report;
    process.stdout.write(
      `disk       ${(before.diskBytes / 1e6).toFixed(2)} → ${(after.diskBytes / 1e6).toFixed(2)} MB (${ratio.disk.toFixed(2)} × smaller)\n` +
        `prefill    ${before.prefillMs.toFixed(2)} → ${after.prefillMs.toFixed(2)} ms (${ratio.prefill.toFixed(2)} ×)\n` +
        `decode     ${before.decodeTokensPerSecond.toFixed(0)} → ${after.decodeTokensPerSecond.toFixed(0)} tokens/s (${ratio.decode.toFixed(2)} ×)\n` +
        `perplexity ${before.perplexity.toFixed(3)} → ${after.perplexity.toFixed(3)} (${((ratio.perplexity - 1) * 100).toFixed(2)} %), same top token ${(100 * after.sameTop1).toFixed(1)} %\n` +
        `wrote ${out} with report.html\n`,
    );
    for (const warning of report.warnings) process.stderr.write(`warning: ${warning}\n`);
  },
};
