// The compressed-tensors layout of quantized checkpoints (the format of llm-compressor and vLLM):
//   W8A8  "int-quantized":  weight int8 (out, in), weight_scale (out, 1)
//   W8A16 "pack-quantized": weight_packed int32 (out, in / 4), byte k = q + 128; weight_scale (out, 1); weight_shape
// GPT-2's transposed layers are written (out, in) too; only this library reads those.
import type { JsonObject } from '../io/json.js';
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import type { Int8Scheme } from '../nn/linear.js';
import { cast } from '../ops/cast.js';
import { reshape } from '../ops/view.js';
import { tensor } from '../tensor/create.js';
import { ConfigError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { CausalLM } from './causal_lm.js';

/** What quantization_config says, or null. Methods and formats that would be misread are refused. */
export function readQuantization(config: JsonObject): { scheme: Int8Scheme } | null {
  const q = config['quantization_config'];
  if (q === undefined || q === null) return null;
  if (typeof q !== 'object' || Array.isArray(q) || q['quant_method'] !== 'compressed-tensors')
    throw new ConfigError(
      `config.json: quantization method ${JSON.stringify(typeof q === 'object' && !Array.isArray(q) ? (q['quant_method'] ?? null) : q)} is not supported; expected compressed-tensors`,
    );
  const groups = q['config_groups'];
  const first =
    groups && typeof groups === 'object' && !Array.isArray(groups)
      ? Object.values(groups)[0]
      : undefined;
  const weights =
    first && typeof first === 'object' && !Array.isArray(first) ? first['weights'] : undefined;
  const ok =
    weights &&
    typeof weights === 'object' &&
    !Array.isArray(weights) &&
    weights['num_bits'] === 8 &&
    weights['type'] === 'int' &&
    weights['symmetric'] === true &&
    weights['strategy'] === 'channel';
  if (!ok)
    throw new ConfigError(
      'config.json: only 8-bit symmetric integer weights with one scale per channel are supported',
    );
  if (q['format'] === 'int-quantized') return { scheme: 'w8a8' };
  if (q['format'] === 'pack-quantized') return { scheme: 'w8a16' };
  throw new ConfigError(
    `config.json: quantization format ${JSON.stringify(q['format'] ?? null)} is not supported; expected int-quantized or pack-quantized`,
  );
}

function quantizationConfig(scheme: Int8Scheme, ignore: string[], embeddings: boolean): JsonObject {
  const weights: JsonObject = {
    num_bits: 8,
    type: 'int',
    symmetric: true,
    strategy: 'channel',
    group_size: null,
    dynamic: false,
    block_structure: null,
    actorder: null,
    observer: 'mse',
    observer_kwargs: {},
  };
  const activations: JsonObject = {
    num_bits: 8,
    type: 'int',
    symmetric: true,
    strategy: 'token',
    group_size: null,
    dynamic: true,
    block_structure: null,
    actorder: null,
    observer: null,
    observer_kwargs: {},
  };
  return {
    quant_method: 'compressed-tensors',
    format: scheme === 'w8a8' ? 'int-quantized' : 'pack-quantized',
    quantization_status: 'compressed',
    config_groups: {
      group_0: {
        targets: embeddings ? ['Linear', 'Embedding'] : ['Linear'],
        weights,
        input_activations: scheme === 'w8a8' ? activations : null,
        output_activations: null,
      },
    },
    ignore,
    kv_cache_scheme: null,
    global_compression_ratio: null,
  };
}

/** q (rows, width) int8 as int32 words of four bytes q + 128, lowest first. */
function packWords(q: Int8Array, rows: number, width: number): Tensor {
  const words = Math.ceil(width / 4);
  const bytes = new Uint8Array(rows * words * 4).fill(128);
  for (let r = 0; r < rows; r++)
    for (let k = 0; k < width; k++) bytes[r * words * 4 + k] = q[r * width + k]! + 128;
  return tensor(new Int32Array(bytes.buffer), { shape: [rows, words] });
}

/** Everything to write for a model, and its quantization_config (null for a float model). */
export function int8Tensors(model: CausalLM): {
  tensors: Map<string, Tensor>;
  temporary: Tensor[];
  quantization: JsonObject | null;
} {
  const tensors = new Map(model.namedParameters());
  const temporary: Tensor[] = [];
  const ignore: string[] = [];
  let scheme: Int8Scheme | null = null;
  let embeddings = false;
  for (const [name, module] of model.namedModules()) {
    if (!(module instanceof Linear || module instanceof Embedding)) continue;
    const int8 = module.int8();
    if (!int8) {
      if (module instanceof Linear) ignore.push(name);
      continue;
    }
    scheme = module.scheme;
    embeddings ||= module instanceof Embedding;
    const [rows, width] = int8.q.shape as [number, number];
    const scale = tidy(() => reshape(int8.scale, [rows, 1]));
    temporary.push(scale);
    if (module instanceof Linear) temporary.push(int8.q);
    for (const part of ['packed', 'scale', 'q']) tensors.delete(`${name}.${part}`);
    if (scheme === 'w8a16') {
      const words = packWords(int8.q.dataSync() as Int8Array, rows, width);
      const shape = tensor(new BigInt64Array([BigInt(rows), BigInt(width)]));
      temporary.push(words, shape);
      tensors
        .set(`${name}.weight_packed`, words)
        .set(`${name}.weight_scale`, scale)
        .set(`${name}.weight_shape`, shape);
    } else {
      tensors.set(`${name}.weight`, int8.q).set(`${name}.weight_scale`, scale);
    }
  }
  if (model.head === null && scheme) ignore.push('lm_head');
  // what stays float in a quantized checkpoint is stored in 16 bits, as is the custom of the format; vectors are tiny
  // and keep all theirs
  if (scheme)
    for (const [name, value] of tensors) {
      if (value.dtype !== 'float32' || value.rank !== 2 || name.endsWith('.weight_scale')) continue;
      const half = cast(value, 'float16');
      temporary.push(half);
      tensors.set(name, half);
    }
  return {
    tensors,
    temporary,
    quantization: scheme ? quantizationConfig(scheme, ignore, embeddings) : null,
  };
}
