// Learning-rate schedules: the factor of the initial rate at a step, as a pure function, so that resuming needs nothing but the
// step. Formulas and names as in transformers.optimization, but warmup_stable_decay falls in a straight line.
import * as check from '../ops/check.js';

export type ScheduleName =
  | 'constant'
  | 'constant_with_warmup'
  | 'linear'
  | 'cosine'
  | 'cosine_with_restarts'
  | 'cosine_with_min_lr'
  | 'polynomial'
  | 'inverse_sqrt'
  | 'warmup_stable_decay';

export interface ScheduleOptions {
  /** Steps from 0 to the full rate. Default 0. */
  warmupSteps?: number;
  /** Steps in all; needed by every schedule that ends. */
  totalSteps?: number;
  /** cosine_with_restarts: number of cosines. Default 1. cosine: waves of it, default 0.5. */
  numCycles?: number;
  /** cosine_with_min_lr, warmup_stable_decay: the last factor. Default 0. */
  minLrRate?: number;
  /** polynomial: last factor and power. Defaults 1e-7 / initial rate as a factor of 1e-4, and 1. */
  endFactor?: number;
  power?: number;
  /** warmup_stable_decay: steps of the linear decay at the end. Default a fifth of all. */
  decaySteps?: number;
  /** inverse_sqrt: default the warm-up, or 10000. */
  timescale?: number;
}

export const scheduleNames: readonly ScheduleName[] = [
  'constant',
  'constant_with_warmup',
  'linear',
  'cosine',
  'cosine_with_restarts',
  'cosine_with_min_lr',
  'polynomial',
  'inverse_sqrt',
  'warmup_stable_decay',
];

/** The factor for the update after `step` updates (the first has step 0). */
export type Schedule = (step: number) => number;

export function schedule(name: ScheduleName, options: ScheduleOptions = {}): Schedule {
  check.oneOf('schedule', 'name', name, scheduleNames);
  check.knownOptions('schedule', options, [
    'warmupSteps',
    'totalSteps',
    'numCycles',
    'minLrRate',
    'endFactor',
    'power',
    'decaySteps',
    'timescale',
  ]);
  const { warmupSteps: warmup = 0, totalSteps = 0, minLrRate = 0 } = options;
  check.integer('schedule', 'warmupSteps', warmup, 0);
  check.integer('schedule', 'totalSteps', totalSteps, 0);
  check.number('schedule', 'minLrRate', minLrRate, 0, 1);
  const ramp = (step: number): number => step / Math.max(1, warmup);
  const progress = (step: number): number => (step - warmup) / Math.max(1, totalSteps - warmup);
  const cosine = (p: number, cycles: number): number =>
    0.5 * (1 + Math.cos(Math.PI * 2 * cycles * p));
  switch (name) {
    case 'constant':
      return () => 1;
    case 'constant_with_warmup':
      return (s) => (s < warmup ? ramp(s) : 1);
    case 'linear':
      return (s) =>
        s < warmup ? ramp(s) : Math.max(0, (totalSteps - s) / Math.max(1, totalSteps - warmup));
    case 'cosine':
      return (s) =>
        s < warmup ? ramp(s) : Math.max(0, cosine(progress(s), options.numCycles ?? 0.5));
    case 'cosine_with_restarts':
      return (s) => {
        if (s < warmup) return ramp(s);
        const p = progress(s);
        return p >= 1
          ? 0
          : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * (((options.numCycles ?? 1) * p) % 1))));
      };
    case 'cosine_with_min_lr':
      return (s) =>
        s < warmup
          ? ramp(s)
          : Math.max(
              0,
              cosine(progress(s), options.numCycles ?? 0.5) * (1 - minLrRate) + minLrRate,
            );
    case 'polynomial': {
      const end = options.endFactor ?? 1e-4;
      return (s) => {
        if (s < warmup) return ramp(s);
        if (s > totalSteps) return end;
        return (1 - end) * (1 - progress(s)) ** (options.power ?? 1) + end;
      };
    }
    case 'inverse_sqrt': {
      const timescale = options.timescale ?? (warmup > 0 ? warmup : 10_000);
      return (s) => (s < warmup ? ramp(s) : 1 / Math.sqrt((s + timescale - warmup) / timescale));
    }
    case 'warmup_stable_decay': {
      const decay = options.decaySteps ?? Math.floor(totalSteps / 5);
      const from = Math.max(warmup, totalSteps - decay);
      return (s) => {
        if (s < warmup) return ramp(s);
        if (s < from) return 1;
        const left = Math.max(0, totalSteps - s) / Math.max(1, totalSteps - from);
        return minLrRate + (1 - minLrRate) * left;
      };
    }
  }
}
