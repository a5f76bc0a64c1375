// Every op gives the same on a view — any offset, order of axes, gaps, stretched axes, nothing at all — as on a dense copy of it, and the
// same gradients.
import { describe, expect, it } from 'vitest';
import type { Tensor } from '../../lib/index.js';
import { numbers } from '../harness.js';
import {
  casesOf,
  compare,
  describeCase,
  leafOf,
  ops,
  relativeError,
  relativeGradientError,
  upstreamOf,
  viewOf,
} from './random_cases.js';

const cases = Number(process.env['ROOTS_CASES'] ?? 12);
const seed = Number(process.env['ROOTS_SEED'] ?? 1);

const here = process.env['ROOTS_TEST_DEVICE'] === 'cuda' ? ops.filter((op) => !op.cpuOnly) : ops;

describe('views and dense copies (G03)', () => {
  it.each(here)('$name', async (op) => {
    let views = 0;
    for (const [i, c] of casesOf(op, seed, cases).entries()) {
      const what = describeCase(op, i, c);
      const gradients: (Float64Array | null)[][] = [];
      const results: Float64Array[] = [];
      for (const dense of [true, false]) {
        const leaves = c.operands.map((o) => leafOf(o, c.smooth));
        const inputs = leaves.map((x, j) => viewOf(x, c.operands[j]!));
        views += inputs.filter((x) => !x.isContiguous || x.offset > 0).length;
        let y: Tensor;
        try {
          y = op.run(dense ? inputs.map((x) => x.clone()) : inputs, c.options);
        } catch (error) {
          throw new Error(what, { cause: error });
        }
        results.push(await numbers(y));
        if (c.smooth && y.requiresGrad) y.backward(upstreamOf(y));
        const read = leaves.map((x) => (x.grad ? numbers(x.grad) : null));
        gradients.push(await Promise.all(read));
        y.dispose();
        leaves.forEach((x) => x.dispose());
        if (!dense) {
          const relative = relativeError(c, y);
          compare(results[1]!, [...results[0]!], relative, what);
          gradients[0]!.forEach((g, j) => {
            expect(gradients[1]![j] === null, `${what}: gradient ${j}`).toBe(g === null);
            if (g)
              compare(
                gradients[1]![j]!,
                [...g],
                relativeGradientError(c, y, c.operands[j]!),
                `${what}: gradient ${j}`,
              );
          });
        }
      }
    }
    expect(views).toBeGreaterThan(0);
  });
});
