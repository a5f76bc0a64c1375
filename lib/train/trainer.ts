// Trainer: runs an objective over a data set. Every step is checked before it changes anything, every acknowledged checkpoint
// survives a kill, and a resumed run gives the same bits as one that was never interrupted.
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as check from '../ops/check.js';
import { backward } from '../autograd/backward.js';
import { autocast, noGrad } from '../autograd/modes.js';
import { initialLossScale, nextLossScale } from './loss_scaler.js';
import type { LossScale } from './loss_scaler.js';
import { permuted } from '../data/dataset.js';
import type { Dataset } from '../data/dataset.js';
import { replaceFile } from '../io/checkpoint.js';
import type { JsonObject } from '../io/json.js';
import { asGraph, memory } from '../native/device.js';
import type { Module } from '../nn/module.js';
import { Adafactor } from '../optim/adafactor.js';
import { Adam, AdamW } from '../optim/adam.js';
import { AdamW8bit } from '../optim/adamw_8bit.js';
import { Lion } from '../optim/lion.js';
import { gradientScale } from '../optim/optimizer.js';
import type { CommonOptions, Optimizer } from '../optim/optimizer.js';
import { schedule } from '../optim/schedules.js';
import type { Schedule } from '../optim/schedules.js';
import { SGD } from '../optim/sgd.js';
import { trainingReport } from '../report/training.js';
import type { LogEntry } from '../report/training.js';
import { OptionError, RootsError } from '../tensor/errors.js';
import { defaultGenerator, manualSeed, restoreGenerator } from '../tensor/random.js';
import { full } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { TrainingArguments } from './arguments.js';
import type { PartialTrainingOptions } from './arguments.js';
import {
  listCheckpoints,
  loadParameters,
  loadState,
  lockRun,
  newestGood,
  problemWith,
  retain,
  saveCheckpoint,
} from './checkpoint.js';
import { defaultObjective, enableCheckpointing, saveModelFolder } from './defaults.js';
import { csvLogger, jsonlLogger, tensorboardLogger } from './loggers.js';
import type { Logger, Metrics } from './loggers.js';
import type { Objective } from './objectives.js';
import { ProgressLine } from './progress_line.js';
import { ReadAhead } from './read_ahead.js';

/** A run ended by SIGTERM or SIGINT, complete with a checkpoint, should exit with this code (EX_TEMPFAIL: try again). */
export const interruptedExitCode = 75;

export interface TrainerState {
  step: number;
  maxSteps: number;
  epoch: number;
  /** Samples of this epoch consumed. */
  position: number;
  tokens: number;
  bestMetric: number | null;
  bestCheckpoint: string | null;
  evaluationsWithoutImprovement: number;
  skippedSteps: number;
  /** With fp16. */
  lossScale: LossScale;
  history: LogEntry[];
}

/** What a callback may ask for, by setting it. */
export interface TrainerControl {
  stop: boolean;
  save: boolean;
  evaluate: boolean;
}

export interface TrainerCallback {
  onTrainBegin?(state: Readonly<TrainerState>, control: TrainerControl): void | Promise<void>;
  onStepEnd?(state: Readonly<TrainerState>, control: TrainerControl): void | Promise<void>;
  onLog?(
    metrics: Readonly<Metrics>,
    state: Readonly<TrainerState>,
    control: TrainerControl,
  ): void | Promise<void>;
  onEvaluate?(
    metrics: Readonly<Metrics>,
    state: Readonly<TrainerState>,
    control: TrainerControl,
  ): void | Promise<void>;
  onSave?(
    folder: string,
    state: Readonly<TrainerState>,
    control: TrainerControl,
  ): void | Promise<void>;
  onEpochEnd?(state: Readonly<TrainerState>, control: TrainerControl): void | Promise<void>;
  onTrainEnd?(state: Readonly<TrainerState>): void | Promise<void>;
  /** State of its own that a resumed run needs. */
  saveState?(): JsonObject;
  loadState?(state: JsonObject): void;
}

