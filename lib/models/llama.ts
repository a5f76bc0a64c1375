// Llama (Touvron et al. 2023) and the models that share its blocks: RMSNorm, rotary positions, grouped-query
// attention, SwiGLU. Loads Llama, Mistral (with or without a sliding window) and Qwen2 checkpoints.
// B batch, T time, C channels, H query heads, Hkv key heads, D head size.
import type { JsonObject } from '../io/json.js';
import type { Embedding } from '../nn/embedding.js';
import type { Linear } from '../nn/linear.js';
import { Module } from '../nn/module.js';
import { RMSNorm } from '../nn/norm.js';
import { ropeTables } from '../nn/rope_angles.js';
import type { RopeScaling } from '../nn/rope_angles.js';
import { gatedUp } from '../nn/transformer.js';
import { embedding } from '../ops/index_select.js';
import { rope } from '../ops/rope.js';
import { slice } from '../ops/view.js';
import { cast } from '../ops/cast.js';
import { ConfigError } from '../tensor/errors.js';
import { ones, zeros } from '../tensor/create.js';
import { randn } from '../tensor/random.js';
import type { Generator } from '../tensor/random.js';
import { untracked, tidy } from '../tensor/scope.js';
import type { Tensor } from '../tensor/tensor.js';
import { CausalLM, attend, joinHeads, splitHeads } from './causal_lm.js';
import type { AttentionInput, Block, Collect, ForwardInput, Shape } from './causal_lm.js';
import { ConfigReader } from './config.js';
import { Weights } from './weights.js';

interface LlamaConfig {
  shape: Shape;
  eps: number;
  theta: number;
  scaling: RopeScaling;
  tied: boolean;
  /** query, key, value bias; output projection bias; feed-forward bias */
  bias: { qkv: boolean; output: boolean; mlp: boolean };
  window: number;
}

/** Both spellings: `rope_theta` + `rope_scaling`, and transformers 5's `rope_parameters`. */
function readRope(c: ConfigReader): { theta: number; scaling: RopeScaling } {
  const parameters = c.object('rope_parameters');
  const theta = parameters?.float('rope_theta', NaN) || c.float('rope_theta', 10_000);
  const source = parameters ?? c.object('rope_scaling');
  const type = source?.raw('rope_type') ?? source?.raw('type') ?? 'default';
  if (!source || type === 'default') return { theta, scaling: { type: 'default' } };
  if (type === 'linear')
    return { theta, scaling: { type: 'linear', factor: source.float('factor', NaN) } };
  if (type === 'llama3')
    return {
      theta,
      scaling: {
        type: 'llama3',
        factor: source.float('factor', 8),
        lowFreqFactor: source.float('low_freq_factor', 1),
        highFreqFactor: source.float('high_freq_factor', 4),
        originalContext: source.int('original_max_position_embeddings'),
      },
    };
  throw new ConfigError(
    `config.json: rope type ${JSON.stringify(type)} is not supported; expected default, linear or llama3`,
  );
}

function readConfig(json: JsonObject): LlamaConfig {
  const family = typeof json['model_type'] === 'string' ? json['model_type'] : 'llama';
  const c = new ConfigReader(json, family);
  const hidden = c.int('hidden_size');
  const heads = c.int('num_attention_heads');
  const kvHeads = c.optionalInt('num_key_value_heads') ?? heads;
  c.require(
    heads % kvHeads === 0,
    `num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`,
  );
  const explicit = c.optionalInt('head_dim');
  c.require(
    explicit !== null || hidden % heads === 0,
    `hidden_size ${hidden} is not a multiple of num_attention_heads ${heads}, and there is no head_dim`,
  );
  const headDim = explicit ?? hidden / heads;
  c.require(headDim % 2 === 0, `the head size ${headDim} must be even`);
  c.require(
    (c.raw('hidden_act') ?? 'silu') === 'silu',
    `hidden_act must be silu, got ${JSON.stringify(c.raw('hidden_act'))}`,
  );
  const window =
    family === 'llama'
      ? null
      : c.bool('use_sliding_window', family === 'mistral')
        ? c.optionalInt('sliding_window')
        : null;
  const qkv = family === 'qwen2' || c.bool('attention_bias', false);
  const rope = readRope(c);
  c.require(Number.isFinite(rope.theta), 'rope_theta is missing');
  return {
    shape: {
      layers: c.int('num_hidden_layers', 1, 100_000),
      hidden,
      heads,
      kvHeads,
      headDim,
      ffn: c.int('intermediate_size'),
      vocab: c.int('vocab_size'),
      context: c.int('max_position_embeddings'),
    },
    eps: c.float('rms_norm_eps', 1e-6),
    ...rope,
    tied: c.bool('tie_word_embeddings', false),
    bias: {
      qkv,
      output: family !== 'qwen2' && c.bool('attention_bias', false),
      mlp: c.bool('mlp_bias', false),
    },
    window: window ?? 0,
  };
}

