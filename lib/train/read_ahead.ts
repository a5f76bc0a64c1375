// Batches are fetched while the step before is computed: reading one takes a way to the system's threads and back, a twentieth of a
// small model's step, and more where samples come from elsewhere.
import type { Dataset } from '../data/dataset.js';

/** A data set of which the batch that is expected next is fetched ahead; at most one. */
export class ReadAhead<B> {
  readonly #data: Dataset<B>;
  #ahead: { key: string; batch: Promise<B> } | null = null;

  constructor(data: Dataset<B>) {
    this.#data = data;
  }

  /** Begins to fetch these samples. What goes wrong is said by the get() that asks for them, or not at all. */
  expect(indices: readonly number[], epoch: number): void {
    const batch = this.#fetch(indices, epoch);
    batch.catch(() => {});
    this.#ahead = { key: keyOf(indices, epoch), batch };
  }

  /** These samples, expected or not. */
  async get(indices: readonly number[], epoch: number): Promise<B> {
    const ahead = this.#ahead;
    if (ahead?.key !== keyOf(indices, epoch)) {
      await this.settled();
      this.#ahead = null;
      return this.#fetch(indices, epoch);
    }
    this.#ahead = null;
    return ahead.batch;
  }

  /** When nothing is being read any more, so that its owner may close the data set. */
  async settled(): Promise<void> {
    await this.#ahead?.batch.catch(() => {});
  }

  async #fetch(indices: readonly number[], epoch: number): Promise<B> {
    return this.#data.get(indices, epoch);
  }
}

const keyOf = (indices: readonly number[], epoch: number): string => `${epoch}: ${indices.join()}`;
