// Prefill and decoding of a model folder as benchmark cases.
import { noGrad } from '../autograd/modes.js';
import { loadModel } from '../models/registry.js';
import { quantize } from '../models/quantize.js';
import type { CausalLM } from '../models/causal_lm.js';
import { Embedding } from '../nn/embedding.js';
import type { KVCache } from '../nn/kv_cache.js';
import { Linear } from '../nn/linear.js';
import { tensor } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Case } from './cases.js';

type Stored = 'float32' | 'bfloat16' | 'int8' | 'int4' | 'int4 throughout';

/** A float folder, its weights as `stored` says; beside int4 layers the token table and the head are int8, as in llama.cpp's files, or int4. */
async function load(folder: string, stored: Stored): Promise<CausalLM> {
  const { model } = await loadModel(folder);
  if (stored === 'bfloat16')
    for (const [, part] of model.namedModules())
      if (part instanceof Linear || part instanceof Embedding) part.storeBfloat16();
  if (stored === 'int8') quantize(model, { scheme: 'w8a8', embeddings: true });
  if (stored === 'int4' || stored === 'int4 throughout')
    quantize(model, {
      scheme: 'w4a16',
      group: 32,
      embeddings: true,
      embeddingBits: stored === 'int4' ? 8 : 4,
    });
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
  const int4 = 0.5625; // with a float16 scale for each 32
  const widths = { float32: 4, bfloat16: 2, int8: 1, int4, 'int4 throughout': int4 };
  const width = widths[stored];
  const bytes = (width * body + (stored === 'int4' ? 1 : width) * head) / 2;
  const kind: Case['kind'] =
    stored === 'float32' ? 'f32' : stored === 'bfloat16' ? 'bf16' : ('i8' as const);
  // the files of the peers have an int8 head
  known &&= stored !== 'int4 throughout';
  const peer = { folder, dtype: stored };
  const decode = (name: string, options: Parameters<CausalLM['createCache']>[0]): Case => {
    let cache: KVCache | null = null;
    return {
      kernel: `decode one token ${name}`,
      shape: `after ${past}`,
      operations: body + head + 4 * layers * past * hidden,
      bytes,
      kind,
      warmMs: 1000,
      inputs: () => {
        cache = model.createCache(options);
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
    };
  };
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
    decode(stored, {}),
    ...(stored === 'int4 throughout' ? [decode(`${stored}, int8 cache`, { dtype: 'int8' })] : []),
  ];
}

/** Quantized folders as they are; float ones as float32, bfloat16, int8 (W8A8) and int4 (W4A16, groups of 32, with an int8 head and without). */
export async function modelCases(folder: string): Promise<{ cases: Case[]; dispose: () => void }> {
  const first = await load(folder, 'float32');
  const scheme = first.blocks[0]?.ffnOutput.scheme ?? null;
  const models = new Map<Stored, CausalLM>([
    [scheme === null ? 'float32' : scheme === 'w4a16' ? 'int4' : 'int8', first],
  ]);
  if (scheme === null)
    for (const stored of ['bfloat16', 'int8', 'int4', 'int4 throughout'] as const)
      models.set(stored, await load(folder, stored));
  return {
    cases: [...models].flatMap(([stored, model]) => cases(model, folder, stored, scheme === null)),
    dispose: () => {
      for (const model of models.values()) model.dispose();
    },
  };
}
