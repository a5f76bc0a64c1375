// int8 quantization of a model's linear layers: symmetric, one scale per output, range clipped for the least error.
import type { CausalLM } from '../models/causal_lm.js';
import type { Int8Scheme } from '../nn/linear.js';
import { quantizeWeightI8 } from '../ops/matmul_i8.js';

export interface QuantizeOptions {
  /** w8a8: activations are quantized too, per token, on the fly. w8a16: weights only. */
  scheme: Int8Scheme;
  /** Also the token embedding (and the output head tied to it, or the separate head). */
  embeddings?: boolean;
  onProgress?: (done: number) => void;
}

/** Changes `model`: linear layers inside the blocks, and with `embeddings` the embedding and head, become int8. */
export function quantize(model: CausalLM, options: QuantizeOptions): string {
  const { scheme } = options;
  let layers = 0;
  for (const [i, block] of model.blocks.entries()) {
    for (const layer of block.linears.values()) {
      const matrix = layer.matrix();
      const { q, scale } = quantizeWeightI8(matrix);
      matrix.dispose();
      layer.setInt8(q, scale, scheme);
      layers++;
    }
    options.onProgress?.((i + 1) / model.blocks.length);
  }
  if (options.embeddings) {
    const table = quantizeWeightI8(model.tokenEmbedding.weight);
    model.tokenEmbedding.setInt8(table.q, table.scale, scheme);
    if (model.head) {
      const matrix = model.head.matrix();
      const { q, scale } = quantizeWeightI8(matrix);
      matrix.dispose();
      model.head.setInt8(q, scale, scheme);
    }
  }
  return `${layers} linear layers to int8 (${scheme}), per output channel, MSE-clipped${options.embeddings ? ', embeddings included' : ''}`;
}
