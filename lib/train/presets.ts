// Model shapes from a few numbers, and complete recipes by name.
import type { JsonObject } from '../io/json.js';
import { GPT2LMHeadModel } from '../models/gpt2.js';
import { LlamaForCausalLM } from '../models/llama.js';
import { LstmForCausalLM } from '../models/lstm.js';
import type { CausalLM } from '../models/causal_lm.js';
import { ConfigError } from '../tensor/errors.js';
import type { Generator } from '../tensor/random.js';
import type { TrainingOptions } from './arguments.js';

export type ModelKind = 'gpt2' | 'llama' | 'lstm';
export const modelKinds: readonly ModelKind[] = ['gpt2', 'llama', 'lstm'];

export interface ModelSize {
  layers: number;
  heads: number;
  dim: number;
  context: number;
  /** llama: key heads, default all. */
  kvHeads?: number;
  /** Feed-forward width; default 4 dim (gpt2), 8/3 dim rounded up to 32 (llama). */
  ffn?: number;
  dropout?: number;
}

/** A fresh model of this size. */
export function createModel(
  kind: ModelKind,
  size: ModelSize,
  vocab: number,
  eos: number | null,
  generator: Generator,
): CausalLM {
  const { layers, heads, dim, context, dropout = 0 } = size;
  if (kind !== 'lstm' && dim % heads !== 0)
    throw new ConfigError(`dim ${dim} is not a multiple of heads ${heads}`);
  const tokens = eos === null ? {} : { bos_token_id: eos, eos_token_id: eos };
  if (kind === 'gpt2') {
    const config: JsonObject = {
      architectures: ['GPT2LMHeadModel'],
      model_type: 'gpt2',
      activation_function: 'gelu_new',
      layer_norm_epsilon: 1e-5,
      n_embd: dim,
      n_head: heads,
      n_layer: layers,
      n_positions: context,
      n_inner: size.ffn ?? null,
      vocab_size: vocab,
      embd_pdrop: dropout,
      attn_pdrop: dropout,
      resid_pdrop: dropout,
      tie_word_embeddings: true,
      ...tokens,
    };
    return GPT2LMHeadModel.create(config, generator);
  }
  if (kind === 'llama') {
    const config: JsonObject = {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_act: 'silu',
      hidden_size: dim,
      intermediate_size: size.ffn ?? Math.ceil((8 * dim) / 3 / 32) * 32,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: size.kvHeads ?? heads,
      max_position_embeddings: context,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      initializer_range: 0.02,
      attention_bias: false,
      mlp_bias: false,
      tie_word_embeddings: true,
      vocab_size: vocab,
      ...tokens,
    };
    return LlamaForCausalLM.create(config, generator);
  }
  return LstmForCausalLM.create(
    {
      architectures: ['LstmForCausalLM'],
      model_type: 'roots_lstm',
      hidden_size: dim,
      num_hidden_layers: layers,
      max_position_embeddings: context,
      vocab_size: vocab,
      dropout,
      ...tokens,
    },
    generator,
  );
}

export interface Preset {
  kind: ModelKind;
  size: ModelSize;
  tokenizer: 'char' | 'bytes';
  args: Partial<TrainingOptions>;
}

/** What nanoGPT's two recipes for character-level Shakespeare share (config/train_shakespeare_char.py and its README). */
const nanogpt: Partial<TrainingOptions> = {
  perDeviceEvalBatchSize: 64,
  learningRate: 1e-3,
  lrSchedulerType: 'cosine_with_min_lr',
  minLrRate: 0.1,
  warmupSteps: 100,
  adamBeta2: 0.99,
  weightDecay: 0.1,
  evalStrategy: 'steps',
};

export const presets: Record<string, Preset> = {
  'nanogpt-cpu': {
    kind: 'gpt2',
    size: { layers: 4, heads: 4, dim: 128, context: 64, dropout: 0 },
    tokenizer: 'char',
    args: {
      ...nanogpt,
      maxSteps: 2000,
      perDeviceTrainBatchSize: 12,
      evalSteps: 500,
      saveSteps: 500,
    },
  },
  'nanogpt-gpu': {
    kind: 'gpt2',
    size: { layers: 6, heads: 6, dim: 384, context: 256, dropout: 0.2 },
    tokenizer: 'char',
    args: {
      ...nanogpt,
      maxSteps: 5000,
      perDeviceTrainBatchSize: 64,
      bf16: true,
      evalSteps: 250,
      saveSteps: 250,
    },
  },
};
