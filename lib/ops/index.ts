// Every op, one line per file.
export * from './attention.js';
export * from './cast.js';
export * from './dropout.js';
export * from './elementwise.js';
export * from './index_select.js';
export * from './layer_norm.js';
export * from './linear_cross_entropy.js';
export * from './linear_kl_div.js';
export * from './losses.js';
export * from './matmul.js';
export * from './matmul_i8.js';
export * from './recurrent.js';
export * from './reduce.js';
export * from './rms_norm.js';
export * from './rope.js';
export * from './softmax.js';
export * from './view.js';
