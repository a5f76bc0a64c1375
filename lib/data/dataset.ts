// What a Trainer reads: numbered samples, fetched in batches. Order and position are the Trainer's business, so that a run can be
// resumed exactly; a data set has no state.

export interface Dataset<B> {
  /** Samples per epoch. */
  readonly length: number;
  /** The samples with these indices, asked for up to one batch before they are used. The epoch may change what an index means (another offset into a text), reproducibly. */
  get(indices: readonly number[], epoch: number): B | Promise<B>;
  /** Changes when the data change: a resumed run compares it. */
  readonly fingerprint: string;
}

/** 32-bit mixing (the finaliser of MurmurHash3, public domain). */
export function mix(a: number, b: number): number {
  let h = (a ^ Math.imul(b, 0x9e3779b1)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/**
 * The `index`-th element of a pseudo-random permutation of 0 … n - 1, computed without a table: a Feistel network over the next
 * power of four, walked until it lands inside (Black & Rogaway 2002). Position is the whole state.
 */
export function permuted(index: number, n: number, seed: number, epoch: number): number {
  if (n <= 1) return 0;
  let bits = 1;
  while (4 ** bits < n) bits++;
  const mask = 2 ** bits - 1;
  const key = mix(seed >>> 0, mix(Math.floor(seed / 2 ** 32), epoch));
  let value = index;
  do {
    let left = Math.floor(value / 2 ** bits);
    let right = value % 2 ** bits;
    for (let round = 0; round < 6; round++) {
      const next = (left ^ mix(right, (key + round) >>> 0)) & mask;
      left = right;
      right = next;
    }
    value = left * 2 ** bits + right;
  } while (value >= n);
  return value;
}
