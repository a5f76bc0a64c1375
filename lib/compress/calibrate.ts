// What calibration text says about a layer: the Gram matrix of its inputs, G = Σ x xᵀ, in float64, with a constant 1 as
// last input so that a bias can be fitted too.
import { noGrad } from '../autograd/modes.js';
import { batchTensor, windows } from '../eval/perplexity.js';
import type { CausalLM } from '../models/causal_lm.js';
import type { Linear } from '../nn/linear.js';
import { cast } from '../ops/cast.js';
import { add } from '../ops/elementwise.js';
import { matmul } from '../ops/matmul.js';
import { concat, reshape, transpose } from '../ops/view.js';
import { synchronize } from '../native/device.js';
import { ones } from '../tensor/create.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';

/** Ends a forward as soon as the layer of interest has seen its input. */
class Captured extends Error {}

/** (K + 1, K + 1) float64 over all tokens of `ids`; belongs to the caller. */
export async function inputGram(
  model: CausalLM,
  layer: Linear,
  ids: readonly number[],
  context: number,
): Promise<Tensor> {
  let gram: Tensor | null = null;
  layer.observer = (x) => {
    const updated = untracked(() =>
      tidy(() => {
        const rows = x.size / layer.inFeatures;
        const flat = concat(
          [
            cast(reshape(x.detach(), [rows, layer.inFeatures]), 'float64'),
            ones([rows, 1], { dtype: 'float64' }),
          ],
          1,
        );
        const part = matmul(transpose(flat), flat);
        return gram ? add(gram, part) : part;
      }),
    );
    gram?.dispose();
    gram = updated;
    throw new Captured();
  };
  try {
    for (const rows of windows(ids, context)) {
      try {
        tidy(() => noGrad(() => void model.forward({ inputIds: batchTensor(rows) })));
      } catch (error) {
        if (!(error instanceof Captured)) throw error;
      }
      await synchronize();
    }
  } finally {
    layer.observer = null;
  }
  return gram!;
}
