// Unstructured magnitude pruning (Han et al., arXiv 1506.02626): in every linear layer the smallest weights become 0.
// Shapes stay, so nothing gets faster or smaller by itself; the report says so.
import type { CausalLM } from '../../models/causal_lm.js';
import { tensor } from '../../tensor/create.js';
import { tidy } from '../../tensor/scope.js';

/** Positions of the k smallest |w|; among equals the lower index goes first. */
export function smallest(values: Float32Array, k: number): Uint8Array {
  const mask = new Uint8Array(values.length);
  if (k <= 0) return mask;
  const magnitudes = values.map(Math.abs);
  const threshold = magnitudes.toSorted()[k - 1]!;
  let left = k;
  for (let i = 0; i < values.length; i++)
    if (magnitudes[i]! < threshold) {
      mask[i] = 1;
      left--;
    }
  for (let i = 0; i < values.length && left > 0; i++)
    if (magnitudes[i] === threshold && mask[i] === 0) {
      mask[i] = 1;
      left--;
    }
  return mask;
}

/** Zeroes a share of the weights of every linear layer inside the blocks. Changes `model`. */
export async function pruneMagnitude(model: CausalLM, sparsity: number): Promise<string> {
  let zeros = 0;
  let total = 0;
  for (const block of model.blocks)
    for (const layer of block.linears.values()) {
      const matrix = layer.matrix();
      const values = (await matrix.data()) as Float32Array;
      matrix.dispose();
      const mask = smallest(values, Math.round(values.length * sparsity));
      for (let i = 0; i < values.length; i++) {
        if (mask[i]) values[i] = 0;
        if (values[i] === 0) zeros++;
      }
      total += values.length;
      layer.setMatrix(tidy(() => tensor(values, { shape: [layer.outFeatures, layer.inFeatures] })));
    }
  return `${((100 * zeros) / total).toFixed(1)} % of the linear weights are zero (a mask: same size, same speed)`;
}
