// roots train --text FILE --out OUT
import { readFile } from 'node:fs/promises';
import { expandPaths } from '../../data/sources.js';
import { Tokenizer } from '../../text/tokenizer.js';
import { Generator } from '../../tensor/random.js';
import { listCheckpoints } from '../../train/checkpoint.js';
import { trainLanguageModel } from '../../train/language_model.js';
import { createModel, modelKinds, presets } from '../../train/presets.js';
import {
  UsageError,
  choiceOption,
  defined,
  integerOption,
  numberOption,
  textOption,
} from '../command.js';
import type { Command } from '../command.js';
import {
  chooseTokenizer,
  finish,
  textData,
  textFiles,
  trainingOptions,
  trainingOptionSpecs,
  trainingUsage,
} from '../training_options.js';

export const command: Command = {
  summary: 'Train a language model from scratch',
  usage: `roots train --text FILE --out OUT [options]

  --preset ${Object.keys(presets).join('|')}    a complete recipe; other options override it
  --model ${modelKinds.join('|')}   --layers N  --heads N  --dim N  --kv-heads N  --ffn N  --dropout R
  --tokenizer char|bytes|DIR   a token per character, per byte (default), or the tokenizer of a model folder
${trainingUsage}

OUT becomes a model folder with checkpoints, log.jsonl and report.html beside the model.`,
  positionals: [0, 0],
  options: {
    ...trainingOptionSpecs,
    preset: { type: 'string' },
    model: { type: 'string' },
    layers: { type: 'string' },
    heads: { type: 'string' },
    dim: { type: 'string' },
    'kv-heads': { type: 'string' },
    ffn: { type: 'string' },
    dropout: { type: 'string' },
    tokenizer: { type: 'string' },
  },
  async run(_positionals, values) {
    const name = choiceOption(values, 'preset', Object.keys(presets));
    const preset = name === undefined ? undefined : presets[name];
    const kind = choiceOption(values, 'model', modelKinds) ?? preset?.kind ?? 'gpt2';
    const given = trainingOptions(values);
    const files = textFiles(values);
    const resuming =
      values['resume'] === true && (await listCheckpoints(given.outputDir)).length > 0;
    // a resumed run takes the tokenizer it began with
    const tokenizer = resuming
      ? await Tokenizer.fromPretrained((await listCheckpoints(given.outputDir))[0]!.folder)
      : await chooseTokenizer(
          textOption(values, 'tokenizer') ?? preset?.tokenizer ?? 'bytes',
          async () => {
            const parts = [];
            for (const path of await expandPaths(files)) parts.push(await readFile(path, 'utf8'));
            return parts.join('');
          },
        );
    const base = preset?.size ?? { layers: 4, heads: 4, dim: 128, context: 128, dropout: 0 };
    const size = {
      ...base,
      ...defined({
        layers: integerOption(values, 'layers'),
        heads: integerOption(values, 'heads'),
        dim: integerOption(values, 'dim'),
        context: integerOption(values, 'context'),
        kvHeads: integerOption(values, 'kv-heads'),
        ffn: integerOption(values, 'ffn'),
        dropout: numberOption(values, 'dropout'),
      }),
    };
    for (const [key, value] of Object.entries(size))
      if (key !== 'dropout' && (!Number.isInteger(value) || value < 1))
        throw new UsageError(`--${key} must be a positive integer, got ${value}`);
    const { train, validation } = await textData(values, tokenizer, size.context);
    const args = {
      learningRate: 1e-3,
      weightDecay: 0.1,
      lrSchedulerType: 'cosine' as const,
      warmupRatio: 0.03,
      perDeviceTrainBatchSize: 16,
      ...(validation ? { evalStrategy: 'steps' as const, evalSteps: 250 } : {}),
      ...preset?.args,
      ...given,
    };
    const model = createModel(
      kind,
      size,
      tokenizer.vocabSize,
      tokenizer.eosTokenId,
      new Generator(args.seed ?? 42),
    );
    const eos = tokenizer.eosTokenId;
    const summary = await trainLanguageModel({
      model,
      tokenizer,
      trainDataset: train,
      evalDataset: validation,
      args,
      generationConfig: eos === null ? {} : { bos_token_id: eos, eos_token_id: eos },
      facts: [['Text', files.join(', ')]],
    });
    model.dispose();
    finish(values, summary, given.outputDir);
  },
};
