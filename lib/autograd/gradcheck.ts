// gradcheck: backward() against central differences, in float64.
import { tensor } from '../tensor/create.js';
import { RootsError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { backward } from './backward.js';
import { noGrad } from './modes.js';

export interface GradcheckOptions {
  eps?: number;
  atol?: number;
  rtol?: number;
}

/**
 * Throws when a gradient of `fn` differs from (f(x + eps) - f(x - eps)) / 2 eps by more than atol + rtol |expected|.
 * `inputs` are float64 tensors; fn returns one tensor, which is weighted by fixed pseudo-random numbers.
 */
export function gradcheck(
  fn: (...inputs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  options: GradcheckOptions = {},
): void {
  const { eps = 1e-6, atol = 1e-5, rtol = 1e-3 } = options;
  const values = inputs.map((t) => Float64Array.from(t.dataSync() as Float64Array));
  const shapes = inputs.map((t) => t.shape);
  const leaves = inputs.map((t, i) =>
    tensor(values[i]!, { shape: shapes[i]!, requiresGrad: true }),
  );
  const analytic = (() => {
    const y = fn(...leaves);
    const weights = tensor(weightsFor(y.size), { shape: y.shape });
    backward(y, weights);
    y.dispose();
    weights.dispose();
    return leaves.map((leaf, i) =>
      leaf.grad ? (leaf.grad.dataSync() as Float64Array) : new Float64Array(values[i]!.length),
    );
  })();
  for (const leaf of leaves) leaf.dispose();
  const evaluate = (): number =>
    tidy(() => {
      const y = noGrad(() => fn(...values.map((v, i) => tensor(v, { shape: shapes[i]! }))));
      const out = y.dataSync() as Float64Array;
      const w = weightsFor(out.length);
      let total = 0;
      for (let i = 0; i < out.length; i++) total += out[i]! * w[i]!;
      return total;
    });
  values.forEach((v, input) => {
    for (let i = 0; i < v.length; i++) {
      const before = v[i]!;
      v[i] = before + eps;
      const up = evaluate();
      v[i] = before - eps;
      const down = evaluate();
      v[i] = before;
      const expected = (up - down) / (2 * eps);
      const got = analytic[input]![i]!;
      if (!(Math.abs(got - expected) <= atol + rtol * Math.abs(expected)))
        throw new RootsError(
          'ERR_GRADCHECK',
          `gradcheck: input ${input}, element ${i}: backward gave ${got}, central differences ${expected}`,
        );
    }
  });
}

/** Fixed numbers in [0.5, 1.5), so that no two outputs cancel. */
function weightsFor(n: number): Float64Array {
  return Float64Array.from({ length: n }, (_, i) => 0.5 + ((i * 0.6180339887498949) % 1));
}
