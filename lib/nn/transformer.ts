// Transformer parts for building models by hand: attention, feed-forward, blocks, encoder and decoder (Vaswani et al. 2017, with
// pre-norm as an option, arXiv 2002.04745). Parameter names and layouts are those of torch.nn, so that its state dicts load.
// B batch, T time, S source time, C channels, H heads.
import { attention, packedAttention } from '../ops/attention.js';
import { contiguous } from '../ops/cast.js';
import { dropout } from '../ops/dropout.js';
import { add, mul, notEqual, swiglu, where } from '../ops/elementwise.js';
import { linear, matmul } from '../ops/matmul.js';
import type { Activation } from '../ops/linear_end.js';
import { softmax } from '../ops/softmax.js';
import { permute, reshape, slice, transpose, tril } from '../ops/view.js';
import { empty, ones, zeros } from '../tensor/create.js';
import { ConfigError, OptionError } from '../tensor/errors.js';
import { defaultGenerator } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import * as init from './init.js';
import { Linear } from './linear.js';
import { Module } from './module.js';
import { LayerNorm } from './norm.js';

type FloatDType = 'float32' | 'float64';

export class Dropout extends Module {
  readonly p: number;
  constructor(p: number) {
    super();
    if (!(p >= 0 && p < 1)) throw new OptionError(`Dropout: p must be from 0 to 1, got ${p}`);
    this.p = p;
  }
  /** (…) → (…); the identity outside training. */
  forward(x: Tensor): Tensor {
    return this.training && this.p > 0 ? dropout(x, this.p) : x;
  }
}

export interface AttentionOptions {
  /** C */
  embedDim: number;
  numHeads: number;
  dropout?: number;
  generator?: Generator;
  dtype?: FloatDType;
}

export interface AttentionCall {
  causal?: boolean;
  /** (B, S): 1 for keys that count, 0 for padding. */
  keyMask?: Tensor | null;
  /** Also return the probabilities (B, H, T, S). */
  needWeights?: boolean;
  /** (B, T, C), added to the output. */
  residual?: Tensor | null;
}

/** torch.nn.MultiheadAttention with batchFirst. */
export class MultiHeadAttention extends Module {
  readonly embedDim: number;
  readonly numHeads: number;
  readonly inProjWeight: Tensor;
  readonly inProjBias: Tensor;
  readonly outProj: Linear;
  readonly #dropout: number;

  constructor(options: AttentionOptions) {
    super();
    const { embedDim: c, numHeads, generator = defaultGenerator(), dtype = 'float32' } = options;
    if (c % numHeads !== 0)
      throw new ConfigError(
        `MultiHeadAttention: embedDim ${c} is not a multiple of numHeads ${numHeads}`,
      );
    this.embedDim = c;
    this.numHeads = numHeads;
    this.#dropout = options.dropout ?? 0;
    this.inProjWeight = this.register(
      'in_proj_weight',
      init.xavierUniform(empty([3 * c, c], dtype), { generator }),
    );
    this.inProjBias = this.register('in_proj_bias', zeros([3 * c], { dtype }));
    this.outProj = this.register('out_proj', new Linear(c, c, { generator, dtype }));
    init.constant(this.outProj.bias!, 0);
  }

