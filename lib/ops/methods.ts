// Every op whose first argument is a Tensor is also a method of Tensor: x.matmul(w).softmax(). One mapped type and
// one loop; no second declaration per op.
import { backward } from '../autograd/backward.js';
import type { BackwardOptions } from '../autograd/backward.js';
import { Tensor } from '../tensor/tensor.js';
import * as ops from './index.js';

type Ops = typeof ops;
// The filter (first argument is no array) sits in the value, which is resolved lazily: as a key filter it would need
// the type of Tensor while that is being defined.
type Method<F> = F extends (x: infer X, ...rest: infer R) => infer Result
  ? [X] extends [readonly unknown[]]
    ? never
    : (...rest: R) => Result
  : never;
export type TensorMethods = { [K in keyof Ops]: Method<Ops[K]> };

declare module '../tensor/tensor.js' {
  // oxlint-disable-next-line typescript/no-empty-object-type -- declaration merging
  interface Tensor extends TensorMethods {
    /** Adds the gradient of this tensor to `grad` of every leaf it was computed from. */
    backward(gradient?: Tensor, options?: BackwardOptions): void;
  }
}

const prototype = Tensor.prototype as unknown as Record<string, unknown>;
for (const [name, op] of Object.entries(ops)) {
  if (typeof op !== 'function' || name in prototype) continue;
  prototype[name] = function (this: Tensor, ...rest: unknown[]) {
    return (op as (...args: unknown[]) => unknown)(this, ...rest);
  };
}
prototype['backward'] = function (this: Tensor, gradient?: Tensor, options?: BackwardOptions) {
  backward(this, gradient, options);
};
