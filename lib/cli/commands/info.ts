// roots info DIR
import { folderBytes } from '../../compress/measure.js';
import { readQuantization } from '../../models/quantized_layout.js';
import type { QuantizationGroup } from '../../models/quantized_layout.js';
import { parameterCount } from '../../models/size.js';
import { architectureOf, loadModel } from '../../models/registry.js';
import { dtypeOfFile, openModelWeights } from '../../io/safetensors.js';
import { printJson } from '../command.js';
import type { Command } from '../command.js';

/** What most of the weights are. Words of packed integers say nothing of themselves. */
function describe(info: {
  dtype: string;
  quantization: readonly QuantizationGroup[] | null;
}): string {
  const groups = info.quantization ?? [];
  if (groups.length === 0) return info.dtype;
  return groups
    .map(({ scheme, group, targets }) => {
      const how = `${scheme}${group === null ? '' : ` in groups of ${group}`}`;
      return `${how} (${targets.join(', ')})`;
    })
    .join(' and ');
}

export const command: Command = {
  summary: 'What a model folder contains',
  usage:
    'roots info DIR [--json]\n\nPrints architecture, parameters, element types, bytes and configuration.',
  positionals: [1, 1],
  options: {},
  async run([folder], values) {
    const { model, config, warnings } = await loadModel(folder!);
    const weights = await openModelWeights(folder!);
    const types = new Map<string, number>();
    for (const name of weights.names) {
      const { dtype, bytes } = weights.info(name);
      types.set(dtype, (types.get(dtype) ?? 0) + bytes);
    }
    const main = [...types].toSorted((a, b) => b[1] - a[1])[0]?.[0] ?? 'F32';
    const info = {
      architecture: architectureOf(config),
      parameters: parameterCount(model),
      dtype: dtypeOfFile(main) ?? main,
      /** How layers are quantized, by class or name; null for a float model. */
      quantization: readQuantization(config),
      bytes: await folderBytes(folder!),
      shape: model.shape,
      config,
      warnings,
    };
    model.dispose();
    if (values['json']) return printJson(info);
    const { layers, hidden, heads, kvHeads, ffn, vocab, context } = info.shape;
    process.stdout.write(
      `${info.architecture}: ${info.parameters.toLocaleString('en-US')} parameters, mostly ${describe(info)}, ${(info.bytes / 1e6).toFixed(2)} MB on disk\n` +
        `layers ${layers}, hidden ${hidden}, heads ${heads} (${kvHeads} key-value), feed-forward ${ffn}, vocabulary ${vocab}, context ${context}\n`,
    );
    for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
  },
};