  /** query (B, T, C), source (B, S, C) for keys and values; the query itself by default → (B, T, C) */
  forward(
    query: Tensor,
    source: Tensor = query,
    call: AttentionCall = {},
  ): { output: Tensor; weights: Tensor | null } {
    const c = this.embedDim;
    const h = this.numHeads;
    const { residual = null } = call;
    return tidy(() => {
      const part = (x: Tensor, from: number, to: number): Tensor => {
        const [b, t] = x.shape as [number, number];
        const y = linear(
          x,
          slice(this.inProjWeight, 0, from * c, to * c),
          contiguous(slice(this.inProjBias, 0, from * c, to * c)),
        );
        return reshape(y, [b, t, to - from, h, c / h]);
      };
      const pick = (x: Tensor, i: number): Tensor =>
        permute(reshape(slice(x, 2, i, i + 1), [x.shape[0]!, x.shape[1]!, h, c / h]), [0, 2, 1, 3]);
      const same = source === query;
      const drop = this.training ? this.#dropout : 0;
      const qkv = same ? part(query, 0, 3) : null;
      if (qkv && !call.keyMask && drop === 0 && !call.needWeights) {
        const packed = reshape(qkv, [qkv.shape[0]!, qkv.shape[1]!, 3 * c]);
        const mixed = packedAttention(packed, h, { causal: call.causal ?? false });
        return { output: this.outProj.forward(mixed, { residual }), weights: null };
      }
      const kv = qkv ?? part(source, 1, 3);
      const q = pick(qkv ?? part(query, 0, 1), 0);
      const [k, v] = [pick(kv, same ? 1 : 0), pick(kv, same ? 2 : 1)];
      const [b, , t] = q.shape as [number, number, number];
      const mask = call.keyMask
        ? reshape(notEqual(call.keyMask, 0), [b, 1, 1, call.keyMask.shape[1]!])
        : null;
      let weights: Tensor | null = null;
      let mixed: Tensor;
      if (drop > 0 || call.needWeights) {
        let scores = mul(matmul(q, transpose(k)), 1 / Math.sqrt(c / h));
        if (mask) scores = where(mask, scores, -Infinity);
        if (call.causal)
          scores = where(
            notEqual(tril(ones([t, k.shape[2]!], { device: q.device })), 0),
            scores,
            -Infinity,
          );
        weights = softmax(scores);
        mixed = matmul(drop > 0 ? dropout(weights, drop) : weights, v);
      } else mixed = attention(q, k, v, { causal: call.causal ?? false, mask });
      const joined = reshape(contiguous(permute(mixed, [0, 2, 1, 3])), [b, t, c]);
      return {
        output: this.outProj.forward(joined, { residual }),
        weights: call.needWeights ? weights : null,
      };
    });
  }
}

export interface MLPOptions {
  dim: number;
  hidden: number;
  /** swiglu has a gate beside the inner layer (arXiv 2002.05202). */
  activation?: Activation | 'swiglu';
  dropout?: number;
  generator?: Generator;
  dtype?: FloatDType;
}

/**
 * silu(gate(x)) ⊙ up(x) (arXiv 2002.05202). For inference within the products; for training by the kernel that keeps neither
 * activation: x (…, dim) → (…, hidden)
 */
export function gatedUp(gate: Linear, up: Linear, x: Tensor): Tensor {
  return tidy(() => {
    if (gate.records(x) || up.records(x)) return swiglu(gate.forward(x), up.forward(x));
    return up.forward(x, { gate: gate.forward(x, { activation: 'silu' }) });
  });
}

/** Feed-forward: down(activation(up(x))), or down(silu(gate(x)) up(x)) for swiglu. */
export class MLP extends Module {
  readonly up: Linear;
  readonly down: Linear;
  readonly gate: Linear | null;
  readonly #activation: Activation | 'swiglu';
  readonly #dropout: Dropout;

  constructor(options: MLPOptions) {
    super();
    const { dim, hidden, activation = 'gelu', generator = defaultGenerator() } = options;
    const { dtype = 'float32' } = options;
    this.#activation = activation;
    const swiglu1 = activation === 'swiglu';
    this.up = this.register(
      swiglu1 ? 'up_proj' : 'linear1',
      new Linear(dim, hidden, { generator, dtype, bias: !swiglu1 }),
    );
    this.gate = swiglu1
      ? this.register('gate_proj', new Linear(dim, hidden, { generator, dtype, bias: false }))
      : null;
    this.down = this.register(
      swiglu1 ? 'down_proj' : 'linear2',
      new Linear(hidden, dim, { generator, dtype, bias: !swiglu1 }),
    );
    this.#dropout = this.register('dropout', new Dropout(options.dropout ?? 0));
  }

