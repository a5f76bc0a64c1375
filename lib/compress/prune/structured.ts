// Structured pruning: neurons, key-value groups of heads and whole layers are physically removed, the same number in
// every layer, and the layer that read them is refitted by least squares on calibration text. Layers are taken in
// order, so each sees the inputs that the pruned layers before it produce.
import { divergence } from '../../eval/divergence.js';
import type { CausalLM } from '../../models/causal_lm.js';
import type { Linear } from '../../nn/linear.js';
import { cast, contiguous } from '../../ops/cast.js';
import { add } from '../../ops/elementwise.js';
import { indexSelect } from '../../ops/index_select.js';
import { concat, reshape, slice } from '../../ops/view.js';
import { tensor, zeros } from '../../tensor/create.js';
import { OptionError } from '../../tensor/errors.js';
import { tidy } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { inputGram } from '../calibrate.js';
import { chooseGroups, damped, repair } from './least_squares.js';

export interface PruneContext {
  /** Calibration token ids and the window they are cut into. */
  ids: readonly number[];
  context: number;
  onProgress?: (done: number) => void;
}

/** Refitting between rounds of removal: more rounds follow interactions between neurons more closely. */
const rounds = 8;

/** Sizes are kept at multiples of this where the layer is wide enough: int8 kernels read inputs in fours and vectors. */
const roundTo = 8;

function keepCount(total: number, ratio: number, what: string): number {
  const step = total >= 8 * roundTo ? roundTo : 1;
  const keep = Math.round((total * (1 - ratio)) / step) * step;
  if (keep < 1)
    throw new OptionError(`prune: a ${what} ratio of ${ratio} would leave nothing of ${total}`);
  return Math.min(total, keep);
}

/** Rows of a layer's outputs, with its bias. */
function keepOutputs(layer: Linear, rows: readonly number[]): void {
  const index = tensor(Int32Array.from(rows));
  const matrix = tidy(() =>
    indexSelect(
      layer.weight.isContiguous && !layer.conv1d ? layer.weight : layer.matrix(),
      0,
      index,
    ),
  );
  const bias = layer.bias && tidy(() => indexSelect(layer.bias!, 0, index));
  index.dispose();
  layer.setMatrix(matrix, bias);
}

/** The layer restricted to some inputs, refitted. The constant input of the Gram matrix becomes the bias. */
function keepInputs(layer: Linear, augmented: Tensor, gram: Tensor, kept: readonly number[]): void {
  const inputs = gram.shape[0]! - 1;
  const [matrix, shift] = tidy(() => {
    const fitted = repair(augmented, gram, [...kept, inputs]); // (o, |S| + 1)
    return [
      contiguous(cast(slice(fitted, 1, 0, -1), 'float32')),
      cast(reshape(contiguous(slice(fitted, 1, -1)), [layer.outFeatures]), 'float32'),
    ] as [Tensor, Tensor];
  });
  const bias = layer.bias ? tidy(() => add(layer.bias!, shift)) : null;
  shift.dispose();
  layer.setMatrix(matrix, bias);
}

/** W (o, K) with a zero column for the constant input, float64. A layer without bias may not use the constant. */
function withConstant(layer: Linear): Tensor {
  return tidy(() =>
    concat(
      [cast(layer.matrix(), 'float64'), zeros([layer.outFeatures, 1], { dtype: 'float64' })],
      1,
    ),
  );
}

/** Without a bias to take it, the constant input must not help the fit: cut its correlations. */
function isolateConstant(gram: Tensor): Tensor {
  const n = gram.shape[0]!;
  const values = Float64Array.from(gram.dataSync() as Float64Array);
  for (let i = 0; i < n - 1; i++) values[i * n + n - 1] = values[(n - 1) * n + i] = 0;
  return tensor(values, { shape: [n, n] });
}

async function prepared(
  model: CausalLM,
  layer: Linear,
  c: PruneContext,
): Promise<{ gram: Tensor; weight: Tensor }> {
  const raw = await inputGram(model, layer, c.ids, c.context);
  const usable = layer.bias ? raw : isolateConstant(raw);
  const gram = damped(usable);
  if (usable !== raw) usable.dispose();
  raw.dispose();
  return { gram, weight: withConstant(layer) };
}

