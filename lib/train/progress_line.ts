// What a person sees while a run goes on: a small live view on a terminal, plain lines every few seconds elsewhere.
import type { Metrics } from './loggers.js';
import type { StepResult, TrainerState } from './trainer.js';

const bars = '▁▂▃▄▅▆▇█';
const plainEveryMs = 5000;
const liveEveryMs = 150;

/** The last values as a line of bars, lowest to highest. */
export function sparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-width).filter(Number.isFinite);
  const low = Math.min(...shown);
  const high = Math.max(...shown);
  return shown
    .map((v) => bars[Math.min(7, Math.floor(((v - low) / (high - low || 1)) * 8))])
    .join('');
}

export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

export class ProgressLine {
  readonly #state: Readonly<TrainerState>;
  readonly #live = process.stderr.isTTY === true;
  readonly #start = performance.now();
  readonly #first: number;
  readonly #losses: number[] = [];
  #shown = 0;
  #lines = 0;
  #evalLoss = NaN;
  #msPerStep = 0;
  #rate = 0;

  constructor(state: Readonly<TrainerState>) {
    this.#state = state;
    this.#first = state.step;
  }

  step(result: StepResult, flopsPerToken: number, peakGflops: number): void {
    const { step, maxSteps } = this.#state;
    const smooth = (old: number, now: number): number =>
      old === 0 ? now : 0.95 * old + 0.05 * now;
    this.#msPerStep = smooth(this.#msPerStep, result.ms);
    this.#rate = smooth(this.#rate, result.tokens / (result.ms / 1000));
    this.#losses.push(result.loss);
    if (this.#losses.length > 400) this.#losses.splice(0, 200);
    const now = performance.now();
    const every = this.#live ? liveEveryMs : plainEveryMs;
    if (now - this.#shown < every || now - this.#start < 2000) return;
    this.#shown = now;
    const done = step - this.#first;
    const left = (((now - this.#start) / Math.max(1, done)) * (maxSteps - step)) / 1000;
    const mfu =
      flopsPerToken > 0 && peakGflops > 0
        ? `  MFU ${((100 * this.#rate * flopsPerToken) / (peakGflops * 1e9)).toFixed(0)} %`
        : '';
    const recent = this.#losses.slice(-20);
    const loss = recent.reduce((a, b) => a + b, 0) / recent.length;
    const line =
      `step ${step}/${maxSteps}  loss ${loss.toFixed(4)}  lr ${result.learningRate.toExponential(2)}  grad ${result.gradNorm.toFixed(3)}  ` +
      `${this.#msPerStep.toFixed(1)} ms/step  ${Math.round(this.#rate).toLocaleString('en-US')} tokens/s${mfu}  ` +
      `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB  ${duration(left)} left`;
    if (!this.#live) {
      process.stderr.write(`${line}\n`);
      return;
    }
    const width = Math.max(20, (process.stderr.columns ?? 80) - 2);
    const share = maxSteps > 0 ? step / maxSteps : 1;
    const filled = Math.round(share * (width - 8));
    this.#clear();
    const view = [
      `${'█'.repeat(filled)}${'░'.repeat(Math.max(0, width - 8 - filled))} ${(100 * share).toFixed(0)} %`,
      line.slice(0, width),
      `loss ${sparkline(this.#losses, width - 30)}${Number.isNaN(this.#evalLoss) ? '' : `  eval ${this.#evalLoss.toFixed(4)}`}`,
    ];
    process.stderr.write(`${view.join('\n')}\n`);
    this.#lines = view.length;
  }

  /** A log line on the console: evaluations always, the rest is what the live line shows anyway. */
  line(step: number, metrics: Readonly<Metrics>): void {
    if (!('evalLoss' in metrics)) return;
    this.#evalLoss = metrics['evalLoss']!;
    this.#clear();
    const more = Object.entries(metrics)
      .filter(([k]) => k !== 'evalLoss')
      .map(([k, v]) => `  ${k} ${v.toPrecision(4)}`)
      .join('');
    process.stderr.write(
      `step ${step}: evaluation loss ${this.#evalLoss.toFixed(4)} (perplexity ${Math.exp(this.#evalLoss).toFixed(3)})${more}\n`,
    );
  }

  /** What is going on besides steps; shown on a terminal only. */
  note(text: string): void {
    if (!this.#live || performance.now() - this.#start < 2000) return;
    this.#clear();
    process.stderr.write(`${text}\n`);
    this.#lines = 1;
  }

  warn(message: string): void {
    this.#clear();
    process.stderr.write(`warning: ${message}\n`);
  }

  #clear(): void {
    if (this.#lines > 0) process.stderr.write(`\u001b[${this.#lines}A\u001b[J`);
    this.#lines = 0;
  }

  end(): void {
    this.#clear();
  }
}
