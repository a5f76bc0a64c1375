// TrainingArguments: the options of a run, named as in transformers.TrainingArguments but in camelCase, checked once, when made.
import * as check from '../ops/check.js';
import { scheduleNames } from '../optim/schedules.js';
import type { ScheduleName } from '../optim/schedules.js';
import { OptionError } from '../tensor/errors.js';

export type Strategy = 'no' | 'steps' | 'epoch';
export type OptimizerName = 'adamw' | 'adam' | 'sgd' | 'lion' | 'adafactor' | 'adamw_8bit';
export type NanPolicy = 'halt' | 'skip' | 'rollback';
export const nanPolicies: readonly NanPolicy[] = ['halt', 'skip', 'rollback'];
export type Reporter = 'console' | 'jsonl' | 'csv' | 'tensorboard';

export interface TrainingOptions {
  /** Where checkpoints, logs and the report go. */
  outputDir: string;
  numTrainEpochs: number;
  /** Optimizer steps; above 0 it wins over numTrainEpochs. */
  maxSteps: number;
  perDeviceTrainBatchSize: number;
  perDeviceEvalBatchSize: number;
  /** Batches per optimizer step; the gradient is their mean. */
  gradientAccumulationSteps: number;
  learningRate: number;
  /** For weights of two and more axes; biases and norms are never decayed. */
  weightDecay: number;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  /** Global gradient norm limit; 0: none. */
  maxGradNorm: number;
  optim: OptimizerName;
  /** SGD only. */
  momentum: number;
  lrSchedulerType: ScheduleName;
  warmupSteps: number;
  /** Share of all steps, used when warmupSteps is 0. */
  warmupRatio: number;
  /** cosine_with_min_lr, warmup_stable_decay: last rate as a share of the first. */
  minLrRate: number;
  loggingSteps: number;
  evalStrategy: Strategy;
  evalSteps: number;
  saveStrategy: Strategy;
  saveSteps: number;
  /** Checkpoints kept: the newest ones and the best. */
  saveTotalLimit: number;
  loadBestModelAtEnd: boolean;
  metricForBestModel: string;
  greaterIsBetter: boolean;
  /** Evaluations without improvement after which the run ends; 0: never. */
  earlyStoppingPatience: number;
  earlyStoppingThreshold: number;
  seed: number;
  /** Matrix products in bfloat16 with float32 weights and sums. */
  bf16: boolean;
  /** Matrix products in TF32 on a GPU's tensor cores (10 bits of mantissa), float32 weights and sums; no change on the CPU. */
  tf32: boolean;
  /** Matrix products in float16 with a dynamic loss scale, float32 weights and sums: for tensor cores; no faster than float32 on a CPU. */
  fp16: boolean;
  gradientCheckpointing: boolean;
  labelSmoothingFactor: number;
  /** Train without dropout, whatever the model's configuration says. */
  disableDropout: boolean;
  /** What to do in a step whose loss or gradients are not finite. The step itself never changes anything. */
  nanPolicy: NanPolicy;
  /** skip: consecutive bad steps after which the run ends all the same. */
  maxSkippedSteps: number;
  reportTo: readonly Reporter[];
  /** SIGTERM and SIGINT: finish the step, save, return. A second one ends the process. */
  handleSignals: boolean;
  /** A folder, true for the newest good checkpoint in outputDir, false to start anew. */
  resumeFromCheckpoint: string | boolean;
  /** Resume although data, seed or batch size differ from the checkpoint's. */
  ignoreDataChanges: boolean;
  disableProgress: boolean;
}

export const defaults: Omit<TrainingOptions, 'outputDir'> = {
  numTrainEpochs: 3,
  maxSteps: -1,
  perDeviceTrainBatchSize: 8,
  perDeviceEvalBatchSize: 8,
  gradientAccumulationSteps: 1,
  learningRate: 5e-5,
  weightDecay: 0,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  maxGradNorm: 1,
  optim: 'adamw',
  momentum: 0.9,
  lrSchedulerType: 'linear',
  warmupSteps: 0,
  warmupRatio: 0,
  minLrRate: 0,
  loggingSteps: 10,
  evalStrategy: 'no',
  evalSteps: 500,
  saveStrategy: 'steps',
  saveSteps: 500,
  saveTotalLimit: 2,
  loadBestModelAtEnd: false,
  metricForBestModel: 'loss',
  greaterIsBetter: false,
  earlyStoppingPatience: 0,
  earlyStoppingThreshold: 0,
  seed: 42,
  bf16: false,
  tf32: false,
  fp16: false,
  gradientCheckpointing: false,
  labelSmoothingFactor: 0,
  disableDropout: false,
  nanPolicy: 'halt',
  maxSkippedSteps: 10,
  reportTo: ['console', 'jsonl'],
  handleSignals: false,
  resumeFromCheckpoint: false,
  ignoreDataChanges: false,
  disableProgress: false,
};