/** Removes a share of the feed-forward neurons of every layer. Changes `model`. */
export async function pruneFfn(model: CausalLM, ratio: number, c: PruneContext): Promise<string> {
  const total = model.shape.ffn;
  const keep = keepCount(total, ratio, 'ffn');
  if (keep === total) return `ffn ${total}: nothing to remove at ratio ${ratio}`;
  for (const [i, block] of model.blocks.entries()) {
    const { gram, weight } = await prepared(model, block.ffnOutput, c);
    const kept = chooseGroups(weight, gram, 1, total - keep, rounds);
    for (const layer of block.ffnInputs) keepOutputs(layer, kept);
    keepInputs(block.ffnOutput, weight, gram, kept);
    gram.dispose();
    weight.dispose();
    c.onProgress?.((i + 1) / model.blocks.length);
  }
  return `ffn ${total} → ${keep} neurons in each of ${model.blocks.length} layers`;
}

/** Removes a share of the key-value groups (with all their query heads) of every layer. Changes `model`. */
export async function pruneHeads(model: CausalLM, ratio: number, c: PruneContext): Promise<string> {
  const { heads, kvHeads, headDim } = model.shape;
  const keep = Math.round(kvHeads * (1 - ratio));
  if (keep < 1)
    throw new OptionError(
      `prune: a heads ratio of ${ratio} would leave none of ${kvHeads} key-value groups`,
    );
  if (keep === kvHeads)
    return `heads ${heads}: nothing to remove at ratio ${ratio} of ${kvHeads} groups`;
  const perGroup = heads / kvHeads;
  const span = (groups: readonly number[], size: number): number[] =>
    groups.flatMap((g) => Array.from({ length: size }, (_, i) => g * size + i));
  for (const [i, block] of model.blocks.entries()) {
    const { gram, weight } = await prepared(model, block.attentionOutput, c);
    const groups = chooseGroups(weight, gram, perGroup * headDim, kvHeads - keep, kvHeads - keep);
    const [q, k, v] = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'].map((n) =>
      block.linears.get(n)!,
    ) as [Linear, Linear, Linear];
    keepOutputs(q, span(groups, perGroup * headDim));
    keepOutputs(k, span(groups, headDim));
    keepOutputs(v, span(groups, headDim));
    keepInputs(block.attentionOutput, weight, gram, span(groups, perGroup * headDim));
    gram.dispose();
    weight.dispose();
    c.onProgress?.((i + 1) / model.blocks.length);
  }
  return `heads ${heads} → ${keep * perGroup} (${kvHeads} → ${keep} key-value groups) in each of ${model.blocks.length} layers`;
}

/**
 * Removes a share of the layers, one at a time, each time the one whose absence changes the output least (KLD against
 * `reference`). The first and the last layer stay. Returns the smaller model.
 */
export async function pruneLayers(
  model: CausalLM,
  reference: CausalLM,
  ratio: number,
  c: PruneContext,
): Promise<{ model: CausalLM; detail: string }> {
  const total = model.shape.layers;
  const remove = Math.round(total * ratio);
  if (remove > total - 2)
    throw new OptionError(
      `prune: a layers ratio of ${ratio} removes ${remove} of ${total} layers; the first and the last must stay`,
    );
  if (remove === 0)
    return { model: model.share(), detail: `layers ${total}: nothing to remove at ratio ${ratio}` };
  let kept = Array.from({ length: total }, (_, i) => i);
  const gone: number[] = [];
  for (let step = 0; step < remove; step++) {
    let best: { layer: number; kld: number } | null = null;
    for (const layer of kept.slice(1, -1)) {
      const candidate = model.withBlocks(kept.filter((i) => i !== layer));
      const { kld } = await divergence(reference, candidate, c.ids, { context: c.context });
      candidate.dispose();
      if (!best || kld < best.kld) best = { layer, kld };
    }
    kept = kept.filter((i) => i !== best!.layer);
    gone.push(best!.layer);
    c.onProgress?.((step + 1) / remove);
  }
  return {
    model: model.withBlocks(kept),
    detail: `layers ${total} → ${kept.length} (removed ${gone.join(', ')})`,
  };
}
