// The public API: re-exports only.
import './ops/methods.js';

export { backward } from './autograd/backward.js';
export { gradcheck } from './autograd/gradcheck.js';
export { divergence } from './eval/divergence.js';
export type { DivergenceResult } from './eval/divergence.js';
export { perplexity } from './eval/perplexity.js';
export type { PerplexityOptions, PerplexityResult } from './eval/perplexity.js';
export type { FinishReason } from './generate/generate.js';
export type { SamplingOptions } from './generate/sampler.js';
export {
  openModelWeights,
  openSafetensors,
  TensorFile,
  writeSafetensors,
} from './io/safetensors.js';
export { LanguageModel } from './language_model.js';
export type { Generation, GenerateOptions, LoadOptions, Prediction } from './language_model.js';
export { CausalLM } from './models/causal_lm.js';
export type { ForwardInput, ForwardOutput } from './models/causal_lm.js';
export { exportGguf } from './models/gguf.js';
export type { GgufOptions, GgufResult } from './models/gguf.js';
export type { GgufType } from './io/gguf.js';
export { GPT2LMHeadModel } from './models/gpt2.js';
export { LstmForCausalLM } from './models/lstm.js';
export { SequenceClassifier } from './models/sequence_classification.js';
export { LlamaForCausalLM } from './models/llama.js';
export { enableGrad, isGradEnabled, noGrad } from './autograd/modes.js';
export {
  asGraph,
  devices,
  getThreads,
  graphCounts,
  memory,
  releaseCachedMemory,
  resetPeakMemory,
  setMemoryLimit,
  setThreads,
  synchronize,
} from './native/device.js';
export type { Device, DeviceInfo, MemoryInfo } from './native/device.js';
export { defaultDevice, setDefaultDevice } from './tensor/device.js';
export type { DeviceOption } from './tensor/device.js';
export { NativeLoadError } from './native/load.js';
export * from './ops/index.js';
export { arange, full, ones, tensor, zeros } from './tensor/create.js';
export type { TensorOptions } from './tensor/create.js';
export type { DType, TypedArray } from './tensor/dtype.js';
export * from './tensor/errors.js';
export { Generator, manualSeed, rand, randn } from './tensor/random.js';
export { keep, tidy } from './tensor/scope.js';
export { Tensor } from './tensor/tensor.js';
export { Tokenizer } from './text/tokenizer.js';
export { byteTokenizer } from './text/byte_tokenizer.js';
export type { Dataset } from './data/dataset.js';
export { TokenDataset } from './data/token_dataset.js';
export type { TokenBatch } from './data/token_dataset.js';
export { Trainer, interruptedExitCode } from './train/trainer.js';
export type {
  TrainerCallback,
  TrainerControl,
  TrainerOptions,
  TrainerState,
  TrainResult,
} from './train/trainer.js';
export { TrainingArguments } from './train/arguments.js';
export type { PartialTrainingOptions, TrainingOptions } from './train/arguments.js';
export { trainLanguageModel } from './train/language_model.js';
export { causalLM, classification } from './train/objectives.js';
export { maskTokens, maskedLM } from './train/masked_lm.js';
export type { MaskedLMOptions, MaskedLanguageModel } from './train/masked_lm.js';
export type { Objective, StepLoss } from './train/objectives.js';
export { createModel, presets } from './train/presets.js';
export type { FinetuneOptions, Label } from './train/classify.js';
export { distillation } from './compress/distill/objective.js';
export type { DistillOptions } from './compress/distill/objective.js';
export { TeacherCache } from './compress/distill/teacher_cache.js';
export { heal } from './compress/heal.js';
export * as nn from './nn/index.js';
export { compress } from './compress/recipe.js';
export type { CompressOptions, PruneRatios } from './compress/recipe.js';
export { quantize } from './models/quantize.js';
export { bench } from './bench/kernels.js';
export type { CompressionReport } from './report/compression.js';
export * from './optim/index.js';
export * as optim from './optim/index.js';
export { autocast, productDtype } from './autograd/modes.js';
export { checkpoint } from './autograd/checkpoint.js';
