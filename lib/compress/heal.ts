// Healing: a pruned model learns to say again what the original says, by distillation on text that needs no labels. The rate is found
// by trying a few from the same start; text for that and for the choice is held out of the healing text.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TokenDataset } from '../data/token_dataset.js';
import type { TokenBatch } from '../data/token_dataset.js';
import { divergence } from '../eval/divergence.js';
import { generateIds } from '../generate/generate.js';
import type { CausalLM } from '../models/causal_lm.js';
import { cloneModel, writeModel } from '../models/registry.js';
import { OptionError } from '../tensor/errors.js';
import { causalLM } from '../train/objectives.js';
import { Trainer } from '../train/trainer.js';
import { distillation } from './distill/objective.js';
import type { DistillOptions } from './distill/objective.js';

/** How long to heal: optimizer steps, or minutes. */
export type HealBudget = { steps: number } | { minutes: number };

export interface HealOptions extends DistillOptions {
  budget: HealBudget;
  /** Token ids to heal on. */
  ids: readonly number[];
  /** Sequences per step. Default: about 2048 tokens. */
  batch?: number;
  /** Rates to try; the best on held-out text is used. */
  rates?: readonly number[];
  seed?: number;
  bf16?: boolean;
  /** Learn from the text itself instead of from the original: plain fine-tuning, for comparison. */
  plain?: boolean;
  onProgress?: (done: number) => void;
}

export interface HealResult {
  model: CausalLM;
  steps: number;
  rate: number;
  /** Held-out KLD after the probe of each rate. */
  probe: { rate: number; kld: number }[];
  detail: string;
}

const defaultRates = [3e-5, 1e-4, 3e-4, 1e-3];

/** "200" → 200 steps, "5m" or "5min" → 5 minutes. */
export function parseHeal(text: string): HealBudget {
  const match = /^(\d+(?:\.\d+)?)\s*(m|min|minutes|steps)?$/.exec(text.trim());
  const value = Number(match?.[1]);
  const minutes = match?.[2]?.startsWith('m') ?? false;
  if (!match || !(value > 0) || (!minutes && !Number.isInteger(value)))
    throw new OptionError(
      `heal: expected a number of steps like 200, or minutes like 5m, got ${JSON.stringify(text)}`,
    );
  return minutes ? { minutes: value } : { steps: value };
}

/** Trains a copy of `student` to follow `teacher`; both stay as they are. */
export async function heal(
  teacher: CausalLM,
  student: CausalLM,
  options: HealOptions,
): Promise<HealResult> {
  const { budget, ids, seed = 0, rates = defaultRates, plain = false, bf16 = false } = options;
  const {
    onProgress,
    batch: givenBatch,
    budget: _b,
    ids: _i,
    rates: _r,
    seed: _s,
    bf16: _f,
    plain: _p,
    ...distill
  } = options;
  if ('steps' in budget ? budget.steps < 1 : budget.minutes <= 0)
    throw new OptionError('heal: give at least one step, or some minutes');
  const context = Math.min(student.shape.context, 512, Math.max(8, Math.floor(ids.length / 20)));
  const whole = TokenDataset.fromIds(ids, context);
  if (whole.length < 3)
    throw new OptionError(
      `heal: ${ids.length} tokens are too few for windows of ${context}; give more text`,
    );
  const { train, validation } = whole.split(Math.max(0.1, 1.5 / whole.length));
  const held = ids.slice(ids.length - validation.tokens).slice(0, 4096);
  const batch = givenBatch ?? Math.max(1, Math.min(train.length, Math.round(2048 / context)));
  const folder = await mkdtemp(join(tmpdir(), 'roots-heal-'));

  const attempt = async (
    rate: number,
    steps: number,
    name: string,
    report?: (step: number) => void,
  ): Promise<{ model: CausalLM; msPerStep: number }> => {
    const model = cloneModel(student).requiresGrad() as CausalLM;
    const distilling = plain ? null : distillation(teacher, model, distill);
    try {
      const trainer = new Trainer<CausalLM, TokenBatch>({
        model,
        objective: distilling ?? causalLM(),
        ...(distilling && { auxiliary: distilling.auxiliary }),
        trainDataset: train,
        saveModel: (m, f) => writeModel(f, m),
        args: {
          outputDir: join(folder, name),
          maxSteps: steps,
          perDeviceTrainBatchSize: batch,
          learningRate: rate,
          lrSchedulerType: 'cosine',
          warmupRatio: 0.03,
          seed,
          bf16,
          saveStrategy: 'no',
          // a student that follows a distribution needs no noise against learning by heart
          disableDropout: true,
          reportTo: [],
          disableProgress: true,
          nanPolicy: 'skip',
        },
        callbacks: [{ onStepEnd: (state) => report?.(state.step) }],
      });
      const result = await trainer.train();
      trainer.optimizer.dispose();
      model.requiresGrad(false);
      return { model, msPerStep: (1000 * result.seconds) / Math.max(1, result.steps) };
    } catch (error) {
      model.dispose();
      throw error;
    } finally {
      distilling?.auxiliary.dispose();
    }
  };

  try {
    const probeSteps = 'steps' in budget ? Math.max(5, Math.round(budget.steps / 10)) : 20;
    const probe: HealResult['probe'] = [];
    let ms = 0;
    for (const [i, rate] of rates.entries()) {
      const { model, msPerStep } = await attempt(rate, probeSteps, `probe-${i}`);
      ms = msPerStep;
      probe.push({ rate, kld: (await divergence(teacher, model, held)).kld });
      model.dispose();
      onProgress?.((0.25 * (i + 1)) / rates.length);
    }
    const finite = probe.filter((p) => Number.isFinite(p.kld));
    if (finite.length === 0)
      throw new OptionError('heal: no learning rate gave finite outputs; give smaller rates');
    const rate = finite.reduce((a, b) => (b.kld < a.kld ? b : a)).rate;
    const steps =
      'steps' in budget ? budget.steps : Math.max(1, Math.floor((budget.minutes * 60_000) / ms));
    const { model } = await attempt(rate, steps, 'heal', (step) =>
      onProgress?.(0.25 + (0.75 * step) / steps),
    );
    return {
      model,
      steps,
      rate,
      probe,
      detail: `${steps} steps of ${plain ? 'fine-tuning' : 'distillation'}, ${batch} × ${context} tokens each, rate ${rate} of ${rates.join(', ')}`,
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Text that the model itself makes up, as token ids: sampled from its own distribution, from the beginning-of-text token on. */
export async function selfGenerated(
  model: CausalLM,
  start: number,
  tokens: number,
  options: { seed?: number; onProgress?: (done: number) => void } = {},
): Promise<number[]> {
  const length = Math.min(model.shape.context, 512);
  const rows = Math.max(1, Math.min(32, Math.ceil(tokens / length)));
  const out: number[] = [];
  for (let round = 0; out.length < tokens; round++) {
    const texts: number[][] = Array.from({ length: rows }, () => [start]);
    for await (const step of generateIds(
      model,
      texts.map((t) => [...t]),
      {
        temperature: 1,
        seed: (options.seed ?? 0) + round * 7919,
        maxNewTokens: length - 1,
        eosTokenIds: [],
      },
      texts.map(() => false),
      texts.map(() => null),
    ))
      step.forEach((token, b) => token !== null && texts[b]!.push(token));
    for (const text of texts) out.push(...text);
    options.onProgress?.(Math.min(1, out.length / tokens));
  }
  return out.slice(0, tokens);
}
