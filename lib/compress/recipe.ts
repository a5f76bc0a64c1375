// compress(): prune, then quantize, each stage tried on a copy and kept only if the held-out text says so, then saved,
// reloaded and measured against the original.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { divergence } from '../eval/divergence.js';
import { perplexity } from '../eval/perplexity.js';
import { saveFolder, writeNewFile } from '../io/checkpoint.js';
import type { JsonObject } from '../io/json.js';
import { LanguageModel } from '../language_model.js';
import type { CausalLM } from '../models/causal_lm.js';
import { writeModel } from '../models/registry.js';
import { flopsPerToken, parameterCount } from '../models/size.js';
import { cpuIsa, getThreads } from '../native/device.js';
import type { QuantScheme } from '../nn/linear.js';
import * as check from '../ops/check.js';
import { compressionReport } from '../report/compression.js';
import type { CompressionReport, ModelReport, StageReport } from '../report/compression.js';
import { FileError, OptionError } from '../tensor/errors.js';
import { exportConfig, ruleFor } from './export_rules.js';
import { defaultMeasureMs, folderBytes, measureFolders } from './measure.js';
import type { Measurement } from './measure.js';
import { distillOptionNames } from './distill/objective.js';
import type { DistillOptions } from './distill/objective.js';
import { heal, selfGenerated } from './heal.js';
import type { HealBudget } from './heal.js';
import { pruneMagnitude } from './prune/magnitude.js';
import { pruneFfn, pruneHeads, pruneLayers } from './prune/structured.js';
import { quantize } from '../models/quantize.js';

export interface PruneRatios {
  /** Share of feed-forward neurons to remove. */
  ffn?: number;
  /** Share of attention heads (whole key-value groups) to remove. */
  heads?: number;
  /** Share of layers to remove. */
  layers?: number;
}

export interface CompressOptions {
  /** The model folder to write. */
  out: string;
  /** Text that pruning is calibrated on. */
  calibrationText: string;
  /** Held-out text: gates and all reported quality figures. Must differ from the calibration text. */
  evalText: string;
  quantize?: QuantScheme;
  /** For w4a16: inputs that share a scale, a multiple of 32. Default 128. */
  quantizeGroup?: number;
  /** Quantize embeddings and output head too. Default false. */
  quantizeEmbeddings?: boolean;
  /** Bits of those: 8 (default), or 4 with w4a16. */
  embeddingBits?: 8 | 4;
  prune?: PruneRatios;
  /** Share of weights to zero by magnitude: a mask, no speed. */
  sparsity?: number;
  /** A stage that moves the model further than this from the original (mean KLD per token, nats) is undone. Default 0.1. */
  maxKld?: number;
  /** Calibration tokens used. Default 16384. */
  calibrationTokens?: number;
  /** Distil the pruned model from the original for so long; the gate then judges pruning and healing together. */
  heal?: HealBudget;
  /** Text to heal on; the calibration text by default. 'self': text that the original generates. */
  healText?: string;
  /** Tokens of self-generated text. Default 65536. */
  healTokens?: number;
  /** What the student is taught besides logits. */
  distill?: DistillOptions;
  seed?: number;
  overwrite?: boolean;
  /** Turns of the speed measurement. Default 3. */
  turns?: number;
  /** How long each time is measured per turn, after as long a warm-up. Default 800 ms. */
  measureMs?: number;
  onProgress?: (stage: string, done: number) => void;
}

const optionNames = [
  'out',
  'calibrationText',
  'evalText',
  'quantize',
  'quantizeEmbeddings',
  'embeddingBits',
  'quantizeGroup',
  'prune',
  'sparsity',
  'maxKld',
  'calibrationTokens',
  'heal',
  'healText',
  'healTokens',
  'distill',
  'seed',
  'overwrite',
  'turns',
  'measureMs',
  'onProgress',
];

const hash = (text: string): string => createHash('sha256').update(text).digest('hex');

