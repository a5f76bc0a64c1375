// GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, one fused query-key-value layer, GELU feed-forward.
// B batch, T time, C channels, H heads, D head size.
import type { JsonObject } from '../io/json.js';
import type { Embedding } from '../nn/embedding.js';
import type { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { LayerNorm } from '../nn/norm.js';
import { dropout } from '../ops/dropout.js';
import { add } from '../ops/elementwise.js';
import { embedding } from '../ops/index_select.js';
import type { Activation } from '../ops/linear_end.js';
import { slice } from '../ops/view.js';
import { ConfigError } from '../tensor/errors.js';
import { randn } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { ones, zeros } from '../tensor/create.js';
import { tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { CausalLM, attendPacked } from './causal_lm.js';
import type { AttentionInput, Block, Collect, ForwardInput, Shape } from './causal_lm.js';
import { ConfigReader } from './config.js';
import { Weights } from './weights.js';

interface GPT2Config {
  shape: Shape;
  eps: number;
  activation: Activation;
  scaleWeights: boolean;
  scaleByLayer: boolean;
  tied: boolean;
  dropout: Dropouts;
}

/** Probabilities of dropping, in training: after the embeddings, of attention weights, at the end of each branch. */
interface Dropouts {
  embedding: number;
  attention: number;
  residual: number;
}

function readConfig(json: JsonObject): GPT2Config {
  const c = new ConfigReader(json, 'gpt2');
  const hidden = c.int('n_embd');
  const heads = c.int('n_head');
  c.require(hidden % heads === 0, `n_embd ${hidden} is not a multiple of n_head ${heads}`);
  return {
    shape: {
      layers: c.int('n_layer', 1, 100_000),
      hidden,
      heads,
      kvHeads: heads,
      headDim: hidden / heads,
      ffn: c.optionalInt('n_inner') ?? 4 * hidden,
      vocab: c.int('vocab_size'),
      context: c.int('n_positions'),
    },
    eps: c.float('layer_norm_epsilon', 1e-5),
    activation: c.activation('activation_function', 'gelu_new'),
    scaleWeights: c.bool('scale_attn_weights', true),
    scaleByLayer: c.bool('scale_attn_by_inverse_layer_idx', false),
    tied: c.bool('tie_word_embeddings', true),
    dropout: {
      embedding: c.probability('embd_pdrop', 0.1),
      attention: c.probability('attn_pdrop', 0.1),
      residual: c.probability('resid_pdrop', 0.1),
    },
  };
}

class GPT2Block extends Module implements Block {
  readonly #heads: number;
  readonly #scale: number;
  readonly #activation: Activation;
  readonly #dropout: Dropouts;
  readonly ln1: LayerNorm;
  readonly cAttn: Linear;
  readonly attentionOutput: Linear;
  readonly ln2: LayerNorm;
  readonly cFc: Linear;
  readonly ffnOutput: Linear;

  constructor(
    parts: {
      ln1: LayerNorm;
      cAttn: Linear;
      cProj: Linear;
      ln2: LayerNorm;
      cFc: Linear;
      mlpProj: Linear;
    },
    heads: number,
    scale: number,
    activation: Activation,
    drop: Dropouts,
  ) {
    super();
    this.#dropout = drop;
    this.#heads = heads;
    this.#scale = scale;
    this.#activation = activation;
    this.ln1 = this.register('ln_1', parts.ln1);
    this.cAttn = this.register('attn.c_attn', parts.cAttn);
    this.attentionOutput = this.register('attn.c_proj', parts.cProj);
    this.ln2 = this.register('ln_2', parts.ln2);
    this.cFc = this.register('mlp.c_fc', parts.cFc);
    this.ffnOutput = this.register('mlp.c_proj', parts.mlpProj);
  }

  get ffnInputs(): readonly Linear[] {
    return [this.cFc];
  }

  get linears(): ReadonlyMap<string, Linear> {
    return new Map([
      ['attn.c_attn', this.cAttn],
      ['attn.c_proj', this.attentionOutput],
      ['mlp.c_fc', this.cFc],
      ['mlp.c_proj', this.ffnOutput],
    ]);
  }

  forward(x: Tensor, input: AttentionInput): Tensor {
    return tidy(() => {
      const qkv = this.cAttn.forward(this.ln1.forward(x)); // (B, T, 3C)
      const drop = this.training ? this.#dropout.attention : 0;
      const given = drop > 0 ? { ...input, dropout: drop } : input;
      const joined = attendPacked(qkv, this.#heads, given, this.#scale);
      const middle = this.#addBranch(x, this.attentionOutput, joined);
      const neurons = this.cFc.forward(this.ln2.forward(middle), { activation: this.#activation });
      return this.#addBranch(middle, this.ffnOutput, neurons);
    });
  }

  #addBranch(residual: Tensor, layer: Linear, x: Tensor): Tensor {
    const p = this.training ? this.#dropout.residual : 0;
    return p > 0 ? add(residual, dropout(layer.forward(x), p)) : layer.forward(x, { residual });
  }

  share(): GPT2Block {
    return new GPT2Block(
      {
        ln1: this.ln1.share(),
        cAttn: this.cAttn.share(),
        cProj: this.attentionOutput.share(),
        ln2: this.ln2.share(),
        cFc: this.cFc.share(),
        mlpProj: this.ffnOutput.share(),
      },
      this.#heads,
      this.#scale,
      this.#activation,
      this.#dropout,
    );
  }
}

interface GPT2Parts {
  wte: Embedding;
  wpe: Tensor;
  blocks: GPT2Block[];
  lnF: LayerNorm;
  head: Linear | null;
}

export class GPT2LMHeadModel extends CausalLM {
  static readonly architecture = 'GPT2LMHeadModel';
  readonly #config: JsonObject;
  readonly #shape: Shape;
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly GPT2Block[];
  readonly head: Linear | null;
  readonly #wpe: Tensor;
  readonly #lnF: LayerNorm;
  readonly #dropout: Dropouts;

  private constructor(config: JsonObject, parts: GPT2Parts) {
    super();
    this.#config = config;
    const read = readConfig(config);
    this.#shape = read.shape;
    this.#dropout = read.dropout;
    this.tokenEmbedding = this.register('transformer.wte', parts.wte);
    this.#wpe = this.register('transformer.wpe.weight', parts.wpe);
    this.blocks = parts.blocks.map((block, i) => this.register(`transformer.h.${i}`, block));
    this.#lnF = this.register('transformer.ln_f', parts.lnF);
    this.head = parts.head && this.register('lm_head', parts.head);
  }

  /** From a configuration and named tensors; shapes are checked against the configuration. */
  static fromWeights(json: JsonObject, weights: Weights): GPT2LMHeadModel {
    const config = readConfig(json);
    const { hidden: c, ffn, heads, headDim, vocab, context, layers } = config.shape;
    const norm = (name: string): LayerNorm =>
      new LayerNorm(
        weights.take(`${name}.weight`, [c]),
        weights.take(`${name}.bias`, [c]),
        config.eps,
      );
    const conv = (name: string, outputs: number, inputs: number): Linear =>
      weights.linear(name, outputs, inputs, { bias: true, conv1d: true });
    const blocks = Array.from({ length: layers }, (_, i) => {
      const p = `transformer.h.${i}`;
      const scale =
        (config.scaleWeights ? 1 / Math.sqrt(headDim) : 1) / (config.scaleByLayer ? i + 1 : 1);
      return new GPT2Block(
        {
          ln1: norm(`${p}.ln_1`),
          cAttn: conv(`${p}.attn.c_attn`, 3 * c, c),
          cProj: conv(`${p}.attn.c_proj`, c, c),
          ln2: norm(`${p}.ln_2`),
          cFc: conv(`${p}.mlp.c_fc`, ffn, c),
          mlpProj: conv(`${p}.mlp.c_proj`, c, ffn),
        },
        heads,
        scale,
        config.activation,
        config.dropout,
      );
    });
    return new GPT2LMHeadModel(json, {
      wte: weights.embedding('transformer.wte', vocab, c),
      wpe: weights.take('transformer.wpe.weight', [context, c]),
      blocks,
      lnF: norm('transformer.ln_f'),
      head: config.tied ? null : weights.linear('lm_head', vocab, c, { bias: false }),
    });
  }

  /** Random weights as the reference initialises them: normal(0, 0.02), residual projections scaled by 1/√(2L). */
  static create(json: JsonObject, generator: Generator): GPT2LMHeadModel {
    const config = readConfig(json);
    const { hidden: c, ffn, vocab, context, layers } = config.shape;
    const tensors = new Map<string, Tensor>();
    const normal = (name: string, shape: number[], std = 0.02): void =>
      void tensors.set(name, randn(shape, { std, generator }));
    const fill = (name: string, n: number, value: number): void =>
      void tensors.set(name, value ? ones([n]) : zeros([n]));
    const residual = 0.02 / Math.sqrt(2 * layers);
    normal('transformer.wte.weight', [vocab, c]);
    normal('transformer.wpe.weight', [context, c]);
    for (let i = 0; i < layers; i++) {
      const p = `transformer.h.${i}`;
      for (const n of ['ln_1', 'ln_2']) {
        fill(`${p}.${n}.weight`, c, 1);
        fill(`${p}.${n}.bias`, c, 0);
      }
      normal(`${p}.attn.c_attn.weight`, [c, 3 * c]);
      normal(`${p}.attn.c_proj.weight`, [c, c], residual);
      normal(`${p}.mlp.c_fc.weight`, [c, ffn]);
      normal(`${p}.mlp.c_proj.weight`, [ffn, c], residual);
      fill(`${p}.attn.c_attn.bias`, 3 * c, 0);
      fill(`${p}.attn.c_proj.bias`, c, 0);
      fill(`${p}.mlp.c_fc.bias`, ffn, 0);
      fill(`${p}.mlp.c_proj.bias`, c, 0);
    }
    fill('transformer.ln_f.weight', c, 1);
    fill('transformer.ln_f.bias', c, 0);
    if (!config.tied) normal('lm_head.weight', [vocab, c]);
    return GPT2LMHeadModel.fromWeights(json, new Weights(tensors));
  }

  get config(): JsonObject {
    const { layers, ffn, hidden } = this.shape;
    return { ...this.#config, n_layer: layers, n_inner: ffn === 4 * hidden ? null : ffn };
  }

  get shape(): Readonly<Shape> {
    return {
      ...this.#shape,
      layers: this.blocks.length,
      ffn: this.blocks[0]?.ffnOutput.inFeatures ?? this.#shape.ffn,
    };
  }

  protected override hidden(input: ForwardInput, mask: Tensor | null, collect: Collect): Tensor {
    const [, t] = input.inputIds.shape as [number, number];
    const past = input.cache?.length ?? 0;
    const cache = input.cache ?? null;
    const positions = input.positionIds
      ? embedding(input.positionIds, this.#wpe)
      : slice(this.#wpe, 0, past, past + t);
    let x = add(this.tokenEmbedding.forward(input.inputIds), positions); // (B, T, C)
    if (this.training && this.#dropout.embedding > 0) x = dropout(x, this.#dropout.embedding);
    const { observeAttention: observe } = input;
    this.blocks.forEach((block, layer) => {
      collect.states?.push(x);
      const attending = { cache, layer, observe, attentions: collect.attentions };
      x = this.runBlock(block, x, { mask }, (y, held) =>
        block.forward(y, { ...attending, mask: held.mask }),
      );
    });
    return this.#lnF.forward(x);
  }

  #rebuild(blocks: GPT2Block[]): GPT2LMHeadModel {
    const ffn = blocks[0]?.ffnOutput.inFeatures ?? this.shape.ffn;
    return new GPT2LMHeadModel(
      {
        ...this.#config,
        n_layer: blocks.length,
        n_inner: ffn === 4 * this.#shape.hidden ? null : ffn,
      },
      {
        wte: this.tokenEmbedding.share(),
        wpe: this.#wpe.detach(),
        blocks,
        lnF: this.#lnF.share(),
        head: this.head?.share() ?? null,
      },
    );
  }

  override share(): GPT2LMHeadModel {
    return this.#rebuild(this.blocks.map((b) => b.share()));
  }

  override withBlocks(keep: readonly number[]): GPT2LMHeadModel {
    if (keep.length === 0) throw new ConfigError('gpt2: a model needs at least one layer');
    if (readConfig(this.#config).scaleByLayer)
      throw new ConfigError(
        'gpt2: layers cannot be removed from a model with scale_attn_by_inverse_layer_idx',
      );
    return this.#rebuild(keep.map((i) => this.blocks[i]!.share()));
  }
}
