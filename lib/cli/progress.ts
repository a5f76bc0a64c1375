// Progress on standard error: a line that rewrites itself on a terminal, plain lines every few seconds elsewhere.
// Nothing is shown for work that ends within two seconds.
import { duration } from '../train/progress_line.js';

const quietMs = 2000;
const plainEveryMs = 5000;

export class Progress {
  #stage = '';
  #start = 0;
  #shown = 0;
  readonly #terminal = process.stderr.isTTY === true;

  /** `done` in [0, 1]. */
  update(stage: string, done: number): void {
    const now = performance.now();
    if (stage !== this.#stage) {
      this.#clear();
      this.#stage = stage;
      this.#start = now;
      this.#shown = 0;
    }
    const elapsed = now - this.#start;
    if (elapsed < quietMs || now - this.#shown < (this.#terminal ? 100 : plainEveryMs)) return;
    this.#shown = now;
    const left = done > 0 ? (elapsed / done) * (1 - done) : Infinity;
    const text = `${stage}: ${(100 * done).toFixed(0)} %, ${duration(elapsed / 1000)} so far, ${Number.isFinite(left) ? `about ${duration(left / 1000)} left` : 'estimating'}`;
    process.stderr.write(this.#terminal ? `\r\u001b[2K${text}` : `${text}\n`);
  }

  #clear(): void {
    if (this.#terminal && this.#shown > 0) process.stderr.write('\r\u001b[2K');
  }

  end(): void {
    this.#clear();
  }
}
