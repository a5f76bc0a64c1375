// roots finetune DIR --text FILE --out OUT
import { LanguageModel } from '../../language_model.js';
import { trainLanguageModel } from '../../train/language_model.js';
import { integerOption } from '../command.js';
import type { Command } from '../command.js';
import {
  finish,
  textData,
  trainingOptions,
  trainingOptionSpecs,
  trainingUsage,
} from '../training_options.js';

export const command: Command = {
  summary: 'Continue training a model on a text',
  usage: `roots finetune DIR --text FILE --out OUT [options]

${trainingUsage}`,
  positionals: [1, 1],
  options: trainingOptionSpecs,
  async run([folder], values) {
    const given = trainingOptions(values);
    using lm = await LanguageModel.fromPretrained(folder!);
    for (const warning of lm.warnings) process.stderr.write(`warning: ${warning}\n`);
    const context = integerOption(values, 'context') ?? Math.min(lm.model.shape.context, 1024);
    const { train, validation } = await textData(values, lm.tokenizer, context);
    const summary = await trainLanguageModel({
      model: lm.model,
      tokenizer: lm.tokenizer,
      trainDataset: train,
      evalDataset: validation,
      generationConfig: lm.generationConfig,
      args: {
        warmupRatio: 0.03,
        ...(validation ? { evalStrategy: 'epoch' as const } : {}),
        ...given,
      },
      facts: [['Started from', folder!]],
    });
    finish(values, summary, given.outputDir);
  },
};