export interface TrainerOptions<M extends Module, B, E = B> {
  model: M;
  args: TrainingArguments | PartialTrainingOptions;
  /** What a step minimises. Default: by the model's head, next tokens or classes. */
  objective?: Objective<M, B>;
  trainDataset: Dataset<B>;
  evalDataset?: Dataset<E> | null;
  /** What evaluation measures; the training objective by default. */
  evalObjective?: Objective<M, E>;
  /** Further figures of an evaluation, added to evalLoss. */
  computeMetrics?: (model: M) => Promise<Metrics>;
  /** What is trained beside the model and not part of it: projections of a distillation, for example. */
  auxiliary?: Module;
  /** Writes the model folder into an empty folder. Default: the Hugging Face layout, with the tokenizer's files. */
  saveModel?: (model: M, folder: string) => Promise<void>;
  /** Saved with every checkpoint. */
  tokenizer?: { readonly files: ReadonlyMap<string, Uint8Array> };
  callbacks?: readonly TrainerCallback[];
  /** Arithmetic per token, forward and backward, for the MFU; 0 when unknown. */
  flopsPerToken?: number;
  /** Multiply-adds this machine reaches, in 10⁹ per second (two per multiply-add); measured by the caller. */
  peakGflops?: number;
  /** Facts for the report: what was trained on what. */
  facts?: readonly (readonly [name: string, value: string])[];
}

export interface TrainResult {
  /** Steps of the whole run; stepsDone are those of this call. */
  steps: number;
  stepsDone: number;
  /** Mean loss over the steps of this call; NaN when there was none. */
  trainLoss: number;
  /** Of the last evaluation; NaN without one. */
  evalLoss: number;
  /** Whether evalLoss is of the weights as they are now. */
  evalIsCurrent: boolean;
  tokens: number;
  /** Of the steps alone, without evaluations and saves. */
  tokensPerSecond: number;
  /** In all. */
  seconds: number;
  /** The signal that ended the run, if one did. */
  interrupted: NodeJS.Signals | null;
  skippedSteps: number;
  bestCheckpoint: string | null;
  stopReason: 'steps' | 'signal' | 'earlyStopping' | 'callback';
}

const emptyState = (maxSteps: number): TrainerState => ({
  step: 0,
  maxSteps,
  epoch: 0,
  position: 0,
  tokens: 0,
  bestMetric: null,
  bestCheckpoint: null,
  evaluationsWithoutImprovement: 0,
  skippedSteps: 0,
  lossScale: initialLossScale(),
  history: [],
});

/** Log lines kept for the report; beyond it every second one goes. */
const maxHistory = 4000;

export class Trainer<M extends Module, B, E = B> {
  readonly args: TrainingArguments;
  readonly model: M;
  readonly optimizer: Optimizer<CommonOptions>;
  readonly state: TrainerState;
  readonly #o: TrainerOptions<M, B, E>;
  readonly #objective: Objective<M, B>;
  readonly #saveModel: (model: M, folder: string) => Promise<void>;
  readonly #schedule: Schedule;
  readonly #parameters: readonly Tensor[];
  readonly #callbacks: readonly TrainerCallback[];
  readonly #control: TrainerControl = { stop: false, save: false, evaluate: false };
  readonly #data: ReadAhead<B>;
  #loggers: Logger[] = [];
  #progress: ProgressLine | null = null;
  #signal: NodeJS.Signals | null = null;
  #lastEval = NaN;
  #evaluatedStep = -1;
  #saved = -1;