function checkRatio(name: string, value: number | undefined): void {
  if (value !== undefined && !(typeof value === 'number' && value >= 0 && value < 1))
    throw new OptionError(
      `compress: ${name} must be a number from 0 up to, but not including, 1 (1 would leave nothing); got ${String(value)}`,
    );
}

function checkOptions(options: CompressOptions, config: JsonObject): void {
  check.knownOptions('compress', options, optionNames);
  const { prune = {}, sparsity, quantize: scheme } = options;
  check.knownOptions('compress: prune', prune, ['ffn', 'heads', 'layers']);
  for (const key of ['ffn', 'heads', 'layers'] as const) checkRatio(`prune ${key}`, prune[key]);
  checkRatio('sparsity', sparsity);
  if (scheme !== undefined) check.oneOf('compress', 'quantize', scheme, ['w8a8', 'w8a16', 'w4a16']);
  const { quantizeGroup: group, embeddingBits: bits } = options;
  if (bits !== undefined && bits !== 8 && bits !== 4)
    throw new OptionError(`compress: embeddingBits must be 8 or 4, got ${String(bits)}`);
  if (bits !== undefined && !options.quantizeEmbeddings)
    throw new OptionError(
      `compress: embeddingBits: ${bits} goes with quantizeEmbeddings, which is not set`,
    );
  if (bits === 4 && scheme !== 'w4a16')
    throw new OptionError(
      `compress: embeddingBits: 4 goes with quantize: 'w4a16', got ${String(scheme)}`,
    );
  if (
    group !== undefined &&
    (scheme !== 'w4a16' || !Number.isInteger(group) || group < 32 || group % 32 !== 0)
  )
    throw new OptionError(
      `compress: quantizeGroup must be a multiple of 32 and goes with quantize: 'w4a16', got ${String(group)}`,
    );
  const work =
    [prune.ffn, prune.heads, prune.layers, sparsity].some((r) => r !== undefined && r > 0) ||
    scheme !== undefined;
  if (!work) throw new OptionError('compress: nothing to do; give quantize, prune or sparsity');
  const prunes = [prune.ffn, prune.heads, prune.layers].some((r) => r !== undefined && r > 0);
  if (options.heal && !prunes)
    throw new OptionError('compress: heal needs prune: it repairs what pruning has cost');
  if (options.heal && sparsity)
    throw new OptionError(
      'compress: heal and sparsity cannot be combined: training would fill the zeros again',
    );
  if (!options.heal && (options.healText !== undefined || options.distill !== undefined))
    throw new OptionError('compress: healText and distill need heal');
  if (options.distill) check.knownOptions('compress: distill', options.distill, distillOptionNames);
  const rule = ruleFor(config);
  if ((prune.heads ?? 0) > 0 && !rule.heads)
    throw new OptionError(
      `compress: prune heads is not possible for this model: ${rule.note}; prune ffn or layers instead`,
    );
  for (const [name, text] of [
    ['calibration', options.calibrationText],
    ['evaluation', options.evalText],
  ] as const) {
    if (typeof text !== 'string')
      throw new TypeError(`compress: the ${name} text must be a string`);
    if (text.trim() === '') throw new OptionError(`compress: the ${name} text is empty`);
  }
  if (options.calibrationText.trim() === options.evalText.trim())
    throw new OptionError(
      'compress: the calibration text and the evaluation text are identical; quality must be measured on text that the compression has not seen',
    );
}

interface Stage {
  name: string;
  /** Judged together with the stage that heals it. */
  provisional?: boolean;
  /** Must not be further from the original than the stage before. */
  mustImprove?: boolean;
  run: (model: CausalLM) => Promise<{ model: CausalLM; detail: string }>;
}

/** Compresses the model in `folder` and writes a model folder with report.json and report.html. */
export async function compress(
  folder: string,
  options: CompressOptions,
): Promise<CompressionReport> {
  const original = await LanguageModel.fromPretrained(folder);
  try {
    return await compressLoaded(original, folder, options);
  } finally {
    original.dispose();
  }
}

