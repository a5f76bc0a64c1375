// Modules and initialisers: `nn` of the public API.
export { Embedding } from './embedding.js';
export * as init from './init.js';
export { KVCache } from './kv_cache.js';
export { Linear } from './linear.js';
export type { LinearInit, LinearParameterOptions } from './linear.js';
export { Module } from './module.js';
export { LayerNorm, RMSNorm } from './norm.js';
export type { NormOptions } from './norm.js';
export { GRU, LSTM } from './recurrent.js';
export type { RecurrentOptions, RecurrentState } from './recurrent.js';
export { Sequential } from './sequential.js';
export {
  Dropout,
  MLP,
  MultiHeadAttention,
  TransformerDecoder,
  TransformerEncoder,
  TransformerLayer,
} from './transformer.js';
export type {
  AttentionCall,
  AttentionOptions,
  MLPOptions,
  TransformerLayerOptions,
} from './transformer.js';