  constructor(options: TrainerOptions<M, B, E>) {
    this.#o = options;
    this.args =
      options.args instanceof TrainingArguments
        ? options.args
        : new TrainingArguments(options.args);
    this.model = options.model;
    this.#objective =
      options.objective ?? (defaultObjective(this.model, this.args) as unknown as Objective<M, B>);
    this.#saveModel =
      options.saveModel ??
      ((model, folder) => saveModelFolder(model, folder, options.tokenizer?.files));
    this.#callbacks = options.callbacks ?? [];
    if (options.trainDataset.length < 1) throw new OptionError('Trainer: trainDataset is empty');
    this.#data = new ReadAhead(options.trainDataset);
    const { args } = this;
    if (!options.evalDataset && args.evalStrategy !== 'no')
      throw new OptionError(
        `Trainer: evalStrategy ${JSON.stringify(args.evalStrategy)} needs an evalDataset`,
      );
    enableCheckpointing(this.model, args.gradientCheckpointing);
    if (!this.model.parameters().some((p) => p.requiresGrad)) this.model.requiresGrad();
    this.#parameters = [
      ...new Set([...this.model.parameters(), ...(options.auxiliary?.parameters() ?? [])]),
    ].filter((p) => p.requiresGrad);
    if (this.#parameters.length === 0)
      throw new OptionError('Trainer: the model has no parameters to train');
    this.optimizer = makeOptimizer(args, this.#parameters);
    const perEpoch = Math.ceil(
      Math.ceil(options.trainDataset.length / args.perDeviceTrainBatchSize) /
        args.gradientAccumulationSteps,
    );
    const maxSteps = args.maxSteps >= 0 ? args.maxSteps : Math.ceil(perEpoch * args.numTrainEpochs);
    this.state = emptyState(maxSteps);
    const warmup = args.warmupSteps > 0 ? args.warmupSteps : Math.ceil(args.warmupRatio * maxSteps);
    this.#schedule = schedule(args.lrSchedulerType, {
      warmupSteps: warmup,
      totalSteps: maxSteps,
      minLrRate: args.minLrRate,
    });
  }

  /** Trains to the end, or to a signal. `resumeFromCheckpoint` overrides the argument of that name. */
  async train(options: { resumeFromCheckpoint?: string | boolean } = {}): Promise<TrainResult> {
    check.knownOptions('train', options, ['resumeFromCheckpoint']);
    const { args, state } = this;
    const unlock = await lockRun(args.outputDir);
    const onSignal = (signal: NodeJS.Signals): void => {
      // the checkpoint before stays as it is: nothing is ever rewritten in place
      if (this.#signal) process.exit(128 + (signal === 'SIGINT' ? 2 : 15));
      this.#signal = signal;
    };
    if (args.handleSignals) for (const s of ['SIGTERM', 'SIGINT'] as const) process.on(s, onSignal);
    try {
      manualSeed(args.seed);
      await this.#resume(options.resumeFromCheckpoint ?? args.resumeFromCheckpoint);
      this.#progress = args.disableProgress ? null : new ProgressLine(state);
      if (this.#o.evalDataset && args.evalStrategy === 'no')
        this.#warn(
          'there is an evalDataset, but evalStrategy is "no": it is not used before evaluate() is called',
        );
      await this.#openLoggers();
      this.model.train(!args.disableDropout);
      return await this.#run();
    } finally {
      this.#progress?.end();
      await this.#data.settled();
      for (const logger of this.#loggers) await logger.close?.();
      this.#loggers = [];
      this.model.eval();
      this.optimizer.zeroGrad();
      if (args.handleSignals)
        for (const s of ['SIGTERM', 'SIGINT'] as const) process.off(s, onSignal);
      unlock();
    }
  }

  /** Mean loss (per token) and metrics over the evaluation data, the Trainer's own by default. */
  async evaluate(
    data: Dataset<E> | null | undefined = this.#o.evalDataset,
  ): Promise<Metrics & { evalLoss: number }> {
    if (!data)
      throw new OptionError('evaluate: pass a data set, or give the Trainer an evalDataset');
    const objective = (this.#o.evalObjective ?? this.#objective) as unknown as Objective<M, E>;
    const training = this.model.training;
    this.model.eval();
    let sum = 0;
    let count = 0;
    const size = this.args.perDeviceEvalBatchSize;
    const batches = new ReadAhead(data);
    const indices = (at: number): number[] =>
      Array.from({ length: Math.min(size, data.length - at) }, (_, i) => at + i);
    try {
      for (let at = 0; at < data.length; at += size) {
        const batch = await batches.get(indices(at), 0);
        const { loss, count: n } = tidy(() =>
          noGrad(() => this.#inPrecision(() => objective.loss(this.model, batch))),
        );
        try {
          if (at + size < data.length) batches.expect(indices(at + size), 0);
          sum += (await loss.item()) * n;
        } finally {
          loss.dispose();
        }
        count += n;
        this.#progress?.note(`evaluating ${Math.round((100 * at) / data.length)} %`);
      }
    } finally {
      await batches.settled();
      this.model.train(training);
    }
    const evalLoss = sum / count;
    this.#lastEval = evalLoss;
    this.#evaluatedStep = this.state.step;
    const more = this.#o.computeMetrics ? await this.#o.computeMetrics(this.model) : {};
    return { evalLoss, ...more };
  }

  #inPrecision<T>(fn: () => T): T {
    const { bf16, fp16, tf32 } = this.args;
    if (bf16 || fp16) return autocast(bf16 ? 'bfloat16' : 'float16', fn);
    return tf32 ? autocast('tfloat32', fn) : fn();
  }

  async #openLoggers(): Promise<void> {
    const { outputDir, reportTo } = this.args;
    await mkdir(outputDir, { recursive: true });
    const { step } = this.state;
    if (reportTo.includes('jsonl')) this.#loggers.push(await jsonlLogger(outputDir, step));
    if (reportTo.includes('csv')) this.#loggers.push(await csvLogger(outputDir, step));
    if (reportTo.includes('tensorboard')) this.#loggers.push(await tensorboardLogger(outputDir));
  }

  async #call<K extends Exclude<keyof TrainerCallback, 'saveState' | 'loadState'>>(
    name: K,
    ...values: unknown[]
  ): Promise<void> {
    for (const callback of this.#callbacks)
      await (callback[name] as ((...a: unknown[]) => unknown) | undefined)?.call(
        callback,
        ...values,
        this.state,
        this.#control,
      );
  }

  async #run(): Promise<TrainResult> {
    const { args, state } = this;
    const start = performance.now();
    const firstStep = state.step;
    const startTokens = state.tokens;
    const interval = { loss: 0, steps: 0, tokens: 0, ms: 0 };
    let lossSum = 0;
    let stepMs = 0;
    let stopReason: TrainResult['stopReason'] = 'steps';
    let badInARow = 0;
    const norms: number[] = [];
    await this.#call('onTrainBegin');
    if (state.step >= state.maxSteps)
      this.#warn(`the run has already reached its ${state.maxSteps} steps; nothing to do`);
    while (state.step < state.maxSteps) {
      const result = await this.#step();
      const epochEnded = state.position >= this.#o.trainDataset.length;
      if (args.fp16 && Number.isFinite(result.loss)) {
        // gradients that overflowed were scaled too far: nothing is wrong with the run
        const next = nextLossScale(state.lossScale, result.finite);
        if (next) state.lossScale = next;
        if (next && !result.finite) {
          state.skippedSteps++;
          if (epochEnded) this.#nextEpoch();
          continue;
        }
      }
      if (!result.finite) {
        badInARow++;
        await this.#notFinite(result, badInARow);
        if (epochEnded) this.#nextEpoch();
        continue;
      }
      badInARow = 0;
      await this.#watchNorm(norms, result.gradNorm);
      lossSum += result.loss;
      interval.loss += result.loss;
      interval.steps++;
      interval.tokens += result.tokens;
      interval.ms += result.ms;
      stepMs += result.ms;
      this.#progress?.step(result, this.#o.flopsPerToken ?? 0, this.#peak());
      if (epochEnded) this.#nextEpoch();
      this.#control.save = this.#control.evaluate = false;
      await this.#call('onStepEnd');
      const last = state.step >= state.maxSteps;
      if (state.step % args.loggingSteps === 0 || last || state.step === 1)
        await this.#logInterval(result, interval);
      const due = (strategy: string, every: number): boolean =>
        strategy === 'epoch'
          ? epochEnded || last
          : strategy === 'steps' && (state.step % every === 0 || last);
      let metrics: Metrics | null = null;
      if (this.#o.evalDataset && (due(args.evalStrategy, args.evalSteps) || this.#control.evaluate))
        metrics = await this.#evaluateAndLog();
      const improved = metrics !== null && this.#judge(metrics);
      if (due(args.saveStrategy, args.saveSteps) || this.#control.save || this.#signal)
        await this.#save(improved);
      if (epochEnded) await this.#call('onEpochEnd');
      if (this.#signal) stopReason = 'signal';
      else if (this.#control.stop) stopReason = 'callback';
      else if (
        args.earlyStoppingPatience > 0 &&
        state.evaluationsWithoutImprovement >= args.earlyStoppingPatience
      )
        stopReason = 'earlyStopping';
      if (stopReason !== 'steps') break;
    }
    if (args.saveStrategy !== 'no' && this.#saved !== state.step && state.step > firstStep)
      await this.#save(false);
    if (args.loadBestModelAtEnd && state.bestCheckpoint && stopReason !== 'signal') {
      const problem = await problemWith(state.bestCheckpoint);
      if (problem === null) {
        await loadParameters(state.bestCheckpoint, this.model);
        this.#evaluatedStep = -1;
      } else this.#warn(`the best checkpoint cannot be loaded (${problem}); the last weights stay`);
    }
    await this.#call('onTrainEnd');
    const seconds = (performance.now() - start) / 1000;
    await this.#report(seconds);
    const steps = state.step - firstStep;
    return {
      steps: state.step,
      stepsDone: steps,
      trainLoss: steps > 0 ? lossSum / steps : NaN,
      evalLoss: this.#lastEval,
      evalIsCurrent: this.#evaluatedStep === state.step,
      tokens: state.tokens,
      tokensPerSecond: (state.tokens - startTokens) / Math.max(stepMs / 1000, 1e-9),
      seconds,
      interrupted: this.#signal,
      skippedSteps: state.skippedSteps,
      bestCheckpoint: state.bestCheckpoint,
      stopReason,
    };
  }

  #peak(): number {
    return (this.#o.peakGflops ?? 0) * (this.args.bf16 ? 2 : 1);
  }

  #nextEpoch(): void {
    this.state.epoch++;
    this.state.position = 0;
  }

  /** The sample indices of the batch at a position, fewer at the end of an epoch. */
  #indices(position: number, epoch: number): number[] {
    const { args } = this;
    const n = this.#o.trainDataset.length;
    const count = Math.min(args.perDeviceTrainBatchSize, n - position);
    return Array.from({ length: count }, (_, i) => permuted(position + i, n, args.seed, epoch));
  }

  async #nextBatch(): Promise<B> {
    const { state } = this;
    const indices = this.#indices(state.position, state.epoch);
    state.position += indices.length;
    return this.#data.get(indices, state.epoch);
  }

  #expectNextBatch(): void {
    const { position, epoch } = this.state;
    const next = position >= this.#o.trainDataset.length;
    const [at, of] = next ? [0, epoch + 1] : [position, epoch];
    this.#data.expect(this.#indices(at, of), of);
  }

  /** One optimizer step. Nothing changes when anything in it is not finite. */
  async #step(): Promise<StepResult> {
    const { state, args, optimizer } = this;
    const started = performance.now();
    const losses: Tensor[] = [];
    let tokens = 0;
    optimizer.scaleLr(this.#schedule(state.step));
    const lossScale = args.fp16 ? state.lossScale.factor : 1;
    const { device } = this.#parameters[0]!;
    for (let micro = 0; micro < args.gradientAccumulationSteps; micro++) {
      if (state.position >= this.#o.trainDataset.length) break;
      const batch = await this.#nextBatch();
      tokens += this.#objective.tokens(batch);
      losses.push(
        tidy(() =>
          asGraph(device, `train ${micro}`, () => {
            const { loss } = this.#inPrecision(() => this.#objective.loss(this.model, batch));
            if (lossScale === 1) backward(loss);
            else backward(loss, full([], lossScale, { dtype: 'float32', device: loss.device }));
            return loss.detach();
          }),
        ),
      );
      if (state.step + 1 < state.maxSteps || micro + 1 < args.gradientAccumulationSteps)
        this.#expectNextBatch();
    }
    const scale = gradientScale(this.#parameters, {
      maxNorm: args.maxGradNorm,
      loss: losses.at(-1)!,
      inverseScale: 1 / (losses.length * lossScale),
    });
    try {
      asGraph(device, 'update', () => optimizer.step({ scale }));
      optimizer.zeroGrad();
      // all at once: each wait is a way to the other thread and back
      const [{ norm, finite }, ...values] = await Promise.all([
        scale.read(),
        ...losses.map((l) => l.item()),
      ]);
      const loss = values.reduce((a, b) => a + b, 0) / values.length;
      if (finite) {
        state.step++;
        state.tokens += tokens;
      } else optimizer.undoStep();
      return {
        loss,
        gradNorm: norm,
        finite,
        tokens,
        learningRate: optimizer.lr,
        ms: performance.now() - started,
      };
    } finally {
      for (const loss of losses) loss.dispose();
      scale.dispose();
    }
  }

  /** A step that was not finite: said with its real values, then by policy. */
  async #notFinite(result: StepResult, inARow: number): Promise<void> {
    const { args, state } = this;
    state.skippedSteps++;
    const what = `step ${state.step + 1}: loss ${result.loss}, gradient norm ${result.gradNorm}`;
    await this.#log({ nonFiniteLoss: result.loss, nonFiniteGradNorm: result.gradNorm });
    if (args.nanPolicy === 'halt' || inARow > args.maxSkippedSteps)
      throw new RootsError(
        'ERR_NOT_FINITE',
        `${what}; the weights were not changed. ${args.nanPolicy === 'halt' ? 'Lower learningRate or check the data, or set nanPolicy to skip or rollback' : `${inARow} such steps in a row`}`,
      );
    if (args.nanPolicy === 'rollback') {
      const folder = await newestGood(args.outputDir, (m) => this.#warn(m));
      if (!folder)
        throw new RootsError('ERR_NOT_FINITE', `${what}; there is no checkpoint to go back to yet`);
      const { epoch, position, skippedSteps } = state;
      await this.#load(folder);
      // the data go on behind the bad batch
      Object.assign(state, { epoch, position, skippedSteps });
      this.#warn(`${what}; went back to ${folder}`);
      return;
    }
    this.#warn(`${what}; the step was skipped, the weights were not changed`);
  }

  /** Gradient norms far above the recent ones are worth an event: they come before losses that do not return. */
  async #watchNorm(recent: number[], norm: number): Promise<void> {
    if (recent.length >= 20) {
      const median = (values: readonly number[]): number =>
        values.toSorted((a, b) => a - b)[values.length >> 1]!;
      const middle = median(recent);
      const spread = median(recent.map((v) => Math.abs(v - middle))) * 1.4826;
      if (norm > middle + 20 * Math.max(spread, 0.02 * middle)) {
        await this.#log({ gradientSpike: norm });
        this.#warn(
          `step ${this.state.step}: gradient norm ${norm.toPrecision(4)} is far above the recent ${middle.toPrecision(4)}`,
        );
      }
    }
    recent.push(norm);
    if (recent.length > 100) recent.shift();
  }

  async #logInterval(
    result: StepResult,
    interval: { loss: number; steps: number; tokens: number; ms: number },
  ): Promise<void> {
    // of the steps alone: evaluating and saving are not training
    const rate = interval.tokens / (interval.ms / 1000);
    const flops = this.#o.flopsPerToken ?? 0;
    const metrics: Metrics = {
      // the mean of every step since the last line, nothing filtered
      loss: interval.loss / interval.steps,
      gradNorm: result.gradNorm,
      learningRate: result.learningRate,
      tokensPerSecond: rate,
      epoch: this.state.epoch + this.state.position / this.#o.trainDataset.length,
      memoryBytes: memory().bytes,
      rssBytes: process.memoryUsage.rss(),
    };
    if (flops > 0 && this.#peak() > 0) metrics['mfu'] = (rate * flops) / (this.#peak() * 1e9);
    await this.#log(metrics);
    Object.assign(interval, { loss: 0, steps: 0, tokens: 0, ms: 0 });
  }

  async #log(metrics: Metrics): Promise<void> {
    const { history, step } = this.state;
    history.push({ step, ...metrics });
    if (history.length > maxHistory) {
      const kept = history.filter((e, i) => i % 2 === 0 || 'evalLoss' in e);
      history.splice(0, history.length, ...kept);
    }
    for (const logger of this.#loggers) await logger.log(step, metrics);
    if (this.args.reportTo.includes('console')) this.#progress?.line(step, metrics);
    await this.#call('onLog', metrics);
  }

  async #evaluateAndLog(): Promise<Metrics> {
    const metrics = await this.evaluate();
    await this.#log(metrics);
    await this.#call('onEvaluate', metrics);
    return metrics;
  }

  /** Whether these metrics are the best so far; counts evaluations that are not. */
  #judge(metrics: Metrics): boolean {
    const { args, state } = this;
    const name = args.metricForBestModel;
    const key = name in metrics ? name : `eval${name[0]!.toUpperCase()}${name.slice(1)}`;
    const value = metrics[key];
    if (value === undefined)
      throw new OptionError(
        `Trainer: metricForBestModel ${JSON.stringify(name)} is not among ${Object.keys(metrics).join(', ')}`,
      );
    const sign = args.greaterIsBetter ? 1 : -1;
    const better =
      Number.isFinite(value) &&
      (state.bestMetric === null ||
        sign * (value - state.bestMetric) > args.earlyStoppingThreshold);
    if (better) {
      state.bestMetric = value;
      state.evaluationsWithoutImprovement = 0;
    } else state.evaluationsWithoutImprovement++;
    return better;
  }

  async #save(best: boolean): Promise<void> {
    const { args, state } = this;
    if (this.#saved === state.step) return;
    this.#progress?.note('saving');
    const folder = join(args.outputDir, `checkpoint-${state.step}`);
    if (best || (state.bestCheckpoint === null && args.loadBestModelAtEnd))
      state.bestCheckpoint = folder;
    const generator = defaultGenerator();
    await saveCheckpoint(args.outputDir, {
      step: state.step,
      optimizer: this.optimizer.stateDict(),
      writeModel: (temporary) => this.#saveModel(this.model, temporary),
      ...(this.#o.auxiliary && { auxiliary: this.#o.auxiliary }),
      state: JSON.parse(
        JSON.stringify({
          ...state,
          history: state.history.map((e) =>
            Object.fromEntries(Object.entries(e).filter(([, v]) => Number.isFinite(v))),
          ),
          generator: { seed: generator.seed, position: generator.position },
          compared: this.#compared(),
          callbacks: this.#callbacks.map((c) => c.saveState?.() ?? null),
        }),
      ) as JsonObject,
    });
    this.#saved = state.step;
    await retain(args.outputDir, args.saveTotalLimit, [state.bestCheckpoint]);
    await this.#call('onSave', folder);
  }

  /** What must not change between a checkpoint and its continuation. */
  #compared(): Record<string, string | number | boolean> {
    const { args } = this;
    return {
      seed: args.seed,
      perDeviceTrainBatchSize: args.perDeviceTrainBatchSize,
      gradientAccumulationSteps: args.gradientAccumulationSteps,
      optim: args.optim,
      bf16: args.bf16,
      fp16: args.fp16,
      tf32: args.tf32,
      data: this.#o.trainDataset.fingerprint,
    };
  }

  async #resume(from: string | boolean): Promise<void> {
    const { args } = this;
    if (from === false) {
      const existing = await listCheckpoints(args.outputDir);
      if (existing.length > 0)
        throw new OptionError(
          `${args.outputDir} holds checkpoints of an earlier run (step ${existing[0]!.step}); resume it with resumeFromCheckpoint: true (--resume), or choose another outputDir`,
        );
      return;
    }
    let folder: string | null;
    if (from === true) {
      folder = await newestGood(args.outputDir, (m) => this.#warn(m));
      if (folder === null) {
        this.#warn(`${args.outputDir} has no checkpoint yet; starting at step 0`);
        return;
      }
    } else {
      folder = from;
      const problem = (await stat(folder).catch(() => null))
        ? await problemWith(folder)
        : 'no such folder';
      if (problem !== null)
        throw new RootsError('ERR_CHECKPOINT', `${folder} cannot be resumed from: ${problem}`);
    }
    await this.#load(folder);
  }

  async #load(folder: string): Promise<void> {
    const { state: saved, optimizer } = await loadState(folder);
    const compared = saved['compared'] as JsonObject;
    const now = this.#compared();
    for (const [name, value] of Object.entries(compared))
      if (now[name] !== value) {
        const message = `${name} was ${JSON.stringify(value)} when ${folder} was saved and is ${JSON.stringify(now[name])} now`;
        if (!this.args.ignoreDataChanges) {
          for (const t of optimizer.tensors.values()) t.dispose();
          throw new OptionError(
            `resume: ${message}; the run would not continue exactly. Pass ignoreDataChanges to go on all the same`,
          );
        }
        this.#warn(`${message}; continuing as asked`);
      }
    await loadParameters(folder, this.model);
    if (this.#o.auxiliary) await loadParameters(folder, this.#o.auxiliary, 'auxiliary.safetensors');
    this.optimizer.loadStateDict(optimizer);
    const { maxSteps } = this.state;
    for (const key of Object.keys(this.state) as (keyof TrainerState)[])
      // checkpoints of earlier versions lack what came later
      if (saved[key] !== undefined)
        (this.state as unknown as Record<string, unknown>)[key] = saved[key];
    this.state.maxSteps = maxSteps;
    const generator = saved['generator'] as { seed: number; position: number };
    restoreGenerator(generator.seed, generator.position);
    (saved['callbacks'] as (JsonObject | null)[]).forEach((s, i) => {
      if (s) this.#callbacks[i]?.loadState?.(s);
    });
    this.#saved = this.state.step;
    const evals = this.state.history.filter((e) => 'evalLoss' in e);
    if (evals.length > 0) {
      this.#lastEval = evals.at(-1)!['evalLoss']!;
      this.#evaluatedStep = evals.at(-1)!.step;
    }
  }

  async #report(seconds: number): Promise<void> {
    const html = trainingReport({
      history: this.state.history,
      facts: [
        ...(this.#o.facts ?? []),
        ['Steps', `${this.state.step} of ${this.state.maxSteps}`],
        ['Tokens', this.state.tokens.toLocaleString('en-US')],
        ['Seconds (this call)', seconds.toFixed(1)],
        ['Skipped steps', String(this.state.skippedSteps)],
        ['Options', JSON.stringify(this.args)],
      ],
    });
    await replaceFile(join(this.args.outputDir, 'report.html'), html);
  }

  #warn(message: string): void {
    if (this.#progress) this.#progress.warn(message);
    else if (!this.args.disableProgress) process.stderr.write(`warning: ${message}\n`);
  }
}

export interface StepResult {
  loss: number;
  gradNorm: number;
  finite: boolean;
  tokens: number;
  learningRate: number;
  ms: number;
}

function makeOptimizer(
  args: TrainingArguments,
  parameters: readonly Tensor[],
): Optimizer<CommonOptions> {
  // biases and norms are not decayed
  const groups = [
    { params: parameters.filter((p) => p.rank >= 2), weightDecay: args.weightDecay },
    { params: parameters.filter((p) => p.rank < 2), weightDecay: 0 },
  ].filter((g) => g.params.length > 0);
  const lr = args.learningRate;
  const betas = [args.adamBeta1, args.adamBeta2] as const;
  const eps = args.adamEpsilon;
  const made = {
    adamw: () => new AdamW(groups, { lr, betas, eps }),
    adam: () => new Adam(groups, { lr, betas, eps }),
    sgd: () => new SGD(groups, { lr, momentum: args.momentum }),
    lion: () => new Lion(groups, { lr }),
    adafactor: () => new Adafactor(groups, { lr }),
    adamw_8bit: () => new AdamW8bit(groups, { lr, betas, eps }),
  }[args.optim]();
  return made as unknown as Optimizer<CommonOptions>;
}
