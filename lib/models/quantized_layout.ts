// The compressed-tensors layout of quantized checkpoints (the format of llm-compressor and vLLM):
//   W8A8  "int-quantized":  weight int8 (out, in), weight_scale (out, 1)
//   W8A16 "pack-quantized": weight_packed int32 (out, in / 4), byte k = q + 128; weight_scale (out, 1); weight_shape
//   W4A16 "pack-quantized": weight_packed int32 (out, in / 8), nibble k = q + 8; weight_scale (out, groups); weight_shape
// GPT-2's transposed layers are written (out, in) too; only this library reads those.
import type { JsonObject } from '../io/json.js';
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import type { QuantScheme } from '../nn/linear.js';
import { cast } from '../ops/cast.js';
import { reshape } from '../ops/view.js';
import { tensor } from '../tensor/create.js';
import { ConfigError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { CausalLM } from './causal_lm.js';

/** What quantization_config says, or null. Methods and formats that would be misread are refused. */
export function readQuantization(
  config: JsonObject,
): { scheme: QuantScheme; group: number | null } | null {
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
    weights['type'] === 'int' &&
    weights['symmetric'] === true;
  const group = ok ? weights['group_size'] : null;
  const int4 =
    ok &&
    weights['num_bits'] === 4 &&
    weights['strategy'] === 'group' &&
    typeof group === 'number' &&
    group > 0 &&
    group % 32 === 0 &&
    (weights['actorder'] ?? null) === null;
  if (int4 && q['format'] === 'pack-quantized') return { scheme: 'w4a16', group };
  if (!ok || weights['num_bits'] !== 8 || weights['strategy'] !== 'channel')
    throw new ConfigError(
      'config.json: supported are symmetric integer weights of 8 bits with one scale per channel, and of 4 bits with a scale per group (a multiple of 32, without reordering)',
    );
  if (q['format'] === 'int-quantized') return { scheme: 'w8a8', group: null };
  if (q['format'] === 'pack-quantized') return { scheme: 'w8a16', group: null };
  throw new ConfigError(
    `config.json: quantization format ${JSON.stringify(q['format'] ?? null)} is not supported; expected int-quantized or pack-quantized`,
  );
}

function quantizationConfig(
  scheme: QuantScheme,
  group: number,
  ignore: string[],
  embeddings: boolean,
): JsonObject {
  const int4 = scheme === 'w4a16';
  const weights: JsonObject = {
    num_bits: int4 ? 4 : 8,
    type: 'int',
    symmetric: true,
    strategy: int4 ? 'group' : 'channel',
    group_size: int4 ? group : null,
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

/** q (rows, width) as int32 words of four bytes q + 128 (8 bits) or eight nibbles q + 8 (4 bits), lowest first. */
function packWords(q: Int8Array, rows: number, width: number, bits: 4 | 8): Tensor {
  const words = Math.ceil((width * bits) / 32);
  const bytes = new Uint8Array(rows * words * 4).fill(bits === 8 ? 128 : 0x88);
  for (let r = 0; r < rows; r++)
    for (let k = 0; k < width; k++) {
      const value = q[r * width + k]!;
      if (bits === 8) bytes[r * words * 4 + k] = value + 128;
      else {
        const at = r * words * 4 + (k >> 1);
        bytes[at] =
          k % 2 === 0 ? (bytes[at]! & 0xf0) | (value + 8) : (bytes[at]! & 15) | ((value + 8) << 4);
      }
    }
  return tensor(new Int32Array(bytes.buffer), { shape: [rows, words] });
}

/** The values of such words. → (rows, width) int8 */
export function unpackWords(packed: Tensor, rows: number, width: number, bits: 4 | 8): Tensor {
  return tidy(() => {
    const words = packed.dataSync() as Int32Array;
    const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    const perRow = Math.ceil((width * bits) / 32) * 4;
    const q = new Int8Array(rows * width);
    for (let r = 0; r < rows; r++)
      for (let k = 0; k < width; k++) {
        const byte = bytes[r * perRow + (bits === 8 ? k : k >> 1)]!;
        q[r * width + k] = bits === 8 ? byte - 128 : (k % 2 === 0 ? byte & 15 : byte >> 4) - 8;
      }
    return tensor(q, { shape: [rows, width] });
  });
}

/** Everything to write for a model, and its quantization_config (null for a float model). */
export function savedTensors(model: CausalLM): {
  tensors: Map<string, Tensor>;
  temporary: Tensor[];
  quantization: JsonObject | null;
} {
  const tensors = new Map(model.namedParameters());
  const temporary: Tensor[] = [];
  const ignore: string[] = [];
  let scheme: QuantScheme | null = null;
  let group = 0;
  let embeddings = false;
  for (const [name, module] of model.namedModules()) {
    if (!(module instanceof Linear || module instanceof Embedding)) continue;
    const weight = module.quantized();
    if (!weight) {
      if (module instanceof Linear) ignore.push(name);
      continue;
    }
    scheme = weight.scheme;
    group = weight.group;
    embeddings ||= module instanceof Embedding;
    const [rows, width] = weight.q.shape as [number, number];
    const scale = tidy(() => reshape(weight.scale, [rows, -1]));
    temporary.push(scale);
    if (module instanceof Linear) temporary.push(weight.q, weight.scale);
    for (const part of ['packed', 'scale', 'q']) tensors.delete(`${name}.${part}`);
    if (scheme !== 'w8a8') {
      const words = packWords(
        weight.q.dataSync() as Int8Array,
        rows,
        width,
        scheme === 'w4a16' ? 4 : 8,
      );
      const shape = tensor(new BigInt64Array([BigInt(rows), BigInt(width)]));
      temporary.push(words, shape);
      tensors
        .set(`${name}.weight_packed`, words)
        .set(`${name}.weight_scale`, scale)
        .set(`${name}.weight_shape`, shape);
    } else {
      tensors.set(`${name}.weight`, weight.q).set(`${name}.weight_scale`, scale);
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
    quantization: scheme ? quantizationConfig(scheme, group, ignore, embeddings) : null,
  };
}
