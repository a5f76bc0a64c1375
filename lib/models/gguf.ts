// A model folder as one GGUF file for llama.cpp and what is built on it: the names and settings of its "gpt2", "llama" and "qwen2"
// architectures (github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py and tensor_mapping.py).
import { stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { blockScales, ggufTypes, packQ4, packQ8, writeGguf } from '../io/gguf.js';
import type { GgufTensor, GgufType, GgufValue } from '../io/gguf.js';
import { readJsonObject } from '../io/json.js';
import type { JsonObject } from '../io/json.js';
import { rawBytes } from '../io/safetensors.js';
import { Linear } from '../nn/linear.js';
import * as check from '../ops/check.js';
import { cast, contiguous } from '../ops/cast.js';
import { reshape, transpose } from '../ops/view.js';
import { tensor } from '../tensor/create.js';
import { ConfigError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { CausalLM } from './causal_lm.js';
import { ggufTokenizer } from './gguf_tokenizer.js';
import { loadModel } from './registry.js';

export interface GgufOptions {
  /** Of the matrices. Norms, biases and positions stay float32; rows that are no multiple of 32 numbers float16. Default f16. */
  type?: GgufType;
  /** Called with the part done, in [0, 1]. */
  onProgress?: (done: number) => void;
}

export interface GgufResult {
  path: string;
  architecture: string;
  tensors: number;
  bytes: number;
  warnings: string[];
}

interface Family {
  architecture: string;
  /** Names of modules to names in the file. */
  names: readonly (readonly [pattern: RegExp, name: string])[];
  metadata: (model: CausalLM, config: JsonObject) => Record<string, GgufValue>;
  /** Whether queries and keys have the halves of each head interleaved, as llama.cpp's "llama" wants them. */
  interleaved: boolean;
}

const gpt2: Family = {
  architecture: 'gpt2',
  interleaved: false,
  names: [
    [/^transformer\.wte\./, 'token_embd.'],
    [/^transformer\.wpe\./, 'position_embd.'],
    [/^transformer\.ln_f\./, 'output_norm.'],
    [/^lm_head\./, 'output.'],
    [/^transformer\.h\.(\d+)\.ln_1\./, 'blk.$1.attn_norm.'],
    [/^transformer\.h\.(\d+)\.attn\.c_attn\./, 'blk.$1.attn_qkv.'],
    [/^transformer\.h\.(\d+)\.attn\.c_proj\./, 'blk.$1.attn_output.'],
    [/^transformer\.h\.(\d+)\.ln_2\./, 'blk.$1.ffn_norm.'],
    [/^transformer\.h\.(\d+)\.mlp\.c_fc\./, 'blk.$1.ffn_up.'],
    [/^transformer\.h\.(\d+)\.mlp\.c_proj\./, 'blk.$1.ffn_down.'],
  ],
  metadata: (_, config) => {
    const activation = config['activation_function'] ?? 'gelu_new';
    if (activation !== 'gelu_new' && activation !== 'gelu_pytorch_tanh')
      throw new ConfigError(
        `GGUF export: llama.cpp runs GPT-2 with activation_function gelu_new, this model has ${JSON.stringify(activation)}`,
      );
    for (const [key, usual] of [
      ['scale_attn_by_inverse_layer_idx', false],
      ['scale_attn_weights', true],
    ] as const)
      if ((config[key] ?? usual) !== usual)
        throw new ConfigError(`GGUF export: llama.cpp has no ${key} other than ${usual}`);
    return {
      'attention.layer_norm_epsilon': { float32: Number(config['layer_norm_epsilon'] ?? 1e-5) },
    };
  },
};

const llamaNames: Family['names'] = [
  [/^model\.embed_tokens\./, 'token_embd.'],
  [/^model\.norm\./, 'output_norm.'],
  [/^lm_head\./, 'output.'],
  [/^model\.layers\.(\d+)\.input_layernorm\./, 'blk.$1.attn_norm.'],
  [/^model\.layers\.(\d+)\.self_attn\.([qkv])_proj\./, 'blk.$1.attn_$2.'],
  [/^model\.layers\.(\d+)\.self_attn\.o_proj\./, 'blk.$1.attn_output.'],
  [/^model\.layers\.(\d+)\.post_attention_layernorm\./, 'blk.$1.ffn_norm.'],
  [/^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\./, 'blk.$1.ffn_$2.'],
];

function llamaMetadata(model: CausalLM, config: JsonObject): Record<string, GgufValue> {
  const { kvHeads, headDim } = model.shape;
  const nested = config['rope_parameters'];
  const rope = (
    nested && typeof nested === 'object' && !Array.isArray(nested) ? nested : config
  ) as JsonObject;
  const scaling = nested ?? config['rope_scaling'];
  const kind =
    scaling && typeof scaling === 'object' && !Array.isArray(scaling)
      ? (scaling['rope_type'] ?? scaling['type'] ?? 'default')
      : 'default';
  if (kind !== 'default')
    throw new ConfigError(
      `GGUF export: rope scaling ${JSON.stringify(kind)} is not written yet; expected none`,
    );
  const window = config['sliding_window'];
  if (
    typeof window === 'number' &&
    window < model.shape.context &&
    config['model_type'] !== 'llama'
  )
    throw new ConfigError('GGUF export: a sliding window is not written yet');
  return {
    'attention.head_count_kv': { uint32: kvHeads },
    'attention.key_length': { uint32: headDim },
    'attention.value_length': { uint32: headDim },
    'attention.layer_norm_rms_epsilon': { float32: Number(config['rms_norm_eps'] ?? 1e-6) },
    'rope.freq_base': { float32: Number(rope['rope_theta'] ?? config['rope_theta'] ?? 10_000) },
    'rope.dimension_count': { uint32: headDim },
  };
}

const families: Record<string, Family> = {
  gpt2,
  llama: {
    architecture: 'llama',
    interleaved: true,
    names: llamaNames,
    metadata: llamaMetadata,
  },
  qwen2: {
    architecture: 'qwen2',
    interleaved: false,
    names: llamaNames,
    metadata: llamaMetadata,
  },
};
families['mistral'] = families['llama']!;

function familyOf(config: JsonObject): Family {
  const type = config['model_type'];
  const family = typeof type === 'string' ? families[type] : undefined;
  if (!family)
    throw new ConfigError(
      `GGUF export: model_type ${JSON.stringify(type ?? null)} is not supported; expected one of ${Object.keys(families).join(', ')}`,
    );
  return family;
}

const fileTypes: Record<GgufType, number> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 };

async function halves(values: Tensor, dtype: 'float16' | 'bfloat16'): Promise<Uint8Array> {
  const half = cast(values, dtype);
  try {
    return await rawBytes(half);
  } finally {
    half.dispose();
  }
}

async function encode(matrix: Tensor, type: GgufType): Promise<Uint8Array> {
  if (type === 'f16') return halves(matrix, 'float16');
  if (type === 'bf16') return halves(matrix, 'bfloat16');
  if (type === 'f32') return rawBytes(matrix);
  const values = (await matrix.data()) as Float32Array;
  const exact = blockScales(type, values);
  const scales = tensor(exact);
  try {
    const bits = await halves(scales, 'float16');
    const words = new Uint16Array(bits.buffer, bits.byteOffset, exact.length);
    return (type === 'q8_0' ? packQ8 : packQ4)(values, words, exact);
  } finally {
    scales.dispose();
  }
}

/** Rows of a query or key projection from halves [0 … D/2) [D/2 … D) of each head to neighbours (0, D/2), (1, D/2 + 1), …. */
function interleave(x: Tensor, heads: number): Tensor {
  const [rows, ...rest] = x.shape as [number, ...number[]];
  const pairs = reshape(contiguous(x), [heads, 2, rows / heads / 2, ...rest]);
  return reshape(contiguous(transpose(pairs, 1, 2)), [...x.shape]);
}

/**
 * Writes the model of `folder` with its tokenizer as one GGUF file; an existing file at `path` is replaced in one step. Architectures:
 * GPT-2, Llama, Mistral, Qwen2. Quantized folders are refused: GGUF has its own quantization, which wants the float weights.
 * Errors: ConfigError where llama.cpp has no equal of what the model or its tokenizer does, FileError where files cannot be read or
 * written.
 */
export async function exportGguf(
  folder: string,
  path: string,
  options: GgufOptions = {},
): Promise<GgufResult> {
  check.knownOptions('exportGguf', options, ['type', 'onProgress']);
  const { type = 'f16', onProgress } = options;
  check.oneOf('exportGguf', 'type', type, ggufTypes);
  const { model, config, warnings } = await loadModel(folder);
  try {
    const family = familyOf(config);
    const linears = new Map<string, Linear>();
    for (const [name, part] of model.namedModules())
      if (part instanceof Linear) {
        if (part.scheme)
          throw new ConfigError(
            `GGUF export: ${folder} is quantized (${part.scheme}); export the float checkpoint, and let --type quantize`,
          );
        linears.set(`${name}.weight`, part);
      }
    const { layers, hidden, heads, kvHeads, ffn, vocab, context } = model.shape;
    const metadata = new Map<string, GgufValue>([
      ['general.architecture', { string: family.architecture }],
      ['general.name', { string: basename(resolve(folder)) }],
      ['general.file_type', { uint32: fileTypes[type] }],
      ['general.quantization_version', { uint32: 2 }],
    ]);
    const settings: Record<string, GgufValue> = {
      vocab_size: { uint32: vocab },
      context_length: { uint32: context },
      embedding_length: { uint32: hidden },
      block_count: { uint32: layers },
      feed_forward_length: { uint32: ffn },
      'attention.head_count': { uint32: heads },
      ...family.metadata(model, config),
    };
    for (const [key, value] of Object.entries(settings))
      metadata.set(`${family.architecture}.${key}`, value);
    const tokenizerPath = join(folder, 'tokenizer.json');
    const exists = (file: string): Promise<boolean> =>
      stat(file).then(
        () => true,
        () => false,
      );
    if (await exists(tokenizerPath)) {
      const tokenizer = await readJsonObject(tokenizerPath);
      const settingsPath = join(folder, 'tokenizer_config.json');
      const given = (await exists(settingsPath)) ? await readJsonObject(settingsPath) : {};
      for (const [key, value] of ggufTokenizer(tokenizer, given, vocab, family.architecture))
        metadata.set(key, value);
    } else {
      metadata.set('tokenizer.ggml.model', { string: 'no_vocab' });
      warnings.push('no tokenizer.json: the file has no vocabulary');
    }
    const tensors: GgufTensor[] = [];
    for (const [name, parameter] of model.namedParameters()) {
      const rule = family.names.find(([pattern]) => pattern.test(name));
      if (!rule)
        throw new ConfigError(`GGUF export: tensor ${JSON.stringify(name)} has no name there`);
      const title = name.replace(rule[0], rule[1]);
      const linear = linears.get(name);
      const shape = linear ? [linear.outFeatures, linear.inFeatures] : [...parameter.shape];
      const plain = shape.length === 1 || title === 'position_embd.weight';
      const short = (type === 'q8_0' || type === 'q4_0') && shape.at(-1)! % 32 !== 0;
      // as in llama.cpp's own files the token table is not cut to 4 bits
      const matrixType = type === 'q4_0' && /^(token_embd|output)\./.test(title) ? 'q8_0' : type;
      const turn = family.interleaved && /\.attn_[qk]\./.test(title);
      const turned = title.includes('.attn_q.') ? heads : kvHeads;
      const stored = plain ? 'f32' : short ? 'f16' : matrixType;
      tensors.push({
        name: title,
        shape,
        type: stored,
        bytes: async () => {
          const matrix = linear ? linear.matrix() : parameter.detach();
          const laid = tidy(() => (turn ? interleave(matrix, turned) : contiguous(matrix)));
          try {
            return await encode(laid, stored);
          } finally {
            laid.dispose();
            matrix.dispose();
          }
        },
      });
    }
    await writeGguf(path, metadata, tensors, onProgress);
    const { size } = await stat(path);
    return {
      path,
      architecture: family.architecture,
      tensors: tensors.length,
      bytes: size,
      warnings,
    };
  } finally {
    model.dispose();
  }
}
