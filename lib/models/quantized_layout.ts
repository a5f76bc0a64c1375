// The compressed-tensors layout of quantized checkpoints (the format of llm-compressor and vLLM):
//   W8A8  "int-quantized":  weight int8 (out, in), weight_scale (out, 1)
//   W8A16 "pack-quantized": weight_packed int32 (out, in / 4), byte k = q + 128; weight_scale (out, 1); weight_shape
//   W4A16 "pack-quantized": weight_packed int32 (out, in / 8), nibble k = q + 8; weight_scale (out, groups); weight_shape
// GPT-2's transposed layers are written (out, in) too; only this library reads those. A file may hold two of these: int4 layers beside
// an int8 table and head.
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

/** How the layers that `targets` names (by class, Linear or Embedding, or by their own name) are quantized. */
export interface QuantizationGroup {
  readonly targets: readonly string[];
  readonly scheme: QuantScheme;
  /** Inputs that share an int4 scale; null for int8. */
  readonly group: number | null;
}

const isObject = (x: unknown): x is JsonObject =>
  typeof x === 'object' && x !== null && !Array.isArray(x);

/** What quantization_config says, or null. Methods and formats that would be misread are refused. */
export function readQuantization(config: JsonObject): QuantizationGroup[] | null {
  const q = config['quantization_config'];
  if (q === undefined || q === null) return null;
  if (typeof q !== 'object' || Array.isArray(q) || q['quant_method'] !== 'compressed-tensors')
    throw new ConfigError(
      `config.json: quantization method ${JSON.stringify(typeof q === 'object' && !Array.isArray(q) ? (q['quant_method'] ?? null) : q)} is not supported; expected compressed-tensors`,
    );
  const format = q['format'] ?? null;
  const groups = isObject(q['config_groups']) ? Object.values(q['config_groups']) : [];
  const read = (groups.length > 0 ? groups : [null]).map((part) => readGroup(part, format));
  // where there is one, it is that of every layer that has a scale
  if (read.length > 1 && read.some((g) => g.targets.some((t) => t.startsWith('re:'))))
    throw new ConfigError(
      'config.json: of several quantization groups, targets must be names or classes of layers, not patterns (re:)',
    );
  return read;
}

function readGroup(part: unknown, format: unknown): QuantizationGroup {
  const weights = isObject(part) ? part['weights'] : undefined;
  const named = isObject(part) ? part['targets'] : undefined;
  const targets = Array.isArray(named) ? named.filter((t) => typeof t === 'string') : [];
  const ok = isObject(weights) && weights['type'] === 'int' && weights['symmetric'] === true;
  const group = ok ? weights['group_size'] : null;
  const int4 =
    ok &&
    weights['num_bits'] === 4 &&
    weights['strategy'] === 'group' &&
    typeof group === 'number' &&
    group > 0 &&
    group % 32 === 0 &&
    (weights['actorder'] ?? null) === null;
  if (int4 && format === 'pack-quantized') return { targets, scheme: 'w4a16', group };
  if (!ok || weights['num_bits'] !== 8 || weights['strategy'] !== 'channel')
    throw new ConfigError(
      'config.json: supported are symmetric integer weights of 8 bits with one scale per channel, and of 4 bits with a scale per group (a multiple of 32, without reordering)',
    );
  if (format === 'int-quantized') return { targets, scheme: 'w8a8', group: null };
  if (format === 'pack-quantized') return { targets, scheme: 'w8a16', group: null };
  throw new ConfigError(
    `config.json: quantization format ${JSON.stringify(format)} is not supported; expected int-quantized or pack-quantized`,
  );
}

/** The one of `groups` that says how a layer is quantized: by its own name, else by its class; a single group is that of all. */
export function groupOf(
  groups: readonly QuantizationGroup[],
  name: string,
  kind: 'Linear' | 'Embedding',
): QuantizationGroup | undefined {
  if (groups.length === 1) return groups[0];
  return (
    groups.find((g) => g.targets.includes(name)) ?? groups.find((g) => g.targets.includes(kind))
  );
}

function quantizationConfig(groups: readonly QuantizationGroup[], ignore: string[]): JsonObject {
  return {
    quant_method: 'compressed-tensors',
    format: groups[0]!.scheme === 'w8a8' ? 'int-quantized' : 'pack-quantized',
    quantization_status: 'compressed',
    config_groups: Object.fromEntries(groups.map((g, i) => [`group_${i}`, configGroup(g)])),
    ignore,
    kv_cache_scheme: null,
    global_compression_ratio: null,
  };
}

function configGroup({ targets, scheme, group }: QuantizationGroup): JsonObject {
  const int4 = scheme === 'w4a16';
  const weights: JsonObject = {
    num_bits: int4 ? 4 : 8,
    type: 'int',
    symmetric: true,
    strategy: int4 ? 'group' : 'channel',
    group_size: group,
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
    targets: [...targets],
    weights,
    input_activations: scheme === 'w8a8' ? activations : null,
    output_activations: null,
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
  // by scheme: that of the first linear layer is that of the class, other layers are named
  const groups = new Map<QuantScheme, { targets: string[]; group: number }>();
  let linear: QuantScheme | null = null;
  for (const [name, module] of model.namedModules()) {
    if (!(module instanceof Linear || module instanceof Embedding)) continue;
    const weight = module.quantized();
    if (!weight) {
      if (module instanceof Linear) ignore.push(name);
      continue;
    }
    const { scheme } = weight;
    const mine = groups.get(scheme) ?? { targets: [], group: weight.group };
    groups.set(scheme, mine);
    if (module instanceof Linear) linear ??= scheme;
    const target = module instanceof Embedding ? 'Embedding' : scheme === linear ? 'Linear' : name;
    if (!mine.targets.includes(target)) mine.targets.push(target);
    const [rows, width] = weight.q.shape as [number, number];
    const scale = tidy(() => reshape(weight.scale, [rows, -1]));
    temporary.push(scale, weight.q, weight.scale);
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
  if (model.head === null && groups.size > 0) ignore.push('lm_head');
  // what stays float in a quantized checkpoint is stored in 16 bits, as is the custom of the format; vectors are tiny
  // and keep all theirs
  if (groups.size > 0)
    for (const [name, value] of tensors) {
      if (value.dtype !== 'float32' || value.rank !== 2 || name.endsWith('.weight_scale')) continue;
      const half = cast(value, 'float16');
      temporary.push(half);
      tensors.set(name, half);
    }
  return {
    tensors,
    temporary,
    quantization:
      groups.size === 0
        ? null
        : quantizationConfig(
            [...groups].map(([scheme, { targets, group }]) => ({
              targets,
              scheme,
              group: scheme === 'w4a16' ? group : null,
            })),
            ignore,
          ),
  };
}
