// LanguageModel: a checkpoint with its tokenizer, in a few lines.
import { stat } from 'node:fs/promises';
import { divergence } from './eval/divergence.js';
import type { DivergenceResult } from './eval/divergence.js';
import { perplexity } from './eval/perplexity.js';
import type { PerplexityOptions, PerplexityResult } from './eval/perplexity.js';
import { generateIds } from './generate/generate.js';
import type { FinishReason } from './generate/generate.js';
import type { SamplingOptions } from './generate/sampler.js';
import { TextStream } from './generate/text_stream.js';
import { saveFolder } from './io/checkpoint.js';
import type { JsonObject } from './io/json.js';
import type { CausalLM } from './models/causal_lm.js';
import type { CacheDType } from './nn/kv_cache.js';
import { tokenIds } from './models/config.js';
import {
  architectureOf,
  loadClassifier,
  loadModel,
  readConfig,
  writeClassifier,
  writeModel,
} from './models/registry.js';
import type { LoadedModel } from './models/registry.js';
import { Embedding } from './nn/embedding.js';
import { Linear } from './nn/linear.js';
import { SequenceClassifier, baseArchitecture } from './models/sequence_classification.js';
import * as check from './ops/check.js';
import { ConfigError, DataError, FileError, OptionError, RootsError } from './tensor/errors.js';
import { resolveDevice } from './tensor/device.js';
import type { DeviceOption } from './tensor/device.js';
import { Generator } from './tensor/random.js';
import { classify, finetuneClassifier, labelSet } from './train/classify.js';
import type { FinetuneOptions, Label } from './train/classify.js';
import type { TrainResult } from './train/trainer.js';
import { Tokenizer } from './text/tokenizer.js';

export interface LoadOptions {
  /** Where the weights go: 'cpu' (the default), 'cuda', or 'auto', the GPU where there is one. */
  device?: DeviceOption;
  /** bfloat16: matrices and the token table are stored so, for inference: half the memory to read; the rest stays float32. */
  dtype?: 'float32' | 'bfloat16';
}

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to generate at most. Default 20, or what `maxLength` leaves. */
  maxNewTokens?: number;
  /** Tokens in all, prompt included. */
  maxLength?: number;
  /** How keys and values are kept; int8 takes a quarter of float32's memory. Default: bfloat16 for quantized models, else as the weights. */
  cacheDtype?: CacheDType;
  /** End the text before the first of these strings. */
  stop?: string | readonly string[];
  /** Ends generation early; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

const generateKeys = [
  'greedy',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'seed',
  'maxNewTokens',
  'maxLength',
  'cacheDtype',
  'stop',
  'signal',
];

export interface Generation {
  /** Prompt and continuation, special tokens left out. */
  text: string;
  /** The continuation alone. */
  newText: string;
  promptTokens: number[];
  /** The new token ids. */
  tokens: number[];
  finishReason: FinishReason;
}

export interface Prediction {
  /** The most likely label, of the type that finetune() was given. */
  label: Label;
  /** Its probability. */
  score: number;
  /** Every label's probability; keys are the labels as strings. */
  scores: Record<string, number>;
}

export class LanguageModel {
  readonly model: CausalLM;
  readonly tokenizer: Tokenizer;
  /** Things about the checkpoint that were accepted but are worth knowing. */
  readonly warnings: readonly string[];
  readonly #config: JsonObject;
  readonly #generationConfig: JsonObject;
  #classifier: SequenceClassifier | null = null;
  #labels: Label[] = [];

