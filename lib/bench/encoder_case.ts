// The layers of BERT-base without its embeddings: twelve post-norm encoder layers on random weights, as benchmark cases.
import { noGrad } from '../autograd/modes.js';
import { LayerNorm } from '../nn/norm.js';
import { Linear } from '../nn/linear.js';
import { packedAttention } from '../ops/attention.js';
import { quantizeWeightI8 } from '../ops/matmul_i8.js';
import { ones, zeros } from '../tensor/create.js';
import { randn } from '../tensor/random.js';
import { tidy, untracked } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Case } from './cases.js';

const shape = { layers: 12, dim: 768, heads: 12, hidden: 3072 };

interface Layer {
  qkv: Linear;
  out: Linear;
  up: Linear;
  down: Linear;
  norms: [LayerNorm, LayerNorm];
}

function linear(outputs: number, inputs: number, int8: boolean): Linear {
  return untracked(() => {
    const weight = randn([outputs, inputs], { std: 0.02 });
    const layer = new Linear({ weight, bias: zeros([outputs]) });
    if (int8) {
      const { q, scale } = quantizeWeightI8(weight, { clip: false });
      layer.setInt8(q, scale, 'w8a8');
    } else layer.pack();
    return layer;
  });
}

function makeLayer(int8: boolean): Layer {
  const { dim, hidden } = shape;
  const norm = (): LayerNorm => untracked(() => new LayerNorm(ones([dim]), zeros([dim]), 1e-5));
  return {
    qkv: linear(3 * dim, dim, int8),
    out: linear(dim, dim, int8),
    up: linear(hidden, dim, int8),
    down: linear(dim, hidden, int8),
    norms: [norm(), norm()],
  };
}

function forward(layer: Layer, x: Tensor): Tensor {
  const mixed = packedAttention(layer.qkv.forward(x), shape.heads);
  const y = layer.norms[0].forward(layer.out.forward(mixed, { residual: x }));
  const inner = layer.up.forward(y, { activation: 'gelu' });
  return layer.norms[1].forward(layer.down.forward(inner, { residual: y }));
}

export function encoderCase(tokens: number, int8: boolean): Case {
  const { layers: count, dim, hidden } = shape;
  const weights = count * (4 * dim * dim + 2 * dim * hidden);
  let layers: Layer[] = [];
  return {
    kernel: `encoder ${int8 ? 'w8a8' : 'f32'}`,
    shape: `${count}x${dim}, 1x${tokens}`,
    operations: 2 * tokens * weights + 4 * count * tokens * tokens * dim,
    bytes: (int8 ? 1 : 4) * weights,
    kind: int8 ? 'i8' : 'f32',
    inputs: () => {
      layers = Array.from({ length: count }, () => makeLayer(int8));
      return [randn([1, tokens, dim])];
    },
    run: (x) =>
      tidy(() => noGrad(() => layers.reduce((y, layer) => forward(layer, y), x!.detach()))),
    dispose: () => {
      for (const { norms, ...linears } of layers)
        for (const part of [...norms, ...Object.values(linears)]) part.dispose();
    },
    peer: { op: 'encoder', tokens, int8, ...shape },
  };
}
