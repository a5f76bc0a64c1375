// Removing inputs of a linear layer with the least damage. With X the calibration inputs and G = Σ x xᵀ:
//   repair:  W' = argmin ‖W X - W' X_S‖²  =  W G[:, S] (G[S, S])⁻¹          (one Cholesky solve)
//   score:   removing input j costs ‖w_j‖² / (G[S, S]⁻¹)_jj                 (optimal brain surgeon, Hassibi & Stork 1993)
// Damping pulls towards the original weights: λ = 1 % of the mean diagonal.
import * as kernels from '../../native/kernels.gen.js';
import { contiguous } from '../../ops/cast.js';
import { add, mul } from '../../ops/elementwise.js';
import { indexSelect } from '../../ops/index_select.js';
import { matmul } from '../../ops/matmul.js';
import { transpose } from '../../ops/view.js';
import { tensor } from '../../tensor/create.js';
import { RootsError } from '../../tensor/errors.js';
import { tidy } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';

const damping = 0.01;

function indices(list: readonly number[]): Tensor {
  return tensor(Int32Array.from(list));
}

function pick(matrix: Tensor, rows: readonly number[], columns: readonly number[]): Tensor {
  return indexSelect(indexSelect(matrix, 0, indices(rows)), 1, indices(columns));
}

/** G with λ on the diagonal, the constant input (last) left alone. */
export function damped(gram: Tensor): Tensor {
  const n = gram.shape[0]!;
  const values = gram.dataSync() as Float64Array;
  let mean = 0;
  for (let i = 0; i < n - 1; i++) mean += values[i * n + i]! / Math.max(1, n - 1);
  const out = Float64Array.from(values);
  for (let i = 0; i < n; i++)
    out[i * n + i]! += i < n - 1 ? damping * mean + 1e-12 : 1e-9 * values[i * n + i]! + 1e-12;
  return tensor(out, { shape: [n, n] });
}

/** (A)⁻¹ B for a symmetric positive definite float64 A. */
export function solve(a: Tensor, b: Tensor): Tensor {
  const factor = tidy(() => add(a, 0));
  const info = tensor(new BigInt64Array(1));
  kernels.cholesky(factor, info);
  const failed = Number(info.dataSync()[0]);
  info.dispose();
  if (failed) {
    factor.dispose();
    throw new RootsError(
      'ERR_NOT_POSITIVE_DEFINITE',
      `least squares: pivot ${failed - 1} is not positive; the calibration text is too short or its activations are not finite`,
    );
  }
  const x = tidy(() => mul(contiguous(b), 1));
  kernels.cholesky_solve(factor, x);
  factor.dispose();
  return x;
}

/** The weights (o, |S|) that reproduce W (o, n) on the calibration inputs from the inputs S alone. All float64. */
export function repair(weight: Tensor, gram: Tensor, kept: readonly number[]): Tensor {
  return tidy(() => {
    const all = Array.from({ length: gram.shape[0]! }, (_, i) => i);
    const right = matmul(pick(gram, kept, all), transpose(weight)); // (|S|, o)
    return contiguous(transpose(solve(pick(gram, kept, kept), right)));
  });
}

/**
 * Which groups of inputs to keep so that `remove` of them go: groups leave in rounds, cheapest first, and weights and
 * inverse are refitted between rounds. The constant input always stays. Returns kept group numbers in order.
 */
export function chooseGroups(
  weight: Tensor,
  gram: Tensor,
  groupSize: number,
  remove: number,
  rounds: number,
): number[] {
  const inputs = gram.shape[0]! - 1;
  const outputs = weight.shape[0]!;
  let groups = Array.from({ length: inputs / groupSize }, (_, i) => i);
  const target = groups.length - remove;
  for (let round = 0; groups.length > target; round++) {
    const left = groups.length - target;
    const now = Math.max(1, Math.ceil(left / Math.max(1, rounds - round)));
    const kept = [
      ...groups.flatMap((g) => Array.from({ length: groupSize }, (_, i) => g * groupSize + i)),
      inputs,
    ];
    const costs = tidy(() => {
      const n = kept.length;
      const w = repair(weight, gram, kept).dataSync() as Float64Array; // (o, n)
      const identity = new Float64Array(n * n);
      for (let i = 0; i < n; i++) identity[i * n + i] = 1;
      const inverse = solve(
        pick(gram, kept, kept),
        tensor(identity, { shape: [n, n] }),
      ).dataSync() as Float64Array;
      return groups.map((_, g) => groupCost(w, inverse, n, outputs, g * groupSize, groupSize));
    });
    const order = groups.map((_, i) => i).toSorted((a, b) => costs[a]! - costs[b]! || a - b);
    const gone = new Set(order.slice(0, now));
    groups = groups.filter((_, i) => !gone.has(i));
  }
  return groups;
}

/** trace(W_g (G⁻¹_gg)⁻¹ W_gᵀ): the squared error that removing one group adds. */
function groupCost(
  w: Float64Array,
  inverse: Float64Array,
  n: number,
  outputs: number,
  start: number,
  size: number,
): number {
  // Cholesky of the small diagonal block, then one triangular solve per output
  const l = new Float64Array(size * size);
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) {
      let s = inverse[(start + i) * n + start + j]!;
      for (let k = 0; k < j; k++) s -= l[i * size + k]! * l[j * size + k]!;
      l[i * size + j] = i === j ? Math.sqrt(Math.max(s, 1e-300)) : s / l[j * size + j]!;
    }
  let cost = 0;
  const y = new Float64Array(size);
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < size; i++) {
      let s = w[o * n + start + i]!;
      for (let k = 0; k < i; k++) s -= l[i * size + k]! * y[k]!;
      y[i] = s / l[i * size + i]!;
      cost += y[i]! * y[i]!;
    }
  return cost;
}