  constructor(
    model: CausalLM,
    tokenizer: Tokenizer,
    extra: {
      config?: JsonObject;
      generationConfig?: JsonObject;
      warnings?: readonly string[];
    } = {},
  ) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.warnings = extra.warnings ?? [];
    this.#config = extra.config ?? model.config;
    this.#generationConfig = extra.generationConfig ?? {};
  }

  /** Loads a model folder in the Hugging Face layout (config.json, safetensors, tokenizer.json). */
  static async fromPretrained(folder: string, options: LoadOptions = {}): Promise<LanguageModel> {
    check.knownOptions('fromPretrained', options, ['device', 'dtype']);
    const { dtype = 'float32' } = options;
    const device = resolveDevice('fromPretrained', options.device ?? 'cpu');
    check.oneOf('fromPretrained', 'dtype', dtype, ['float32', 'bfloat16']);
    if (typeof folder !== 'string' || folder === '')
      throw new TypeError('fromPretrained: expected the path of a model folder');
    if (!(await stat(folder).catch(() => null)))
      throw new FileError(
        'ERR_FILE_NOT_FOUND',
        `${folder}: no such model folder; give the path of a folder with config.json, model.safetensors and tokenizer.json`,
      );
    const architecture = await declaredArchitecture(folder);
    const loaded: LoadedModel & { classifier?: SequenceClassifier } =
      architecture !== undefined && baseArchitecture(architecture)
        ? await loadClassifier(folder)
        : await loadModel(folder);
    const { model, config, generationConfig, warnings } = loaded;
    if (dtype === 'bfloat16')
      for (const [, part] of model.namedModules())
        if (part instanceof Linear || part instanceof Embedding) part.storeBfloat16();
    if (device !== 'cpu') (loaded.classifier ?? model).to(device);
    try {
      const tokenizer = await Tokenizer.fromPretrained(folder);
      if (tokenizer.vocabSize > model.shape.vocab)
        throw new ConfigError(
          `${folder}: the tokenizer has ${tokenizer.vocabSize} tokens, the model's vocabulary only ${model.shape.vocab}; they do not belong together`,
        );
      const lm = new LanguageModel(model, tokenizer, { config, generationConfig, warnings });
      if (loaded.classifier) {
        lm.#classifier = loaded.classifier;
        lm.#labels = readLabels(config, loaded.classifier.numLabels);
      }
      return lm;
    } catch (error) {
      model.dispose();
      throw error;
    }
  }

  get architecture(): string {
    const own = this.#classifier?.config['architectures'];
    if (Array.isArray(own)) return String(own[0]);
    return architectureOf(this.#config);
  }

  /** config.json for the model as it is now. */
  get config(): JsonObject {
    return this.model.config;
  }

  get generationConfig(): JsonObject {
    return this.#generationConfig;
  }

  /** Token ids that end a text: generation_config.json, else config.json. */
  get eosTokenIds(): number[] {
    const { vocab } = this.model.shape;
    const own = tokenIds(this.#generationConfig['eos_token_id'], vocab);
    return own.length > 0 ? own : tokenIds(this.#config['eos_token_id'], vocab);
  }

  #limits(promptLength: number, options: GenerateOptions): number {
    check.knownOptions('generate', options, generateKeys);
    if (options.maxNewTokens !== undefined && options.maxLength !== undefined)
      throw new OptionError('generate: give maxNewTokens or maxLength, not both');
    if (options.maxLength !== undefined) {
      check.integer('generate', 'maxLength', options.maxLength, 1);
      if (options.maxLength <= promptLength)
        throw new OptionError(
          `generate: the prompt has ${promptLength} tokens, maxLength ${options.maxLength} leaves nothing to generate; maxLength counts the prompt, maxNewTokens does not`,
        );
      return options.maxLength - promptLength;
    }
    return options.maxNewTokens ?? 20;
  }

  /** Continues a prompt. Greedy unless a sampling option is given. */
  async generate(prompt: string, options: GenerateOptions = {}): Promise<Generation> {
    const pieces = this.#run(prompt, options);
    for (;;) {
      const next = await pieces.next();
      if (next.done) return next.value;
    }
  }

  /** The continuation piece by piece. Pieces are whole characters; what a stop string cuts off never appears. */
  async *stream(prompt: string, options: GenerateOptions = {}): AsyncGenerator<string, Generation> {
    return yield* this.#run(prompt, options);
  }

  async *#run(prompt: string, options: GenerateOptions): AsyncGenerator<string, Generation> {
    const promptTokens = this.tokenizer.encode(prompt);
    const maxNewTokens = this.#limits(promptTokens.length, options);
    const stops =
      options.stop === undefined
        ? []
        : typeof options.stop === 'string'
          ? [options.stop]
          : options.stop;
    const { stop: _stop, maxLength: _maxLength, ...rest } = options;
    const text = new TextStream(this.tokenizer, promptTokens, stops);
    const stopped = [false];
    const reasons: (FinishReason | null)[] = [null];
    const eos = new Set(this.eosTokenIds);
    const tokens: number[] = [];
    for await (const [token] of generateIds(
      this.model,
      [promptTokens],
      { ...rest, maxNewTokens, eosTokenIds: [...eos] },
      stopped,
      reasons,
    )) {
      tokens.push(token!);
      if (eos.has(token!)) continue;
      const piece = text.push(token!);
      if (text.stoppedBy !== null) {
        stopped[0] = true;
        reasons[0] = 'stop';
      }
      if (piece !== '') yield piece;
    }
    const tail = text.finish();
    if (tail !== '') yield tail;
    const newText = text.text;
    const whole =
      text.stoppedBy === null
        ? this.tokenizer.decode([...promptTokens, ...tokens])
        : this.tokenizer.decode(promptTokens) + newText;
    return { text: whole, newText, promptTokens, tokens, finishReason: reasons[0] ?? 'length' };
  }

  /** Continues several prompts at once, whatever their lengths. Stop strings are for `generate` and `stream`. */
  async generateBatch(
    prompts: readonly string[],
    options: Omit<GenerateOptions, 'stop'> = {},
  ): Promise<Generation[]> {
    const ids = prompts.map((p) => this.tokenizer.encode(p));
    const maxNewTokens = this.#limits(Math.max(0, ...ids.map((p) => p.length)), options);
    const { maxLength: _maxLength, ...rest } = options;
    const reasons: (FinishReason | null)[] = prompts.map(() => null);
    const tokens: number[][] = prompts.map(() => []);
    const stopped = prompts.map(() => false);
    for await (const step of generateIds(
      this.model,
      ids,
      { ...rest, maxNewTokens, eosTokenIds: this.eosTokenIds },
      stopped,
      reasons,
    ))
      step.forEach((token, b) => token !== null && tokens[b]!.push(token));
    return prompts.map((_, b) => ({
      text: this.tokenizer.decode([...ids[b]!, ...tokens[b]!]),
      newText: this.tokenizer.decode(tokens[b]!),
      promptTokens: ids[b]!,
      tokens: tokens[b]!,
      finishReason: reasons[b] ?? 'length',
    }));
  }

  /** Perplexity of a text; the convention stands in eval/perplexity.ts and docs/evaluation.md. */
  perplexity(text: string, options: PerplexityOptions = {}): Promise<PerplexityResult> {
    return perplexity(this.model, this.tokenizer.encode(text), options);
  }

  /** How far this model has moved from `reference` on a text. */
  divergenceFrom(
    reference: LanguageModel,
    text: string,
    options: PerplexityOptions = {},
  ): Promise<DivergenceResult> {
    return divergence(reference.model, this.model, this.tokenizer.encode(text), options);
  }

  /**
   * Fine-tunes a classifier on labelled texts: the model gets a head on the last token of a text. Labels are numbers, strings or
   * booleans; `predict` answers with the type that was given. TrainingOptions may be passed; with `outputDir`, checkpoints, log and
   * report stay there. Calling it again with the same labels goes on training.
   */
  async finetune(
    texts: readonly string[],
    labels: readonly Label[],
    options: FinetuneOptions = {},
  ): Promise<TrainResult> {
    if (!Array.isArray(texts) || !Array.isArray(labels))
      throw new TypeError('finetune: expected an array of texts and an array of labels');
    if (texts.length !== labels.length)
      throw new DataError(
        `finetune: ${texts.length} texts, but ${labels.length} labels; one label per text`,
      );
    if (texts.length === 0) throw new DataError('finetune: there are no texts');
    const set = labelSet(labels as readonly Label[]);
    const same = set.length === this.#labels.length && set.every((l, i) => l === this.#labels[i]);
    if (!same || !this.#classifier) {
      this.#classifier?.score.dispose();
      this.#classifier = SequenceClassifier.create(
        this.model,
        set.length,
        new Generator(options.seed ?? 42),
      );
      this.#labels = set;
    }
    if (texts.length < 100)
      process.stderr.write(
        `warning: finetune: ${texts.length} texts are very few; expect a classifier that knows these texts and little else\n`,
      );
    return finetuneClassifier(
      this.#classifier,
      this.tokenizer,
      texts as readonly string[],
      (labels as readonly Label[]).map((l) => set.indexOf(l)),
      { ...options, config: this.#labelConfig() },
    );
  }

  /** The label of a text, or of each of several. `finetune` first, or load a fine-tuned model. */
  predict(text: string): Promise<Prediction>;
  predict(texts: readonly string[]): Promise<Prediction[]>;
  async predict(input: string | readonly string[]): Promise<Prediction | Prediction[]> {
    const classifier = this.#classifier;
    if (!classifier)
      throw new RootsError(
        'ERR_NOT_FINETUNED',
        'predict: this model has no classification head yet; call finetune(texts, labels) first, or load a model that was saved after it',
      );
    const texts = typeof input === 'string' ? [input] : input;
    const rows = await classify(classifier, this.tokenizer, texts, this.model.shape.context);
    const predictions = rows.map((scores) => {
      const best = scores.reduce((a, p, i) => (p > scores[a]! ? i : a), 0);
      return {
        label: this.#labels[best]!,
        score: scores[best]!,
        scores: Object.fromEntries(scores.map((p, i) => [String(this.#labels[i]), p])),
      };
    });
    return typeof input === 'string' ? predictions[0]! : predictions;
  }

  /** What config.json says of the labels: the names other libraries read, and the values as they were given. */
  #labelConfig(): JsonObject {
    return {
      id2label: Object.fromEntries(this.#labels.map((l, i) => [String(i), String(l)])),
      label2id: Object.fromEntries(this.#labels.map((l, i) => [String(l), i])),
      roots_labels: [...this.#labels],
      ...(this.tokenizer.padTokenId !== null && { pad_token_id: this.tokenizer.padTokenId }),
    };
  }

  /** Writes the files of a model folder into an empty folder; `save` does it atomically. */
  async writeTo(folder: string): Promise<void> {
    if (this.#classifier) {
      await writeClassifier(folder, this.#classifier, {
        files: this.tokenizer.files,
        config: this.#labelConfig(),
      });
      return;
    }
    await writeModel(folder, this.model, {
      generationConfig: this.#generationConfig,
      files: this.tokenizer.files,
    });
  }

  /** Saves as a model folder: complete and durable when the promise resolves, or not there at all. */
  async save(folder: string, options: { overwrite?: boolean } = {}): Promise<void> {
    await saveFolder(folder, (temporary) => this.writeTo(temporary), {
      ...options,
      expectedBytes: this.model.numParameters() * 4,
    });
  }

  dispose(): void {
    this.#classifier?.score.dispose();
    this.#classifier = null;
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

async function declaredArchitecture(folder: string): Promise<string | undefined> {
  const list = (await readConfig(folder))['architectures'];
  return Array.isArray(list) && typeof list[0] === 'string' ? list[0] : undefined;
}

/** The labels a saved classifier was trained with, else the names of its id2label. */
function readLabels(config: JsonObject, count: number): Label[] {
  const own = config['roots_labels'];
  if (
    Array.isArray(own) &&
    own.length === count &&
    own.every((l) => ['number', 'string', 'boolean'].includes(typeof l))
  )
    return own as Label[];
  const names = config['id2label'];
  return Array.from({ length: count }, (_, i) => {
    const name =
      names !== null && typeof names === 'object' && !Array.isArray(names)
        ? names[String(i)]
        : undefined;
    return typeof name === 'string' ? name : `LABEL_${i}`;
  });
}
