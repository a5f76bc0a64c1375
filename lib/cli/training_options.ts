// The options that train, finetune and distill share.
import { nanPolicies, optimizerNames, reporters } from '../train/arguments.js';
import type { PartialTrainingOptions } from '../train/arguments.js';
import { scheduleNames } from '../optim/schedules.js';
import type { TrainingSummary } from '../train/language_model.js';
import { interruptedExitCode } from '../train/trainer.js';
import { byteTokenizer } from '../text/byte_tokenizer.js';
import { Tokenizer } from '../text/tokenizer.js';
import { TokenDataset } from '../data/token_dataset.js';
import { join } from 'node:path';
import {
  UsageError,
  choice,
  choiceOption,
  defined,
  useDevice,
  integerOption,
  numberOption,
  printJson,
  requiredOption,
  textOption,
} from './command.js';
import type { OptionSpecs, Values } from './command.js';
import { Progress } from './progress.js';

export const trainingOptionSpecs: OptionSpecs = {
  text: { type: 'string', multiple: true },
  field: { type: 'string' },
  device: { type: 'string' },
  val: { type: 'string', multiple: true },
  'val-split': { type: 'string' },
  out: { type: 'string' },
  context: { type: 'string' },
  steps: { type: 'string' },
  epochs: { type: 'string' },
  batch: { type: 'string' },
  accumulate: { type: 'string' },
  lr: { type: 'string' },
  schedule: { type: 'string' },
  warmup: { type: 'string' },
  'min-lr-rate': { type: 'string' },
  'weight-decay': { type: 'string' },
  optimizer: { type: 'string' },
  clip: { type: 'string' },
  'label-smoothing': { type: 'string' },
  bf16: { type: 'boolean' },
  tf32: { type: 'boolean' },
  fp16: { type: 'boolean' },
  checkpointing: { type: 'boolean' },
  seed: { type: 'string' },
  'log-every': { type: 'string' },
  'eval-every': { type: 'string' },
  'save-every': { type: 'string' },
  'keep-checkpoints': { type: 'string' },
  patience: { type: 'string' },
  'best-at-end': { type: 'boolean' },
  'nan-policy': { type: 'string' },
  report: { type: 'string' },
  resume: { type: 'boolean' },
  'ignore-data-changes': { type: 'boolean' },
};

export const trainingUsage: string = `  --text FILE…             text, .jsonl or .parquet; * and ? in the file name (repeatable)
  --field NAME             field or column that holds the text (default text)
  --val FILE | --val-split R   validation text, or the last share of the training text (default 0.1)
  --steps N | --epochs N   --batch N  --accumulate N  --context N
  --lr X  --schedule NAME  --warmup N  --min-lr-rate R  --weight-decay X  --clip X  --label-smoothing R
  --optimizer ${optimizerNames.join('|')}
  --bf16                   matrix products in bfloat16, weights in float32
  --tf32                   matrix products in TF32 on a GPU
  --fp16                   matrix products in float16 with a dynamic loss scale
  --checkpointing          recompute blocks in the backward pass: less memory, a third more time
  --log-every N  --eval-every N  --save-every N  --keep-checkpoints N
  --patience N  --best-at-end   stop after N evaluations without improvement; end with the best weights
  --nan-policy ${nanPolicies.join('|')}
  --report jsonl,csv,tensorboard   log files beside report.html (default jsonl)
  --device cpu|cuda|auto   where to run (default cpu)
  --resume                 continue the run in OUT exactly where its newest checkpoint left it
  --seed N  --json

SIGTERM and SIGINT finish the step, save a checkpoint and exit with code ${interruptedExitCode}; a second one exits at once.`;

function list(values: Values, name: string): string[] {
  const value = values[name] as unknown;
  return Array.isArray(value) ? (value as string[]) : typeof value === 'string' ? [value] : [];
}

