// roots export DIR FILE
import { exportGguf } from '../../models/gguf.js';
import { ggufTypes } from '../../io/gguf.js';
import { choiceOption, defined, printJson } from '../command.js';
import type { Command } from '../command.js';
import { Progress } from '../progress.js';

export const command: Command = {
  summary: 'Write a model as a GGUF file for llama.cpp',
  usage:
    'roots export DIR FILE.gguf [--type f32|f16|bf16|q8_0|q4_0] [--json]\n\n' +
    'GPT-2, Llama, Mistral and Qwen2 folders with their tokenizer. Matrices are stored as --type (f16); norms, biases and positions\n' +
    'stay float32, the token table of q4_0 files is q8_0, and rows that are no multiple of 32 numbers are float16.',
  positionals: [2, 2],
  options: { type: { type: 'string' } },
  async run([folder, file], values) {
    const progress = new Progress();
    const result = await exportGguf(folder!, file!, {
      ...defined({ type: choiceOption(values, 'type', ggufTypes) }),
      onProgress: (done) => progress.update('writing', done),
    });
    progress.end();
    if (values['json']) return printJson(result);
    process.stdout.write(
      `${result.path}: ${result.architecture}, ${result.tensors} tensors, ${(result.bytes / 1e6).toFixed(2)} MB\n`,
    );
    for (const warning of result.warnings) process.stderr.write(`warning: ${warning}\n`);
  },
};
