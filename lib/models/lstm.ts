// A language model without attention: embedding, LSTM layers, tied output head. Its own format ("roots_lstm"); no other library
// defines one.
import type { JsonObject } from '../io/json.js';
import { Embedding } from '../nn/embedding.js';
import type { Linear } from '../nn/linear.js';
import { LSTM } from '../nn/recurrent.js';
import { dropout } from '../ops/dropout.js';
import { ConfigError, OptionError } from '../tensor/errors.js';
import { Generator, randn } from '../tensor/random.js';
import type { Tensor } from '../tensor/tensor.js';
import { CausalLM } from './causal_lm.js';
import type { Block, Collect, ForwardInput, Shape } from './causal_lm.js';
import { ConfigReader } from './config.js';
import type { Weights } from './weights.js';

export class LstmForCausalLM extends CausalLM {
  static readonly architecture = 'LstmForCausalLM';
  readonly config: JsonObject;
  readonly shape: Readonly<Shape>;
  readonly blocks: readonly Block[] = [];
  readonly tokenEmbedding: Embedding;
  readonly head: Linear | null = null;
  readonly #lstm: LSTM;
  readonly #dropout: number;

  private constructor(config: JsonObject, generator: Generator) {
    super();
    const c = new ConfigReader(config, 'roots_lstm');
    const hidden = c.int('hidden_size');
    const layers = c.int('num_hidden_layers', 1, 1000);
    this.config = config;
    this.#dropout = c.probability('dropout', 0);
    this.shape = {
      layers,
      hidden,
      heads: 1,
      kvHeads: 1,
      headDim: hidden,
      ffn: hidden,
      vocab: c.int('vocab_size'),
      context: c.int('max_position_embeddings'),
    };
    this.tokenEmbedding = this.register(
      'embedding',
      new Embedding(randn([this.shape.vocab, hidden], { std: 0.05, generator })),
    );
    this.#lstm = this.register(
      'lstm',
      new LSTM({
        inputSize: hidden,
        hiddenSize: hidden,
        numLayers: layers,
        dropout: this.#dropout,
        generator,
      }),
    );
  }

  static create(config: JsonObject, generator: Generator): LstmForCausalLM {
    return new LstmForCausalLM(config, generator);
  }

  static fromWeights(config: JsonObject, weights: Weights): LstmForCausalLM {
    const model = new LstmForCausalLM(config, new Generator(0));
    const values = new Map<string, Tensor>();
    for (const [name, p] of model.namedParameters()) values.set(name, weights.take(name, p.shape));
    model.loadStateDict(values);
    for (const t of values.values()) t.dispose();
    return model;
  }

  protected override hidden(input: ForwardInput, mask: Tensor | null, collect: Collect): Tensor {
    if (mask)
      throw new OptionError(
        'LstmForCausalLM: attentionMask is not supported; give sequences of one length',
      );
    if (collect.attentions)
      throw new OptionError('LstmForCausalLM: there is no attention to output');
    let x = this.tokenEmbedding.forward(input.inputIds);
    collect.states?.push(x);
    if (this.training && this.#dropout > 0) x = dropout(x, this.#dropout);
    const { y, state } = this.#lstm.forward(x, input.cache?.recurrent ?? null);
    input.cache?.setRecurrent(state);
    return y;
  }

  override share(): LstmForCausalLM {
    throw new ConfigError(
      'LSTM models cannot be compressed; compress takes GPT-2 and Llama families',
    );
  }
  override withBlocks(): LstmForCausalLM {
    return this.share();
  }
}