/** TrainingArguments from the command line; what was not given is left out. */
export function trainingOptions(values: Values): PartialTrainingOptions {
  useDevice(values);
  const evalEvery = integerOption(values, 'eval-every');
  const saveEvery = integerOption(values, 'save-every');
  const report = textOption(values, 'report');
  return {
    outputDir: requiredOption(values, 'out'),
    handleSignals: true,
    ...defined({
      maxSteps: integerOption(values, 'steps'),
      numTrainEpochs: numberOption(values, 'epochs'),
      perDeviceTrainBatchSize: integerOption(values, 'batch'),
      gradientAccumulationSteps: integerOption(values, 'accumulate'),
      learningRate: numberOption(values, 'lr'),
      lrSchedulerType: choiceOption(values, 'schedule', scheduleNames),
      warmupSteps: integerOption(values, 'warmup'),
      minLrRate: numberOption(values, 'min-lr-rate'),
      weightDecay: numberOption(values, 'weight-decay'),
      optim: choiceOption(values, 'optimizer', optimizerNames),
      maxGradNorm: numberOption(values, 'clip'),
      labelSmoothingFactor: numberOption(values, 'label-smoothing'),
      bf16: values['bf16'] === true ? true : undefined,
      tf32: values['tf32'] === true ? true : undefined,
      fp16: values['fp16'] === true ? true : undefined,
      gradientCheckpointing: values['checkpointing'] === true ? true : undefined,
      seed: integerOption(values, 'seed'),
      loggingSteps: integerOption(values, 'log-every'),
      evalSteps: evalEvery,
      evalStrategy: evalEvery === undefined ? undefined : ('steps' as const),
      saveSteps: saveEvery,
      saveStrategy: saveEvery === undefined ? undefined : ('steps' as const),
      saveTotalLimit: integerOption(values, 'keep-checkpoints'),
      earlyStoppingPatience: integerOption(values, 'patience'),
      loadBestModelAtEnd: values['best-at-end'] === true ? true : undefined,
      nanPolicy: choiceOption(values, 'nan-policy', nanPolicies),
      reportTo:
        report === undefined
          ? undefined
          : ['console' as const, ...report.split(',').map((r) => choice('report', r, reporters))],
      resumeFromCheckpoint: values['resume'] === true ? true : undefined,
      ignoreDataChanges: values['ignore-data-changes'] === true ? true : undefined,
    }),
  };
}

/** char, bytes, or a folder with tokenizer.json. */
export async function chooseTokenizer(
  name: string,
  text: () => Promise<string>,
): Promise<Tokenizer> {
  if (name === 'bytes') return byteTokenizer();
  if (name === 'char') return byteTokenizer({ text: await text(), eos: false });
  return Tokenizer.fromPretrained(name);
}

export function textFiles(values: Values): string[] {
  const files = list(values, 'text');
  if (files.length === 0) throw new UsageError('--text is required');
  return files;
}

/** Training and validation data, tokenized into OUT/data. */
export async function textData(
  values: Values,
  tokenizer: Tokenizer,
  context: number,
): Promise<{ train: TokenDataset; validation: TokenDataset | null }> {
  const out = requiredOption(values, 'out');
  const progress = new Progress();
  const field = textOption(values, 'field');
  const load = (files: string[], name: string): Promise<TokenDataset> =>
    TokenDataset.fromFiles(files, tokenizer, {
      context,
      cache: join(out, 'data', name),
      ...(field === undefined ? {} : { field }),
      onProgress: (done) => progress.update(`tokenizing ${name} text`, done),
    });
  const all = await load(textFiles(values), 'train');
  const val = list(values, 'val');
  if (val.length > 0) {
    if (values['val-split'] !== undefined)
      throw new UsageError('give --val or --val-split, not both');
    return { train: all, validation: await load(val, 'validation') };
  }
  const share = numberOption(values, 'val-split') ?? 0.1;
  progress.end();
  return share === 0 ? { train: all, validation: null } : all.split(share);
}

/** Prints the figures and sets the exit code. */
export function finish(values: Values, summary: TrainingSummary, out: string): void {
  const { result, ...figures } = summary;
  if (result.interrupted) {
    process.exitCode = interruptedExitCode;
    process.stderr.write(
      `${result.interrupted}: saved at step ${summary.steps}; continue with --resume\n`,
    );
  }
  if (values['json']) return printJson(figures);
  const val =
    summary.valLoss === null
      ? ''
      : `, validation ${summary.valLoss.toFixed(4)} (perplexity ${summary.perplexity!.toFixed(3)})`;
  process.stdout.write(
    `${summary.steps} steps in ${summary.seconds.toFixed(1)} s (${Math.round(summary.tokensPerSecond)} tokens/s): ${summary.trainLoss === null ? 'no step was left' : `loss ${summary.trainLoss.toFixed(4)}`}${val}\n` +
      `${result.interrupted ? 'checkpoints' : 'model'} in ${out}, curves in ${join(out, 'report.html')}\n`,
  );
}
