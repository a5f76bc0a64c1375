import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ReadAhead } from '../../lib/train/read_ahead.js';

/** A data set that keeps a list of what was asked for; sample 13 cannot be read. */
function recorded(): { data: ConstructorParameters<typeof ReadAhead<string>>[0]; asked: string[] } {
  const asked: string[] = [];
  const data = {
    length: 100,
    fingerprint: 'recorded',
    get: async (indices: readonly number[], epoch: number): Promise<string> => {
      const name = `${epoch}: ${indices.join()}`;
      asked.push(name);
      await sleep(1);
      if (indices.includes(13)) throw new Error('sample 13 is damaged');
      return name;
    },
  };
  return { data, asked };
}

describe('reading ahead (G05)', () => {
  it('fetches what is expected once, before it is asked for', async () => {
    const { data, asked } = recorded();
    const batches = new ReadAhead(data);
    batches.expect([1, 2], 0);
    expect(asked).toEqual(['0: 1,2']);
    expect(await batches.get([1, 2], 0)).toBe('0: 1,2');
    expect(asked).toEqual(['0: 1,2']);
    expect(await batches.get([1, 2], 0)).toBe('0: 1,2');
    expect(asked).toHaveLength(2);
  });
  it('gives what is asked for when something else was expected', async () => {
    const { data } = recorded();
    const batches = new ReadAhead(data);
    batches.expect([1, 2], 0);
    expect(await batches.get([1, 2], 1)).toBe('1: 1,2');
    batches.expect([3], 1);
    expect(await batches.get([4], 1)).toBe('1: 4');
    expect(await batches.get([3], 1)).toBe('1: 3');
  });
  it('says what went wrong to who asks for the samples, and to nobody else', async () => {
    const { data } = recorded();
    const batches = new ReadAhead(data);
    batches.expect([13], 0); // an unhandled rejection would fail the run of the tests
    await sleep(5);
    await expect(batches.get([13], 0)).rejects.toThrow('sample 13 is damaged');
    batches.expect([13], 0);
    await batches.settled();
    expect(await batches.get([12], 0)).toBe('0: 12');
  });
  it('a data set without promises that throws is heard at the same place', async () => {
    const batches = new ReadAhead({
      length: 1,
      fingerprint: 'thrown',
      get: (): string => {
        throw new Error('at once');
      },
    });
    batches.expect([0], 0);
    await expect(batches.get([0], 0)).rejects.toThrow('at once');
  });
});
