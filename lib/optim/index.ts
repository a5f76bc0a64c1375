// Optimizers and schedules: `optim` of the public API.
export { Adafactor } from './adafactor.js';
export type { AdafactorOptions } from './adafactor.js';
export { Adam, AdamW } from './adam.js';
export type { AdamOptions, AdamWOptions } from './adam.js';
export { AdamW8bit } from './adamw_8bit.js';
export type { AdamW8bitOptions } from './adamw_8bit.js';
export { Lion } from './lion.js';
export type { LionOptions } from './lion.js';
export { clipGradNorm, gradientScale, GradientScale, Optimizer } from './optimizer.js';
export type { CommonOptions, OptimizerState, ParamGroup } from './optimizer.js';
export { schedule, scheduleNames } from './schedules.js';
export type { Schedule, ScheduleName, ScheduleOptions } from './schedules.js';
export { SGD } from './sgd.js';
export type { SGDOptions } from './sgd.js';