async function compressLoaded(
  original: LanguageModel,
  folder: string,
  options: CompressOptions,
): Promise<CompressionReport> {
  if (typeof options.out !== 'string' || options.out === '')
    throw new OptionError('compress: out must be the path of the folder to write');
  checkOptions(options, original.config);
  if (original.model.blocks[0]!.ffnOutput.scheme !== null)
    throw new OptionError(
      'compress: the model is already quantized; start from the float checkpoint',
    );
  const { prune = {}, maxKld = 0.1, calibrationTokens = 16_384, seed = 0, onProgress } = options;
  const warnings = [...original.warnings];
  if (options.calibrationText.includes(options.evalText))
    warnings.push(
      'the calibration text contains the evaluation text: the quality figures are optimistic',
    );
  const { context } = original.model.shape;
  const calibration = original.tokenizer
    .encode(options.calibrationText)
    .slice(0, calibrationTokens);
  const evaluation = original.tokenizer.encode(options.evalText);
  if (calibration.length < 2)
    throw new OptionError(
      `compress: the calibration text has ${calibration.length} tokens; give more`,
    );
  if (evaluation.length < 2)
    throw new OptionError(
      `compress: the evaluation text has ${evaluation.length} tokens; give more`,
    );
  if (calibration.length < 2048 && (prune.ffn || prune.heads))
    warnings.push(`only ${calibration.length} calibration tokens: pruning would profit from more`);

  const stages: Stage[] = [];
  const pruneContext = (name: string) => ({
    ids: calibration,
    context,
    onProgress: (done: number) => onProgress?.(name, done),
  });
  if (prune.layers)
    stages.push({
      name: `prune layers ${prune.layers}`,
      provisional: options.heal !== undefined,
      run: (m) => pruneLayers(m, original.model, prune.layers!, pruneContext('prune layers')),
    });
  if (prune.heads)
    stages.push({
      name: `prune heads ${prune.heads}`,
      provisional: options.heal !== undefined,
      run: async (m) =>
        changed(m, (copy) => pruneHeads(copy, prune.heads!, pruneContext('prune heads'))),
    });
  if (prune.ffn)
    stages.push({
      name: `prune ffn ${prune.ffn}`,
      provisional: options.heal !== undefined,
      run: async (m) => changed(m, (copy) => pruneFfn(copy, prune.ffn!, pruneContext('prune ffn'))),
    });
  if (options.heal)
    stages.push({
      name: 'heal',
      mustImprove: true,
      run: async (m) => {
        const healIds =
          options.healText === undefined
            ? original.tokenizer.encode(options.calibrationText)
            : options.healText === 'self'
              ? await selfGenerated(
                  original.model,
                  original.tokenizer.bosTokenId ?? original.eosTokenIds[0] ?? 0,
                  options.healTokens ?? 65_536,
                  { seed, onProgress: (done) => onProgress?.('generate healing text', done) },
                )
              : original.tokenizer.encode(options.healText);
        return heal(original.model, m, {
          budget: options.heal!,
          ids: healIds,
          seed,
          ...options.distill,
          onProgress: (done) => onProgress?.('heal', done),
        });
      },
    });
  if (options.sparsity)
    stages.push({
      name: `sparsity ${options.sparsity}`,
      run: async (m) => changed(m, (copy) => pruneMagnitude(copy, options.sparsity!)),
    });
  if (options.quantize)
    stages.push({
      name: `quantize ${options.quantize}`,
      run: async (m) =>
        changed(m, async (copy) =>
          quantize(copy, {
            scheme: options.quantize!,
            embeddings: options.quantizeEmbeddings ?? false,
            ...(options.embeddingBits !== undefined && { embeddingBits: options.embeddingBits }),
            ...(options.quantizeGroup !== undefined && { group: options.quantizeGroup }),
            onProgress: (done) => onProgress?.('quantize', done),
          }),
        ),
    });

  const base = await perplexity(original.model, evaluation, {
    onProgress: (done) => onProgress?.('evaluate original', done),
  });
  let current = original.model.share();
  // what the gate returns to: the last model that passed it
  let passed = current;
  const reports: StageReport[] = [];
  let pending: StageReport[] = [];
  let kldNow = 0;
  try {
    for (const stage of stages) {
      const start = performance.now();
      const { model: candidate, detail } = await stage.run(current);
      const moved = await divergence(original.model, candidate, evaluation, {
        onProgress: (done) => onProgress?.(`gate: ${stage.name}`, done),
      });
      const quality = await perplexity(candidate, evaluation);
      const worse = stage.mustImprove === true && !(moved.kld < kldNow);
      const report: StageReport = {
        stage: stage.name,
        accepted: true,
        detail,
        kld: moved.kld,
        sameTop1: moved.sameTop1,
        perplexity: quality.perplexity,
        parameters: parameterCount(candidate),
        seconds: (performance.now() - start) / 1000,
      };
      reports.push(report);
      if (worse) {
        // healing that does not help is dropped; pruning without it still has to pass
        refuse(
          report,
          `it did not bring the model nearer to the original (KLD ${kldNow.toFixed(4)} before)`,
        );
        candidate.dispose();
      } else {
        if (current !== passed) current.dispose();
        current = candidate;
        kldNow = moved.kld;
      }
      if (stage.provisional && Number.isFinite(moved.kld)) {
        pending.push(report);
        continue;
      }
      const broken = rejection(current, kldNow, maxKld);
      if (broken === null) {
        if (passed !== current) passed.dispose();
        passed = current;
      } else {
        for (const r of [...pending, report]) if (r.accepted) refuse(r, broken);
        if (current !== passed) current.dispose();
        current = passed;
        kldNow = reports.findLast((r) => r.accepted)?.kld ?? 0;
      }
      pending = [];
    }
    const rejected = reports.filter((r) => !r.accepted);
    for (const r of rejected) warnings.push(`${r.stage} was undone: ${r.detail}`);
    return await publish(original, current, folder, options, {
      reports,
      warnings,
      maxKld,
      seed,
      calibration,
      evaluation,
      base,
    });
  } finally {
    if (current !== passed) current.dispose();
    passed.dispose();
  }
}