interface LlamaParts {
  inputNorm: RMSNorm;
  q: Linear;
  k: Linear;
  v: Linear;
  o: Linear;
  postNorm: RMSNorm;
  gate: Linear;
  up: Linear;
  down: Linear;
}

interface Angles {
  cos: Tensor;
  sin: Tensor;
}

class LlamaBlock extends Module implements Block {
  readonly #parts: LlamaParts;
  readonly headDim: number;
  readonly #window: number;

  constructor(parts: LlamaParts, headDim: number, window: number) {
    super();
    this.#parts = parts;
    this.headDim = headDim;
    this.#window = window;
    this.register('self_attn.q_proj', parts.q);
    this.register('self_attn.k_proj', parts.k);
    this.register('self_attn.v_proj', parts.v);
    this.register('self_attn.o_proj', parts.o);
    this.register('mlp.gate_proj', parts.gate);
    this.register('mlp.up_proj', parts.up);
    this.register('mlp.down_proj', parts.down);
    this.register('input_layernorm', parts.inputNorm);
    this.register('post_attention_layernorm', parts.postNorm);
  }

  get ffnInputs(): readonly Linear[] {
    return [this.#parts.gate, this.#parts.up];
  }
  get ffnOutput(): Linear {
    return this.#parts.down;
  }
  get attentionOutput(): Linear {
    return this.#parts.o;
  }
  get linears(): ReadonlyMap<string, Linear> {
    const { q, k, v, o, gate, up, down } = this.#parts;
    return new Map([
      ['self_attn.q_proj', q],
      ['self_attn.k_proj', k],
      ['self_attn.v_proj', v],
      ['self_attn.o_proj', o],
      ['mlp.gate_proj', gate],
      ['mlp.up_proj', up],
      ['mlp.down_proj', down],
    ]);
  }

  forward(x: Tensor, angles: Angles, input: AttentionInput): Tensor {
    return tidy(() => {
      const { inputNorm, q, k, v, o, postNorm, gate, up, down } = this.#parts;
      const d = this.headDim;
      const heads = (y: Tensor): Tensor => splitHeads(y, y.shape[2]! / d, 0, y.shape[2]!);
      const normed = inputNorm.forward(x);
      const query = rope(heads(q.forward(normed)), angles.cos, angles.sin); // (B, H, T, D)
      const key = rope(heads(k.forward(normed)), angles.cos, angles.sin); // (B, Hkv, T, D)
      const mixed = attend(
        query,
        key,
        heads(v.forward(normed)),
        input,
        1 / Math.sqrt(d),
        this.#window,
      );
      const middle = o.forward(joinHeads(mixed), { residual: x });
      return down.forward(gatedUp(gate, up, postNorm.forward(middle)), { residual: middle });
    });
  }

  share(): LlamaBlock {
    const p = this.#parts;
    return new LlamaBlock(
      {
        inputNorm: p.inputNorm.share(),
        q: p.q.share(),
        k: p.k.share(),
        v: p.v.share(),
        o: p.o.share(),
        postNorm: p.postNorm.share(),
        gate: p.gate.share(),
        up: p.up.share(),
        down: p.down.share(),
      },
      this.headDim,
      this.#window,
    );
  }
}

export class LlamaForCausalLM extends CausalLM {
  static readonly architecture: string = 'LlamaForCausalLM';
  readonly #config: JsonObject;
  readonly #read: LlamaConfig;
  readonly tokenEmbedding: Embedding;
  readonly blocks: readonly LlamaBlock[];
  readonly head: Linear | null;
  readonly #norm: RMSNorm;
  #tables: Angles | null = null;

