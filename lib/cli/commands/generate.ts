// roots generate DIR --prompt TEXT
import { LanguageModel } from '../../language_model.js';
import {
  choiceOption,
  defined,
  integerOption,
  numberOption,
  printJson,
  requiredOption,
  textOption,
  useDevice,
} from '../command.js';
import type { Command } from '../command.js';

export const command: Command = {
  summary: 'Continue a text',
  usage: `roots generate DIR --prompt TEXT [options]

  --max-new-tokens N       how many tokens to add at most (default 40)
  --greedy                 always the most likely token (the default without sampling options)
  --temperature X --top-k K --top-p P --min-p P
  --repetition-penalty X --seed N
  --stop TEXT              end before this text
  --dtype bfloat16         store weights in bfloat16: faster where memory is the limit, a little less precise
  --cache-dtype float32|bfloat16|int8   how keys and values are kept
  --device cpu|cuda|auto   where to run (default cpu)
  --json                   { text, promptTokens, tokens, tokensPerSecond }`,
  positionals: [1, 1],
  options: {
    device: { type: 'string' },
    dtype: { type: 'string' },
    'cache-dtype': { type: 'string' },
    prompt: { type: 'string' },
    'max-new-tokens': { type: 'string' },
    greedy: { type: 'boolean' },
    temperature: { type: 'string' },
    'top-k': { type: 'string' },
    'top-p': { type: 'string' },
    'min-p': { type: 'string' },
    'repetition-penalty': { type: 'string' },
    seed: { type: 'string' },
    stop: { type: 'string' },
  },
  async run([folder], values) {
    useDevice(values);
    const prompt = requiredOption(values, 'prompt');
    const options = {
      maxNewTokens: integerOption(values, 'max-new-tokens') ?? 40,
      ...defined({
        greedy: values['greedy'] === true ? true : undefined,
        temperature: numberOption(values, 'temperature'),
        topK: integerOption(values, 'top-k'),
        topP: numberOption(values, 'top-p'),
        minP: numberOption(values, 'min-p'),
        repetitionPenalty: numberOption(values, 'repetition-penalty'),
        seed: integerOption(values, 'seed'),
        stop: textOption(values, 'stop'),
        cacheDtype: choiceOption(values, 'cache-dtype', ['float32', 'bfloat16', 'int8']),
      }),
    };
    using lm = await LanguageModel.fromPretrained(folder!, {
      ...defined({ dtype: choiceOption(values, 'dtype', ['float32', 'bfloat16']) }),
    });
    for (const warning of lm.warnings) process.stderr.write(`warning: ${warning}\n`);
    const stop = new AbortController();
    const onSignal = (): void => stop.abort(new Error('interrupted'));
    process.once('SIGTERM', onSignal);
    const start = performance.now();
    const pieces = lm.stream(prompt, { ...options, signal: stop.signal });
    if (!values['json']) process.stdout.write(prompt);
    for (;;) {
      const next = await pieces.next();
      if (!next.done) {
        if (!values['json']) process.stdout.write(next.value);
        continue;
      }
      const tokensPerSecond = (1000 * next.value.tokens.length) / (performance.now() - start);
      process.off('SIGTERM', onSignal);
      if (values['json']) printJson({ ...next.value, tokensPerSecond });
      else process.stdout.write('\n');
      return;
    }
  },
};
