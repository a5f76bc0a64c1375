// roots distill TEACHER STUDENT --text FILE --out OUT
import { distillation } from '../../compress/distill/objective.js';
import { divergence } from '../../eval/divergence.js';
import { LanguageModel } from '../../language_model.js';
import { trainLanguageModel } from '../../train/language_model.js';
import { OptionError } from '../../tensor/errors.js';
import { choiceOption, defined, integerOption, numberOption } from '../command.js';
import type { Command } from '../command.js';
import {
  finish,
  textData,
  trainingOptions,
  trainingOptionSpecs,
  trainingUsage,
} from '../training_options.js';

export const command: Command = {
  summary: 'Teach a small model what a large one says',
  usage: `roots distill TEACHER STUDENT --text FILE --out OUT [options]

  --temperature X          soften both distributions (default 1)
  --reverse-kl             KL(student ‖ teacher)
  --alpha R                share of plain cross-entropy on the text (default 0)
  --hidden X --hidden-kind mse|cosine   hidden states, layer by layer, projected where widths differ
  --relations X --relation-heads N      MiniLM relations of the last layer
  --square-head X          SquareHead over all layers; equal widths
${trainingUsage}

Teacher and student are model folders with one vocabulary. To heal a pruned model see roots compress --heal.`,
  positionals: [2, 2],
  options: {
    ...trainingOptionSpecs,
    temperature: { type: 'string' },
    'reverse-kl': { type: 'boolean' },
    alpha: { type: 'string' },
    hidden: { type: 'string' },
    'hidden-kind': { type: 'string' },
    relations: { type: 'string' },
    'relation-heads': { type: 'string' },
    'square-head': { type: 'string' },
  },
  async run([teacherFolder, studentFolder], values) {
    const given = trainingOptions(values);
    using teacher = await LanguageModel.fromPretrained(teacherFolder!);
    using student = await LanguageModel.fromPretrained(studentFolder!);
    const sample = 'The quick brown fox, 1 2 3: été.\n';
    if (String(teacher.tokenizer.encode(sample)) !== String(student.tokenizer.encode(sample)))
      throw new OptionError(
        'distill: teacher and student have different tokenizers; logits can only be compared over the same tokens',
      );
    const limit = Math.min(teacher.model.shape.context, student.model.shape.context, 1024);
    const context = integerOption(values, 'context') ?? limit;
    const objective = distillation(teacher.model, student.model, {
      ...defined({
        temperature: numberOption(values, 'temperature'),
        reverse: values['reverse-kl'] === true ? true : undefined,
        alpha: numberOption(values, 'alpha'),
        hidden: numberOption(values, 'hidden'),
        hiddenKind: choiceOption(values, 'hidden-kind', ['mse', 'cosine']),
        relations: numberOption(values, 'relations'),
        relationHeads: integerOption(values, 'relation-heads'),
        squareHead: numberOption(values, 'square-head'),
      }),
    });
    const { train, validation } = await textData(values, student.tokenizer, context);
    const summary = await trainLanguageModel({
      model: student.model,
      tokenizer: student.tokenizer,
      trainDataset: train,
      evalDataset: validation,
      objective,
      auxiliary: objective.auxiliary,
      generationConfig: student.generationConfig,
      args: {
        learningRate: 3e-4,
        lrSchedulerType: 'cosine',
        warmupRatio: 0.03,
        disableDropout: true,
        ...(validation ? { evalStrategy: 'epoch' as const } : {}),
        ...given,
      },
      facts: [
        ['Teacher', teacherFolder!],
        ['Student', studentFolder!],
      ],
    });
    objective.auxiliary.dispose();
    if (validation && !summary.result.interrupted) {
      const rows = Math.min(validation.length, 32);
      const { inputIds } = await validation.get(
        Array.from({ length: rows }, (_, i) => i),
        0,
      );
      const { kld } = await divergence(teacher.model, student.model, [...inputIds], { context });
      process.stderr.write(
        `KLD to the teacher on validation text: ${kld.toFixed(5)} nats per token\n`,
      );
    }
    finish(values, summary, given.outputDir);
  },
};