  private constructor(
    config: JsonObject,
    parts: { embed: Embedding; blocks: LlamaBlock[]; norm: RMSNorm; head: Linear | null },
  ) {
    super();
    this.#config = config;
    this.#read = readConfig(config);
    this.tokenEmbedding = this.register('model.embed_tokens', parts.embed);
    this.blocks = parts.blocks.map((block, i) => this.register(`model.layers.${i}`, block));
    this.#norm = this.register('model.norm', parts.norm);
    this.head = parts.head && this.register('lm_head', parts.head);
  }

  /** From a configuration and named tensors; shapes are checked against the configuration. */
  static fromWeights(json: JsonObject, weights: Weights): LlamaForCausalLM {
    const config = readConfig(json);
    const { hidden: c, ffn, heads, kvHeads, headDim: d, vocab, layers } = config.shape;
    const norm = (name: string): RMSNorm =>
      new RMSNorm(weights.take(`${name}.weight`, [c]), config.eps);
    const blocks = Array.from({ length: layers }, (_, i) => {
      const p = `model.layers.${i}`;
      const { qkv, output, mlp } = config.bias;
      return new LlamaBlock(
        {
          inputNorm: norm(`${p}.input_layernorm`),
          q: weights.linear(`${p}.self_attn.q_proj`, heads * d, c, { bias: qkv }),
          k: weights.linear(`${p}.self_attn.k_proj`, kvHeads * d, c, { bias: qkv }),
          v: weights.linear(`${p}.self_attn.v_proj`, kvHeads * d, c, { bias: qkv }),
          o: weights.linear(`${p}.self_attn.o_proj`, c, heads * d, { bias: output }),
          postNorm: norm(`${p}.post_attention_layernorm`),
          gate: weights.linear(`${p}.mlp.gate_proj`, ffn, c, { bias: mlp }),
          up: weights.linear(`${p}.mlp.up_proj`, ffn, c, { bias: mlp }),
          down: weights.linear(`${p}.mlp.down_proj`, c, ffn, { bias: mlp }),
        },
        d,
        config.window,
      );
    });
    return new LlamaForCausalLM(json, {
      embed: weights.embedding('model.embed_tokens', vocab, c),
      blocks,
      norm: norm('model.norm'),
      head: config.tied ? null : weights.linear('lm_head', vocab, c, { bias: false }),
    });
  }

  /** Random weights: normal(0, initializer_range), norms 1, biases 0, as the reference initialises them. */
  static create(json: JsonObject, generator: Generator): LlamaForCausalLM {
    const config = readConfig(json);
    const { hidden: c, ffn, heads, kvHeads, headDim: d, vocab, layers } = config.shape;
    const std = new ConfigReader(json, 'llama').float('initializer_range', 0.02);
    const tensors = new Map<string, Tensor>();
    const normal = (name: string, shape: number[]): void =>
      void tensors.set(`${name}.weight`, randn(shape, { std, generator }));
    const one = (name: string): void => void tensors.set(`${name}.weight`, ones([c]));
    const bias = (name: string, n: number, wanted: boolean): void =>
      void (wanted && tensors.set(`${name}.bias`, zeros([n])));
    normal('model.embed_tokens', [vocab, c]);
    for (let i = 0; i < layers; i++) {
      const p = `model.layers.${i}`;
      one(`${p}.input_layernorm`);
      one(`${p}.post_attention_layernorm`);
      for (const [name, n, k, wanted] of [
        ['self_attn.q_proj', heads * d, c, config.bias.qkv],
        ['self_attn.k_proj', kvHeads * d, c, config.bias.qkv],
        ['self_attn.v_proj', kvHeads * d, c, config.bias.qkv],
        ['self_attn.o_proj', c, heads * d, config.bias.output],
        ['mlp.gate_proj', ffn, c, config.bias.mlp],
        ['mlp.up_proj', ffn, c, config.bias.mlp],
        ['mlp.down_proj', c, ffn, config.bias.mlp],
      ] as const) {
        normal(`${p}.${name}`, [n, k]);
        bias(`${p}.${name}`, n, wanted);
      }
    }
    one('model.norm');
    if (!config.tied) normal('lm_head', [vocab, c]);
    return LlamaForCausalLM.fromWeights(json, new Weights(tensors));
  }

