// Prefill and decoding of a model folder as benchmark cases.
import { noGrad } from '../autograd/modes.js';
import { loadModel } from '../models/registry.js';
import { quantize } from '../models/quantize.js';
import type { CausalLM } from '../models/causal_lm.js';
import { Embedding } from '../nn/embedding.js';
import type { KVCache } from '../nn/kv_cache.js';
import { Linear } from '../nn/linear.js';
import { quantizeWeightI8 } from '../ops/matmul_i8.js';
import { tensor } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Case } from './cases.js';

type Stored = 'float32' | 'bfloat16' | 'int8' | 'int4';

/** A float folder, its weights as `stored` says; in the integer forms the token table and a head tied to it are int8. */
async function load(folder: string, stored: Stored): Promise<CausalLM> {
  const { model } = await loadModel(folder);
  if (stored === 'bfloat16')
    for (const [, part] of model.namedModules())
      if (part instanceof Linear || part instanceof Embedding) part.storeBfloat16();
  if (stored === 'int8') quantize(model, { scheme: 'w8a8', embeddings: true });
  if (stored === 'int4') {
    quantize(model, { scheme: 'w4a16', group: 32 });
    const { q, scale } = quantizeWeightI8(model.tokenEmbedding.weight);
    model.tokenEmbedding.setInt8(q, scale, 'w8a8');
  }
  return model;
}

/** Multiply-adds times two of one token in the weights of its products. */
function perToken(model: CausalLM): number {
  let weights = model.shape.vocab * model.shape.hidden;
  for (const block of model.blocks)
    for (const layer of block.linears.values()) weights += layer.inFeatures * layer.outFeatures;
  return 2 * weights;
}

/** known: the folder holds floats, which peers can load. */
function cases(model: CausalLM, folder: string, stored: Stored, known: boolean): Case[] {
  const { context, vocab, hidden, layers } = model.shape;
  const prefill = Math.min(512, context);
  const past = Math.min(256, context - 1);
  const ids = (count: number): Int32Array =>
    Int32Array.from({ length: count }, (_, i) => (i * 7919 + 13) % vocab);
  const forward = (inputIds: Tensor, cache: KVCache | null): Tensor =>
    tidy(() => noGrad(() => model.forward({ inputIds, cache, logitsToKeep: 1 }).logits));
  const head = 2 * vocab * hidden;
  const body = perToken(model) - head;
  // of a weight: int4 with a float32 scale for each 32, beside an int8 head
  const width = { float32: 4, bfloat16: 2, int8: 1, int4: 0.625 }[stored];
  const bytes = (width * body + (stored === 'int4' ? 1 : width) * head) / 2;
  const kinds = { float32: 'f32', bfloat16: 'bf16', int8: 'i8', int4: 'i8' } as const;
  const kind: Case['kind'] = kinds[stored];
  const peer = { folder, dtype: stored };
  let cache: KVCache | null = null;
  return [
    {
      kernel: `prefill ${stored}`,
      shape: `t${prefill}`,
      operations: prefill * body + head + 2 * layers * prefill * prefill * hidden,
      bytes,
      kind,
      warmMs: 1000,
      inputs: () => [tensor(ids(prefill), { shape: [1, prefill] })],
      run: (x) => forward(x!, null),
      ...(known && { peer: { op: 'model_prefill', tokens: prefill, ...peer } }),
    },
    {
      kernel: `decode one token ${stored}`,
      shape: `after ${past}`,
      operations: body + head + 4 * layers * past * hidden,
      bytes,
      kind,
      warmMs: 1000,
      inputs: () => {
        cache = model.createCache();
        if (past > 0) {
          const start = tensor(ids(past), { shape: [1, past] });
          forward(start, cache).dispose();
          start.dispose();
        }
        return [tensor(ids(1), { shape: [1, 1] })];
      },
      run: (x) => {
        cache!.rewind(past);
        return forward(x!, cache);
      },
      dispose: () => cache?.dispose(),
      ...(known && { peer: { op: 'model_decode', tokens: past, ...peer } }),
    },
  ];
}

/** Quantized folders as they are; float ones as float32, bfloat16, int8 (W8A8) and int4 (W4A16, groups of 32). */
export async function modelCases(folder: string): Promise<{ cases: Case[]; dispose: () => void }> {
  const first = await load(folder, 'float32');
  const scheme = first.blocks[0]?.ffnOutput.scheme ?? null;
  const models = new Map<Stored, CausalLM>([
    [scheme === null ? 'float32' : scheme === 'w4a16' ? 'int4' : 'int8', first],
  ]);
  if (scheme === null)
    for (const stored of ['bfloat16', 'int8', 'int4'] as const)
      models.set(stored, await load(folder, stored));
  return {
    cases: [...models].flatMap(([stored, model]) => cases(model, folder, stored, scheme === null)),
    dispose: () => {
      for (const model of models.values()) model.dispose();
    },
  };
}
