// Model folders in the Hugging Face layout: which class a config.json asks for, loading and saving.
import { mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { writeNewFile } from '../io/checkpoint.js';
import { readJsonObject } from '../io/json.js';
import type { JsonObject } from '../io/json.js';
import { openModelWeights, writeSafetensors } from '../io/safetensors.js';
import { clone } from '../ops/cast.js';
import { untracked } from '../tensor/scope.js';
import { ConfigError, FileError } from '../tensor/errors.js';
import { Linear } from '../nn/linear.js';
import type { Tensor } from '../tensor/tensor.js';
import type { CausalLM } from './causal_lm.js';
import { GPT2LMHeadModel } from './gpt2.js';
import { LlamaForCausalLM } from './llama.js';
import { LstmForCausalLM } from './lstm.js';
import { savedTensors, readQuantization } from './quantized_layout.js';
import { SequenceClassifier, baseArchitecture } from './sequence_classification.js';
import { Weights } from './weights.js';

interface Family {
  fromWeights(config: JsonObject, weights: Weights): CausalLM;
  /** The prefix of names that checkpoints of the bare model leave out. */
  prefix: string;
}

const architectures: Record<string, Family> = {
  GPT2LMHeadModel: { fromWeights: GPT2LMHeadModel.fromWeights, prefix: 'transformer.' },
  LlamaForCausalLM: { fromWeights: LlamaForCausalLM.fromWeights, prefix: 'model.' },
  MistralForCausalLM: { fromWeights: LlamaForCausalLM.fromWeights, prefix: 'model.' },
  LstmForCausalLM: { fromWeights: LstmForCausalLM.fromWeights, prefix: '' },
  Qwen2ForCausalLM: { fromWeights: LlamaForCausalLM.fromWeights, prefix: 'model.' },
};
const byModelType: Record<string, string> = {
  gpt2: 'GPT2LMHeadModel',
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  roots_lstm: 'LstmForCausalLM',
};

/** The architecture name in a config.json, by `architectures` or, without it, `model_type`. */
export function architectureOf(config: JsonObject): string {
  const list = config['architectures'];
  const named = Array.isArray(list) && typeof list[0] === 'string' ? list[0] : undefined;
  const type = typeof config['model_type'] === 'string' ? config['model_type'] : undefined;
  const name =
    named ??
    (type !== undefined && Object.hasOwn(byModelType, type) ? byModelType[type] : undefined);
  if (name === undefined || !Object.hasOwn(architectures, name))
    throw new ConfigError(
      `config.json: architecture ${JSON.stringify(named ?? type ?? null)} is not supported; supported are ${Object.keys(architectures).join(', ')}`,
    );
  return name;
}

export async function readConfig(folder: string): Promise<JsonObject> {
  const info = await stat(folder).catch(() => null);
  if (!info?.isDirectory())
    throw new FileError('ERR_FILE_NOT_FOUND', `${folder}: no such model folder`);
  return readJsonObject(join(folder, 'config.json'), { allowNonFinite: true });
}

export interface LoadedModel {
  model: CausalLM;
  config: JsonObject;
  generationConfig: JsonObject;
  /** Things accepted but worth telling: unused tensors, ids outside the vocabulary, … */
  warnings: string[];
}

const ignoredTensors = /\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$/;

/** Loads a classification model: the body by its causal family, and the head `score`. */
export async function loadClassifier(
  folder: string,
): Promise<LoadedModel & { classifier: SequenceClassifier }> {
  const config = await readConfig(folder);
  const name = (config['architectures'] as string[] | undefined)?.[0] ?? '';
  const base = baseArchitecture(name);
  if (!base) throw new ConfigError(`config.json: ${JSON.stringify(name)} is not a classifier`);
  const loaded = await loadModel(folder, base);
  const file = await openModelWeights(folder);
  if (!file.names.includes('score.weight')) {
    loaded.model.dispose();
    throw new FileError('ERR_TENSOR_MISSING', `${folder}: there is no score.weight`);
  }
  const weight = await file.get('score.weight');
  const classifier = new SequenceClassifier(loaded.model, new Linear({ weight }));
  return {
    ...loaded,
    warnings: loaded.warnings.filter((w) => !w.includes('score.weight')),
    classifier,
  };
}

/** Writes a classification model into an empty folder. */
export async function writeClassifier(
  folder: string,
  model: SequenceClassifier,
  extra: { files?: ReadonlyMap<string, Uint8Array>; config?: JsonObject } = {},
): Promise<void> {
  await mkdir(folder, { recursive: true });
  const config = { ...model.config, ...extra.config, dtype: 'float32' };
  await writeNewFile(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  for (const [name, bytes] of extra.files ?? []) await writeNewFile(join(folder, name), bytes);
  await writeSafetensors(join(folder, 'model.safetensors'), model.stateDict(), { format: 'pt' });
}

/** Loads a decoder-only model from a folder: config.json, generation_config.json if present, and the weights. */
export async function loadModel(folder: string, architecture?: string): Promise<LoadedModel> {
  const read = await readConfig(folder);
  // a classifier's body is loaded as the causal model that it is
  const config =
    architecture === undefined
      ? read
      : { ...read, architectures: [architecture], tie_word_embeddings: true };
  const family = architectures[architectureOf(config)]!;
  const quantization = readQuantization(config);
  const generationPath = join(folder, 'generation_config.json');
  const generationConfig = (await stat(generationPath).catch(() => null))
    ? await readJsonObject(generationPath, { allowNonFinite: true })
    : {};
  const file = await openModelWeights(folder);
  const warnings = [...file.warnings];
  const bare = !file.names.some((n) => n.startsWith(family.prefix));
  checkParameterBytes(
    config,
    file.names.reduce((n, name) => n + file.info(name).bytes, 0),
  );
  const tensors = new Map<string, Tensor>();
  const weights = new Weights(tensors, {
    quantization,
    prefix: bare ? family.prefix : '',
  });
  try {
    for (const name of file.names)
      if (!ignoredTensors.test(name)) tensors.set(name, await file.get(name));
    weights.toFloat32();
    await weights.checkFinite();
    const model = family.fromWeights(config, weights);
    const unused = weights.unused().filter((n) => !(n === 'lm_head.weight' && model.head === null));
    if (unused.length > 0)
      warnings.push(
        `tensors of the checkpoint that the model does not use: ${unused.slice(0, 5).join(', ')}${unused.length > 5 ? `, … (${unused.length})` : ''}`,
      );
    weights.dispose();
    for (const [, part] of model.namedModules()) if (part instanceof Linear) part.pack();
    for (const key of ['bos_token_id', 'eos_token_id', 'pad_token_id']) {
      const id = config[key];
      if (typeof id === 'number' && id >= model.shape.vocab)
        warnings.push(
          `config.json: ${key} ${id} lies outside the vocabulary of ${model.shape.vocab} and is ignored`,
        );
    }
    return { model, config, generationConfig, warnings };
  } catch (error) {
    weights.dispose(true);
    throw error;
  }
}

/** The same model with bytes of its own, so that training one leaves the other alone. */
export function cloneModel(model: CausalLM): CausalLM {
  const copies = new Map<string, Tensor>();
  for (const [name, p] of model.namedParameters())
    copies.set(
      name,
      untracked(() => clone(p.detach())),
    );
  return architectures[architectureOf(model.config)]!.fromWeights(
    model.config,
    new Weights(copies),
  );
}

/** A config that asks for a billion layers is refused before anything is allocated: layers cost bytes in the file. */
function checkParameterBytes(config: JsonObject, bytes: number): void {
  const layers = config['n_layer'] ?? config['num_hidden_layers'];
  if (typeof layers === 'number' && layers > bytes)
    throw new ConfigError(
      `config.json asks for ${layers} layers, but the weights have only ${bytes} bytes`,
    );
}

/** Writes config.json, generation_config.json, model.safetensors and the tokenizer's files into an empty folder. */
export async function writeModel(
  folder: string,
  model: CausalLM,
  extra: {
    generationConfig?: JsonObject;
    files?: ReadonlyMap<string, Uint8Array>;
    config?: JsonObject;
  } = {},
): Promise<void> {
  await mkdir(folder, { recursive: true });
  if ((await readdir(folder)).length > 0)
    throw new FileError('ERR_FILE_EXISTS', `${folder}: not empty`);
  // saving takes weights back to their own form; the model goes on as it was
  const packed = [...model.namedModules()].flatMap(([, part]) =>
    part instanceof Linear && part.isPacked ? part : [],
  );
  const { tensors, temporary, quantization } = savedTensors(model);
  try {
    const config: JsonObject = { ...(extra.config ?? model.config) };
    delete config['quantization_config'];
    // both spellings of the element type, for old and new readers
    const half = [...tensors.values()].some((t) => t.dtype === 'bfloat16');
    config['dtype'] = half ? 'bfloat16' : 'float32';
    if ('torch_dtype' in config) config['torch_dtype'] = config['dtype'];
    if (quantization) config['quantization_config'] = quantization;
    await writeNewFile(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
    const generation = extra.generationConfig ?? {};
    if (Object.keys(generation).length > 0)
      await writeNewFile(
        join(folder, 'generation_config.json'),
        `${JSON.stringify(generation, null, 2)}\n`,
      );
    for (const [name, bytes] of extra.files ?? []) await writeNewFile(join(folder, name), bytes);
    await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  } finally {
    for (const tensor of temporary) tensor.dispose();
    for (const part of packed) part.pack();
  }
}
