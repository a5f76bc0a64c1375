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
export type { Generation, GenerateOptions, LoadOptions } from './language_model.js';
export { CausalLM } from './models/causal_lm.js';
export type { ForwardInput, ForwardOutput } from './models/causal_lm.js';
export { GPT2LMHeadModel } from './models/gpt2.js';
export { LlamaForCausalLM } from './models/llama.js';
export { enableGrad, isGradEnabled, noGrad } from './autograd/modes.js';
export * from './native/device.js';
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
export { compress } from './compress/recipe.js';
export type { CompressOptions, PruneRatios } from './compress/recipe.js';
export { quantize } from './compress/quantize.js';
export { bench } from './bench/kernels.js';
export type { CompressionReport } from './report/compression.js';
export * from './optim/index.js';
export * as optim from './optim/index.js';
export { autocast, productDtype } from './autograd/modes.js';
export { checkpoint } from './autograd/checkpoint.js';
