// roots eval DIR --task perplexity --text FILE
import { readFile } from 'node:fs/promises';
import { LanguageModel } from '../../language_model.js';
import { FileError } from '../../tensor/errors.js';
import {
  UsageError,
  choiceOption,
  defined,
  integerOption,
  printJson,
  requiredOption,
  textOption,
  useDevice,
} from '../command.js';
import type { Command } from '../command.js';
import { Progress } from '../progress.js';

/** A text file, with an error that names it. */
export async function readText(path: string): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') throw new FileError('ERR_FILE_NOT_FOUND', `${path}: no such file`);
    throw new FileError(
      'ERR_FILE_ACCESS',
      `${path}: not readable as UTF-8 text (${code ?? (error as Error).message})`,
      { cause: error },
    );
  }
}

export const command: Command = {
  summary: 'Measure a model on a text',
  usage: `roots eval DIR --text FILE [--task perplexity] [--context N] [--dtype bfloat16] [--json]

Perplexity over windows of N tokens (the model's context by default) that do not overlap; the first token of each
window is context and is not scored. --json prints { perplexity, nll, tokens }.`,
  positionals: [1, 1],
  options: {
    device: { type: 'string' },
    dtype: { type: 'string' },
    task: { type: 'string' },
    text: { type: 'string' },
    context: { type: 'string' },
  },
  async run([folder], values) {
    useDevice(values);
    const task = textOption(values, 'task') ?? 'perplexity';
    if (task !== 'perplexity')
      throw new UsageError(`--task must be perplexity, got ${JSON.stringify(task)}`);
    const text = await readText(requiredOption(values, 'text'));
    using lm = await LanguageModel.fromPretrained(folder!, {
      ...defined({ dtype: choiceOption(values, 'dtype', ['float32', 'bfloat16']) }),
    });
    const progress = new Progress();
    const result = await lm.perplexity(text, {
      ...defined({ context: integerOption(values, 'context') }),
      onProgress: (done) => progress.update('perplexity', done),
    });
    progress.end();
    if (values['json']) return printJson(result);
    process.stdout.write(
      `perplexity ${result.perplexity.toFixed(4)} (${result.nll.toFixed(5)} nats per token over ${result.tokens} tokens)\n`,
    );
  },
};