  /** config.json for the present shape; `exportRules` in compress/ decides the family name. */
  get config(): JsonObject {
    const { layers, ffn, heads, kvHeads, headDim } = this.shape;
    return {
      ...this.#config,
      num_hidden_layers: layers,
      intermediate_size: ffn,
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      head_dim: headDim,
    };
  }

  get shape(): Readonly<Shape> {
    const first = this.blocks[0];
    const base = this.#read.shape;
    if (!first) return base;
    const q = first.linears.get('self_attn.q_proj')!;
    const k = first.linears.get('self_attn.k_proj')!;
    return {
      ...base,
      layers: this.blocks.length,
      ffn: first.ffnOutput.inFeatures,
      heads: q.outFeatures / base.headDim,
      kvHeads: k.outFeatures / base.headDim,
    };
  }

  /** Tables for every position, made once. */
  #angles(): Angles {
    const { device } = this;
    if (this.#tables && this.#tables.cos.device !== device) {
      this.#tables.cos.dispose();
      this.#tables.sin.dispose();
      this.#tables = null;
    }
    this.#tables ??= untracked(() =>
      ropeTables(
        this.#read.shape.headDim,
        this.#read.theta,
        this.#read.scaling,
        this.#read.shape.context,
        device,
      ),
    );
    return this.#tables;
  }

  protected override hidden(input: ForwardInput, mask: Tensor | null, collect: Collect): Tensor {
    const [, t] = input.inputIds.shape as [number, number];
    const past = input.cache?.length ?? 0;
    const cache = input.cache ?? null;
    const tables = this.#angles();
    let x = this.tokenEmbedding.forward(input.inputIds); // (B, T, C)
    const at = (table: Tensor): Tensor => {
      const rows = input.positionIds
        ? embedding(input.positionIds, table)
        : slice(table, 0, past, past + t);
      return x.dtype === 'float64' ? cast(rows, 'float64') : rows;
    };
    const angles = { cos: at(tables.cos), sin: at(tables.sin) };
    const { observeAttention: observe } = input;
    this.blocks.forEach((block, layer) => {
      collect.states?.push(x);
      const attending = { cache, layer, observe, attentions: collect.attentions };
      x = this.runBlock(block, x, { mask, ...angles }, (y, held) =>
        block.forward(y, { cos: held.cos!, sin: held.sin! }, { ...attending, mask: held.mask }),
      );
    });
    return this.#norm.forward(x);
  }

  #rebuild(blocks: LlamaBlock[]): LlamaForCausalLM {
    return new LlamaForCausalLM(
      { ...this.config, num_hidden_layers: blocks.length },
      {
        embed: this.tokenEmbedding.share(),
        blocks,
        norm: this.#norm.share(),
        head: this.head?.share() ?? null,
      },
    );
  }

  override share(): LlamaForCausalLM {
    return this.#rebuild(this.blocks.map((b) => b.share()));
  }

  override withBlocks(keep: readonly number[]): LlamaForCausalLM {
    if (keep.length === 0) throw new ConfigError('llama: a model needs at least one layer');
    return this.#rebuild(keep.map((i) => this.blocks[i]!.share()));
  }

  override dispose(): void {
    super.dispose();
    this.#tables?.cos.dispose();
    this.#tables?.sin.dispose();
    this.#tables = null;
  }
}
