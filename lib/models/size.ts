// How many weights a model has and what a token costs.
import type { CausalLM } from './causal_lm.js';

/** 2 per weight of every linear layer and of the head, plus attention over half the context on average. */
export function flopsPerToken(model: CausalLM): number {
  const { hidden, vocab, heads, headDim, context, layers } = model.shape;
  let flops = 2 * hidden * vocab;
  for (const block of model.blocks)
    for (const layer of block.linears.values()) flops += 2 * layer.inFeatures * layer.outFeatures;
  return flops + layers * 2 * 2 * heads * headDim * (context / 2);
}

export function parameterCount(model: CausalLM): number {
  const linear = model.blocks.flatMap((b) => [...b.linears.values()]);
  const inLinears = linear.reduce((n, l) => n + l.inFeatures * l.outFeatures, 0);
  const table = model.tokenEmbedding.numEmbeddings * model.tokenEmbedding.width;
  const head = model.head ? model.head.inFeatures * model.head.outFeatures : 0;
  let rest = 0;
  for (const [name, p] of model.namedParameters()) if (isPlain(name, p.rank)) rest += p.size;
  return inLinears + table + head + rest;
}

/** Norms, biases and position tables: what is neither a linear weight nor the token embedding. */
function isPlain(name: string, rank: number): boolean {
  if (/\.(packed|scale|q)$/.test(name)) return false;
  return rank === 1 || name.endsWith('wpe.weight');
}