function refuse(report: StageReport, why: string): void {
  report.accepted = false;
  report.detail = `${report.detail}; undone: ${why}`;
}

/** Why a candidate may not stay, or null. */
function rejection(candidate: CausalLM, kld: number, maxKld: number): string | null {
  if (!Number.isFinite(kld)) return 'its outputs are not finite';
  if (kld > maxKld)
    return `KLD ${kld.toFixed(4)} on the held-out text exceeds the limit of ${maxKld} (maxKld); the block before is kept`;
  try {
    exportConfig(candidate.config, candidate.shape);
  } catch (error) {
    return (error as Error).message;
  }
  return null;
}

async function changed(
  model: CausalLM,
  change: (copy: CausalLM) => Promise<string>,
): Promise<{ model: CausalLM; detail: string }> {
  const copy = model.share();
  try {
    return { detail: await change(copy), model: copy };
  } catch (error) {
    copy.dispose();
    throw error;
  }
}

interface Results {
  reports: StageReport[];
  warnings: string[];
  maxKld: number;
  seed: number;
  calibration: readonly number[];
  evaluation: readonly number[];
  base: { perplexity: number; tokens: number };
}

async function publish(
  original: LanguageModel,
  model: CausalLM,
  source: string,
  options: CompressOptions,
  r: Results,
): Promise<CompressionReport> {
  let report: CompressionReport | undefined;
  await saveFolder(
    options.out,
    async (folder) => {
      await writeModel(folder, model, {
        config: exportConfig(model.config, model.shape),
        generationConfig: original.generationConfig,
        files: original.tokenizer.files,
      });
      report = await measureBoth(original, source, folder, options, r);
      await writeNewFile(join(folder, 'report.json'), `${JSON.stringify(report, null, 2)}\n`);
      await writeNewFile(join(folder, 'report.html'), compressionReport(report));
    },
    { overwrite: options.overwrite ?? false, expectedBytes: model.numParameters() * 4 },
  );
  return report!;
}