  /** x (…, dim) → (…, dim), plus `residual` of that shape. */
  forward(x: Tensor, residual: Tensor | null = null): Tensor {
    return tidy(() => {
      const inner = this.gate
        ? gatedUp(this.gate, this.up, x)
        : this.up.forward(x, { activation: this.#activation as Activation });
      return this.down.forward(this.#dropout.forward(inner), { residual });
    });
  }
}

/** What a residual connection goes around, and is added to by its last product where it is given. */
type Branch = (x: Tensor, residual: Tensor | null) => Tensor;

export interface TransformerLayerOptions {
  dim: number;
  heads: number;
  hidden: number;
  activation?: Activation | 'swiglu';
  dropout?: number;
  /** Norm before each branch instead of after the sum. Default true. */
  preNorm?: boolean;
  generator?: Generator;
  dtype?: FloatDType;
}

/** Self-attention and feed-forward, each with its residual; a decoder layer also attends to a source. */
export class TransformerLayer extends Module {
  readonly selfAttention: MultiHeadAttention;
  readonly crossAttention: MultiHeadAttention | null;
  readonly mlp: MLP;
  readonly #norms: LayerNorm[];
  readonly #dropout: Dropout;
  readonly #preNorm: boolean;

  constructor(options: TransformerLayerOptions, decoder: boolean = false) {
    super();
    const { dim, heads, hidden, activation = 'gelu', generator = defaultGenerator() } = options;
    const { dropout: p = 0, dtype = 'float32' } = options;
    this.#preNorm = options.preNorm ?? true;
    const attend = (): MultiHeadAttention =>
      new MultiHeadAttention({ embedDim: dim, numHeads: heads, dropout: p, generator, dtype });
    this.selfAttention = this.register('self_attn', attend());
    this.crossAttention = decoder ? this.register('multihead_attn', attend()) : null;
    this.mlp = this.register(
      '', // torch.nn has linear1 and linear2 in the layer itself
      new MLP({ dim, hidden, activation, dropout: p, generator, dtype }),
    );
    this.#norms = Array.from({ length: decoder ? 3 : 2 }, (_, i) =>
      this.register(`norm${i + 1}`, new LayerNorm(dim, { dtype })),
    );
    this.#dropout = this.register('dropout', new Dropout(p));
  }

  /** x (B, T, C), source (B, S, C) for decoders → (B, T, C) */
  forward(
    x: Tensor,
    call: {
      causal?: boolean;
      keyMask?: Tensor | null;
      source?: Tensor;
      sourceMask?: Tensor | null;
    } = {},
  ): Tensor {
    const { source, sourceMask = null, keyMask = null, causal = false } = call;
    if ((source !== undefined) !== (this.crossAttention !== null))
      throw new OptionError(
        this.crossAttention
          ? 'TransformerLayer: a decoder layer needs a source'
          : 'TransformerLayer: an encoder layer takes no source',
      );
    return tidy(() => {
      const { selfAttention, crossAttention } = this;
      const branches: Branch[] = [
        (y, residual) => selfAttention.forward(y, y, { causal, keyMask, residual }).output,
      ];
      if (crossAttention)
        branches.push((y, residual) => {
          const to = { keyMask: sourceMask, residual };
          return crossAttention.forward(y, source!, to).output;
        });
      branches.push((y, residual) => this.mlp.forward(y, residual));
      const drops = this.training && this.#dropout.p > 0;
      const added = (branch: Branch, from: Tensor, to: Tensor): Tensor =>
        drops ? add(to, this.#dropout.forward(branch(from, null))) : branch(from, to);
      let y = x;
      branches.forEach((branch, i) => {
        const norm = this.#norms[i]!;
        y = this.#preNorm ? added(branch, norm.forward(y), y) : norm.forward(added(branch, y, y));
      });
      return y;
    });
  }
}

class Stack extends Module {
  readonly layers: readonly TransformerLayer[];
  readonly #norm: LayerNorm | null;

  constructor(count: number, options: TransformerLayerOptions, decoder: boolean) {
    super();
    this.layers = Array.from({ length: count }, (_, i) =>
      this.register(`layers.${i}`, new TransformerLayer(options, decoder)),
    );
    this.#norm =
      (options.preNorm ?? true)
        ? this.register(
            'norm',
            new LayerNorm(options.dim, options.dtype ? { dtype: options.dtype } : {}),
          )
        : null;
  }

  protected run(x: Tensor, call: Parameters<TransformerLayer['forward']>[1]): Tensor {
    return tidy(() => {
      let y = x;
      for (const layer of this.layers) y = layer.forward(y, call);
      return this.#norm ? this.#norm.forward(y) : y;
    });
  }
}

/** A stack of layers in which every position sees every other. */
export class TransformerEncoder extends Stack {
  constructor(count: number, options: TransformerLayerOptions) {
    super(count, options, false);
  }
  /** x (B, T, C), mask (B, T) → (B, T, C) */
  forward(x: Tensor, call: { keyMask?: Tensor | null; causal?: boolean } = {}): Tensor {
    return this.run(x, call);
  }
}

/** A stack of causal layers that also attend to a source. */
export class TransformerDecoder extends Stack {
  constructor(count: number, options: TransformerLayerOptions) {
    super(count, options, true);
  }
  /** x (B, T, C), source (B, S, C) → (B, T, C) */
  forward(
    x: Tensor,
    source: Tensor,
    call: { keyMask?: Tensor | null; sourceMask?: Tensor | null } = {},
  ): Tensor {
    return this.run(x, { causal: true, source, ...call });
  }
}
