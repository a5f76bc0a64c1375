// Quantization of a model's linear layers: symmetric; int8 with one scale per output, int4 with one per output and group; ranges clipped
// for the least error.
import type { CausalLM } from './causal_lm.js';
import type { Linear, QuantScheme } from '../nn/linear.js';
import { quantizeWeightI4 } from '../ops/matmul_i4.js';
import { quantizeWeightI8 } from '../ops/matmul_i8.js';
import { OptionError } from '../tensor/errors.js';

export interface QuantizeOptions {
  /** w8a8: activations are quantized too, per token, on the fly. w8a16, w4a16: weights only. */
  scheme: QuantScheme;
  /** Inputs that share an int4 scale, a multiple of 32. Default 128. */
  group?: number;
  /** Also the token embedding (and the output head tied to it, or the separate head). */
  embeddings?: boolean;
  /** Of those: 8 (default), or 4 with w4a16, in the same groups. Heads suffer more from 4 bits than layers do. */
  embeddingBits?: 8 | 4;
  onProgress?: (done: number) => void;
}

function quantizeLinear(layer: Linear, scheme: QuantScheme, group: number): void {
  const matrix = layer.matrix();
  try {
    if (scheme === 'w4a16') {
      const { q, scale } = quantizeWeightI4(matrix, { group });
      layer.setInt4(q, scale, group);
    } else {
      const { q, scale } = quantizeWeightI8(matrix);
      layer.setInt8(q, scale, scheme);
    }
  } finally {
    matrix.dispose();
  }
}

/** Changes `model`: linear layers inside the blocks, and with `embeddings` the embedding and head, become integers. */
export function quantize(model: CausalLM, options: QuantizeOptions): string {
  const { scheme, group = 128, embeddingBits: bits = 8 } = options;
  if (bits !== 8 && (bits !== 4 || scheme !== 'w4a16'))
    throw new OptionError(
      `quantize: embeddingBits must be 8, or 4 with scheme w4a16; got ${String(bits)} with ${scheme}`,
    );
  let layers = 0;
  for (const [i, block] of model.blocks.entries()) {
    for (const layer of block.linears.values()) {
      quantizeLinear(layer, scheme, group);
      layers++;
    }
    options.onProgress?.((i + 1) / model.blocks.length);
  }
  if (options.embeddings) {
    const { weight } = model.tokenEmbedding;
    if (bits === 4) {
      const { q, scale } = quantizeWeightI4(weight, { group });
      model.tokenEmbedding.setInt4(q, scale, group);
    } else {
      const { q, scale } = quantizeWeightI8(weight);
      model.tokenEmbedding.setInt8(q, scale, scheme === 'w8a8' ? 'w8a8' : 'w8a16');
    }
    if (model.head)
      quantizeLinear(model.head, scheme === 'w4a16' && bits === 8 ? 'w8a16' : scheme, group);
  }
  const tables = !options.embeddings
    ? ''
    : scheme === 'w4a16' && bits === 8
      ? ', embeddings to int8'
      : ', embeddings included';
  if (scheme === 'w4a16')
    return `${layers} linear layers to int4 (${scheme}), a scale per output and ${group} inputs, MSE-clipped${tables}`;
  return `${layers} linear layers to int8 (${scheme}), per output channel, MSE-clipped${tables}`;
}
