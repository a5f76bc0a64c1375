// The public API: re-exports only.
import './ops/methods.js';

export { backward } from './autograd/backward.js';
export { gradcheck } from './autograd/gradcheck.js';
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
