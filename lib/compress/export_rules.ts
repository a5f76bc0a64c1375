// Which pruned shapes a stock Hugging Face class rebuilds from config.json alone (transformers 5.17, tried one by one).
// The table is what prune() plans by, and what the tests hold it to.
import type { JsonObject } from '../io/json.js';
import type { Shape } from '../models/causal_lm.js';
import { ConfigError } from '../tensor/errors.js';

export interface ExportRule {
  /** What may change in this family. */
  readonly ffn: boolean;
  readonly layers: boolean;
  readonly heads: boolean;
  /** Why heads may not change, or what their number must obey. */
  readonly note: string;
}

export const exportRules: Readonly<Record<string, ExportRule>> = {
  gpt2: {
    ffn: true,
    layers: true,
    heads: false,
    note: 'GPT-2 derives the head size from n_embd / n_head, so heads cannot be removed alone',
  },
  llama: {
    ffn: true,
    layers: true,
    heads: true,
    note: 'hidden_size must stay a multiple of the number of heads; otherwise the model is saved as Mistral, which has the same layers and no such rule',
  },
  mistral: { ffn: true, layers: true, heads: true, note: 'any number of heads' },
  qwen2: {
    ffn: true,
    layers: true,
    heads: true,
    note: 'hidden_size must stay a multiple of the number of heads',
  },
};

/** The rule of a model's family. */
export function ruleFor(config: JsonObject): ExportRule {
  const type = String(config['model_type']);
  const rule = Object.hasOwn(exportRules, type) ? exportRules[type] : undefined;
  if (!rule) throw new ConfigError(`prune: no export rule for model type ${JSON.stringify(type)}`);
  return rule;
}

/**
 * config.json for a pruned shape under the rules of its family. A Llama whose heads no longer divide the hidden size
 * becomes a Mistral with `sliding_window: null`: the same computation under a name that loads.
 */
export function exportConfig(config: JsonObject, shape: Readonly<Shape>): JsonObject {
  const type = config['model_type'];
  if (type === 'gpt2' || type === 'mistral' || shape.hidden % shape.heads === 0) return config;
  const relabel =
    type === 'llama' && config['attention_bias'] !== true && config['mlp_bias'] !== true;
  if (!relabel)
    throw new ConfigError(
      `prune: ${shape.heads} heads do not divide hidden_size ${shape.hidden}, and a ${String(type)} model of that shape would not load elsewhere; choose another heads ratio`,
    );
  const out: JsonObject = {
    ...config,
    model_type: 'mistral',
    architectures: ['MistralForCausalLM'],
    sliding_window: null,
  };
  for (const key of ['attention_bias', 'mlp_bias', 'pretraining_tp']) delete out[key];
  return out;
}