const strategies: readonly Strategy[] = ['no', 'steps', 'epoch'];
export const optimizerNames: readonly OptimizerName[] = [
  'adamw',
  'adam',
  'sgd',
  'lion',
  'adafactor',
  'adamw_8bit',
];
export const reporters: readonly Reporter[] = ['console', 'jsonl', 'csv', 'tensorboard'];

/** Some options of a run; only outputDir has no default. */
export type PartialTrainingOptions = Partial<TrainingOptions> & { outputDir: string };

// oxlint-disable-next-line typescript/no-unsafe-declaration-merging -- the constructor assigns every field
export interface TrainingArguments extends TrainingOptions {}

/** Every option of a run. Throws an OptionError that names the first one that is wrong. */
// oxlint-disable-next-line typescript/no-extraneous-class -- as in transformers
export class TrainingArguments {
  constructor(options: PartialTrainingOptions) {
    const op = 'TrainingArguments';
    check.knownOptions(op, options, ['outputDir', ...Object.keys(defaults)]);
    const given = Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined));
    const a: TrainingOptions = Object.assign(this, defaults, given);
    if (typeof a.outputDir !== 'string' || a.outputDir === '')
      throw new OptionError(`${op}: outputDir must be the path of a folder`);
    for (const name of [
      'perDeviceTrainBatchSize',
      'perDeviceEvalBatchSize',
      'gradientAccumulationSteps',
      'loggingSteps',
      'evalSteps',
      'saveSteps',
      'saveTotalLimit',
    ] as const)
      check.integer(op, name, a[name], 1);
    for (const name of ['warmupSteps', 'earlyStoppingPatience', 'seed', 'maxSkippedSteps'] as const)
      check.integer(op, name, a[name], 0);
    check.integer(op, 'maxSteps', a.maxSteps, -1);
    for (const name of [
      'numTrainEpochs',
      'learningRate',
      'weightDecay',
      'adamEpsilon',
      'maxGradNorm',
      'earlyStoppingThreshold',
      'momentum',
    ] as const)
      check.number(op, name, a[name], 0);
    for (const name of [
      'adamBeta1',
      'adamBeta2',
      'warmupRatio',
      'minLrRate',
      'labelSmoothingFactor',
    ] as const)
      check.number(op, name, a[name], 0, 1);
    check.oneOf(op, 'optim', a.optim, optimizerNames);
    check.oneOf(op, 'lrSchedulerType', a.lrSchedulerType, scheduleNames);
    check.oneOf(op, 'evalStrategy', a.evalStrategy, strategies);
    check.oneOf(op, 'saveStrategy', a.saveStrategy, strategies);
    check.oneOf(op, 'nanPolicy', a.nanPolicy, nanPolicies);
    for (const reporter of a.reportTo) check.oneOf(op, 'reportTo', reporter, reporters);
    if (a.tf32 && (a.fp16 || a.bf16))
      throw new OptionError(
        `${op}: tf32 is a precision of products like bf16 and fp16; choose one of them`,
      );
    if (a.fp16 && a.bf16)
      throw new OptionError(`${op}: fp16 and bf16 exclude each other; bf16 needs no loss scale`);
    if (a.loadBestModelAtEnd && (a.evalStrategy === 'no' || a.saveStrategy !== a.evalStrategy))
      throw new OptionError(
        `${op}: loadBestModelAtEnd needs evalStrategy and saveStrategy to be the same and not "no", got ${JSON.stringify(a.evalStrategy)} and ${JSON.stringify(a.saveStrategy)}`,
      );
    if (a.earlyStoppingPatience > 0 && a.evalStrategy === 'no')
      throw new OptionError(`${op}: earlyStoppingPatience needs an evalStrategy`);
  }
}
