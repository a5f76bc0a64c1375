// roots info DIR
import { folderBytes } from '../../compress/measure.js';
import { parameterCount } from '../../models/size.js';
import { architectureOf, loadModel } from '../../models/registry.js';
import { dtypeOfFile, openModelWeights } from '../../io/safetensors.js';
import { printJson } from '../command.js';
import type { Command } from '../command.js';

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
      bytes: await folderBytes(folder!),
      shape: model.shape,
      config,
      warnings,
    };
    model.dispose();
    if (values['json']) return printJson(info);
    const { layers, hidden, heads, kvHeads, ffn, vocab, context } = info.shape;
    process.stdout.write(
      `${info.architecture}: ${info.parameters.toLocaleString('en-US')} parameters, mostly ${info.dtype}, ${(info.bytes / 1e6).toFixed(2)} MB on disk\n` +
        `layers ${layers}, hidden ${hidden}, heads ${heads} (${kvHeads} key-value), feed-forward ${ffn}, vocabulary ${vocab}, context ${context}\n`,
    );
    for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
  },
};