/** Reloads what was just written, so that every figure after compression is a figure of the files. */
async function measureBoth(
  original: LanguageModel,
  source: string,
  folder: string,
  options: CompressOptions,
  r: Results,
): Promise<CompressionReport> {
  const threads = getThreads();
  using saved = await LanguageModel.fromPretrained(folder);
  const moved = await divergence(original.model, saved.model, r.evaluation);
  const quality = await perplexity(saved.model, r.evaluation);
  const [runBefore, runAfter] = await measureFolders(
    [source, folder],
    threads,
    options.turns ?? 3,
    options.measureMs ?? defaultMeasureMs,
    (done) => options.onProgress?.('measure speed and memory', done),
  );
  const describe = async (
    lm: LanguageModel,
    path: string,
    run: typeof runBefore,
  ): Promise<Measurement> => ({
    ...run!,
    parameters: parameterCount(lm.model),
    diskBytes: await folderBytes(path),
    flopsPerToken: flopsPerToken(lm.model),
  });
  const before: ModelReport = {
    ...(await describe(original, source, runBefore)),
    perplexity: r.base.perplexity,
    kld: 0,
    sameTop1: 1,
  };
  const after: ModelReport = {
    ...(await describe(saved, folder, runAfter)),
    perplexity: quality.perplexity,
    kld: moved.kld,
    sameTop1: moved.sameTop1,
  };
  const prompts = samplePrompts(original, options.evalText);
  const samples = [];
  for (const prompt of prompts)
    samples.push({
      prompt,
      before: (await original.generate(prompt, { maxNewTokens: 40, greedy: true })).newText,
      after: (await saved.generate(prompt, { maxNewTokens: 40, greedy: true })).newText,
    });
  const { prune, quantize: scheme, sparsity, heal: budget, distill } = options;
  const { quantizeGroup, quantizeEmbeddings, embeddingBits } = options;
  return {
    tool: `roots-llm ${await packageVersion()}`,
    architecture: saved.architecture,
    source,
    recipe: JSON.parse(
      JSON.stringify({
        prune,
        heal: budget,
        distill,
        quantize: scheme,
        quantizeGroup,
        quantizeEmbeddings,
        embeddingBits,
        sparsity,
        seed: r.seed,
      }),
    ) as JsonObject,
    maxKld: r.maxKld,
    stages: r.reports,
    before,
    after,
    ratio: {
      disk: before.diskBytes / after.diskBytes,
      prefill: before.prefillMs / after.prefillMs,
      decode: after.decodeTokensPerSecond / before.decodeTokensPerSecond,
      memory: before.peakRssBytes / after.peakRssBytes,
      flops: before.flopsPerToken / after.flopsPerToken,
      perplexity: after.perplexity / before.perplexity,
    },
    evaluation: {
      tokens: r.base.tokens,
      context: original.model.shape.context,
      sha256: hash(options.evalText),
    },
    calibration: { tokens: r.calibration.length, sha256: hash(options.calibrationText) },
    machine: {
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      isa: cpuIsa(),
      threads,
      node: process.versions.node,
      date: new Date().toISOString(),
    },
    samples,
    warnings: r.warnings,
  };
}

/** Two prompts from the evaluation text: its start and its middle, a few words each. */
function samplePrompts(lm: LanguageModel, text: string): string[] {
  const words = text.trim().split(/(?<=\s)/);
  const limit = Math.max(1, Math.floor(lm.model.shape.context / 4));
  const prompts: string[] = [];
  for (const at of [0, Math.floor(words.length / 2)]) {
    const prompt = words
      .slice(at, at + 8)
      .join('')
      .trim();
    if (prompt !== '' && lm.tokenizer.encode(prompt).length <= limit) prompts.push(prompt);
  }
  return prompts;
}

async function packageVersion(): Promise<string> {
  const text = await readFile(new URL('../../package.json', import.meta.url), 'utf8').catch(
    (error: unknown) => {
      throw new FileError('ERR_FILE_NOT_FOUND', 'package.json of roots-llm is missing', {
        cause: error,
      });
    },
  );
  return (JSON.parse(text) as { version: string }).version;
}
