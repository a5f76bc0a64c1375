// The llama.cpp adapter of `roots bench model`: answers like protocol.py. It needs node-llama-cpp, installed in the current folder or in the
// one that ROOTS_PEER_NODE_MODULES names, and writes the model as a temporary GGUF file.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installed, serve } from './protocol.mjs';

const threads = Number(process.argv[2]);
const { library, version } = await installed('node-llama-cpp');
const llama = await library.getLlama({
  gpu: false,
  build: 'never',
  logLevel: library.LlamaLogLevel.disabled,
  maxThreads: threads,
});
const folder = mkdtempSync(join(tmpdir(), 'roots-llama-cpp-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));

const types = { float32: 'f32', bfloat16: 'bf16', int8: 'q8_0', int4: 'q4_0' };
let loaded = null; // { key, model, contexts: one per number of threads }

async function load(spec) {
  const key = `${spec.folder} ${spec.dtype}`;
  if (loaded?.key === key) return loaded;
  for (const context of loaded?.contexts ?? []) await context.dispose();
  await loaded?.model.dispose();
  const { exportGguf } = await import('../../dist/models/gguf.js');
  const path = join(folder, 'model.gguf');
  await exportGguf(spec.folder, path, { type: types[spec.dtype] });
  const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 });
  const options = { contextSize: model.trainContextSize, batchSize: 512, sequences: 1 };
  const contexts = [];
  for (const n of new Set([threads, 1]))
    contexts.push(await model.createContext({ ...options, threads: n }));
  loaded = { key, model, contexts, sequences: contexts.map((c) => c.getSequence()) };
  return loaded;
}

async function median(run, calls) {
  const times = [];
  for (let i = 0; i < calls; i++) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  return times.toSorted((a, b) => a - b)[calls >> 1];
}

async function prepare(spec) {
  if (!(spec.dtype in types) || !['model_prefill', 'model_decode'].includes(spec.op))
    throw new Error(`no ${spec.op}`);
  const { model, sequences } = await load(spec);
  const { metadata } = model.fileInfo;
  const vocab = metadata[metadata.general.architecture].vocab_size;
  const ids = (count) => Array.from({ length: count }, (_, i) => (i * 7919 + 13) % vocab);
  const start = ids(spec.tokens);
  for (const sequence of sequences) await sequence.clearHistory();
  if (spec.op === 'model_prefill') {
    const [sequence] = sequences;
    return async () => {
      await sequence.clearHistory();
      await sequence.evaluateWithoutGeneratingNewTokens(start);
    };
  }
  const [next] = ids(1);
  const calls = sequences.map((sequence) => async () => {
    if (sequence.nextTokenIndex > spec.tokens)
      await sequence.eraseContextTokenRanges([
        { start: spec.tokens, end: sequence.nextTokenIndex },
      ]);
    for await (const token of sequence.evaluate([next], { temperature: 0, yieldEogToken: true }))
      if (token !== undefined) break;
  });
  // one thread decodes faster than two where something else wants a core now and then: the better of both counts
  const times = [];
  for (const [i, sequence] of sequences.entries()) {
    await sequence.evaluateWithoutGeneratingNewTokens(start);
    times.push(await median(calls[i], 21));
  }
  return calls[times.indexOf(Math.min(...times))];
}

await serve(
  {
    name: 'llama.cpp',
    version: `node-llama-cpp ${version}`,
    settings: `${threads} threads (decoding: the faster of ${threads} and 1), GGUF of the same model (int8: q8_0, int4: q4_0), batch 512`,
  },
  prepare,
);
