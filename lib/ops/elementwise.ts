// Element-wise ops with broadcasting. The formulas are in native/core/elementwise.h.
import { unbroadcast } from '../autograd/backward.js';
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import type { TensorArg } from '../native/load.js';
import { empty, full } from '../tensor/create.js';
import { isFloat, isHalf, promote } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import { tidy } from '../tensor/scope.js';
import { broadcastShapes, broadcastStrides, sameShape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast } from './cast.js';
import * as check from './check.js';
import { computable, restore } from './compute_dtype.js';

type UnaryForward = (x: TensorArg, out: TensorArg) => void;
type UnaryBackward = (dy: TensorArg, x: TensorArg, dx: TensorArg) => void;

function unary(op: string, x: Tensor, forward: UnaryForward, backward: UnaryBackward): Tensor {
  check.tensor(op, 'x', x);
  if (!check.isComputeFloat(x))
    return tidy(() => restore(unary(op, computable(x), forward, backward), x.dtype));
  const out = empty(x.shape, x.dtype);
  forward(x, out);
  return record(out, { x }, { x }, (dy, s) => {
    const dx = empty(dy.shape, dy.dtype);
    backward(dy, s.x, dx);
    return { x: dx };
  });
}

/** e^x, element by element. (…) → (…) */
export function exp(x: Tensor): Tensor {
  return unary('exp', x, kernels.exp_forward, kernels.exp_backward);
}
/** Natural logarithm; -Infinity at 0, NaN below. (…) → (…) */
export function log(x: Tensor): Tensor {
  return unary('log', x, kernels.log_forward, kernels.log_backward);
}
/** Square root; NaN below 0. (…) → (…) */
export function sqrt(x: Tensor): Tensor {
  return unary('sqrt', x, kernels.sqrt_forward, kernels.sqrt_backward);
}
/** 1 / sqrt(x). (…) → (…) */
export function rsqrt(x: Tensor): Tensor {
  return unary('rsqrt', x, kernels.rsqrt_forward, kernels.rsqrt_backward);
}
/** 1 / x. (…) → (…) */
export function reciprocal(x: Tensor): Tensor {
  return unary('reciprocal', x, kernels.reciprocal_forward, kernels.reciprocal_backward);
}
/** x². (…) → (…) */
export function square(x: Tensor): Tensor {
  return unary('square', x, kernels.square_forward, kernels.square_backward);
}
/** |x|; the gradient at 0 is 0. (…) → (…) */
export function abs(x: Tensor): Tensor {
  return unary('abs', x, kernels.abs_forward, kernels.abs_backward);
}
/** -x. (…) → (…) */
export function neg(x: Tensor): Tensor {
  return unary('neg', x, kernels.neg_forward, kernels.neg_backward);
}
/** Hyperbolic tangent. (…) → (…) */
export function tanh(x: Tensor): Tensor {
  return unary('tanh', x, kernels.tanh_forward, kernels.tanh_backward);
}
/** 1 / (1 + e^-x). (…) → (…) */
export function sigmoid(x: Tensor): Tensor {
  return unary('sigmoid', x, kernels.sigmoid_forward, kernels.sigmoid_backward);
}
/** Gauss error function. (…) → (…) */
export function erf(x: Tensor): Tensor {
  return unary('erf', x, kernels.erf_forward, kernels.erf_backward);
}
/** ln(1 + e^x), without overflow. (…) → (…) */
export function softplus(x: Tensor): Tensor {
  return unary('softplus', x, kernels.softplus_forward, kernels.softplus_backward);
}
/** max(x, 0); the gradient at 0 is 0. (…) → (…) */
export function relu(x: Tensor): Tensor {
  return unary('relu', x, kernels.relu_forward, kernels.relu_backward);
}
/** x · sigmoid(x), also called swish (arXiv 1702.03118). (…) → (…) */
export function silu(x: Tensor): Tensor {
  return unary('silu', x, kernels.silu_forward, kernels.silu_backward);
}
/**
 * GELU (arXiv 1606.08415): x/2 (1 + erf(x/√2)), or with `approximate: 'tanh'` GPT-2's
 * x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))). (…) → (…)
 */
export function gelu(x: Tensor, options: { approximate?: 'none' | 'tanh' } = {}): Tensor {
  check.knownOptions('gelu', options, ['approximate']);
  const approximate = options.approximate ?? 'none';
  check.oneOf('gelu', 'approximate', approximate, ['none', 'tanh']);
  return approximate === 'tanh'
    ? unary('gelu', x, kernels.gelu_tanh_forward, kernels.gelu_tanh_backward)
    : unary('gelu', x, kernels.gelu_erf_forward, kernels.gelu_erf_backward);
}

/** silu(gate) · up, the gate of Llama's feed-forward (arXiv 2002.05202). Both (…) → (…) */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  check.tensor('swiglu', 'gate', gate);
  check.tensor('swiglu', 'up', up);
  check.sameDtype('swiglu', gate, up, 'gate and up');
  check.shape('swiglu', 'up', up, gate.shape);
  if (!check.isComputeFloat(gate))
    return tidy(() => restore(swiglu(computable(gate), computable(up)), gate.dtype));
  const out = empty(gate.shape, gate.dtype);
  kernels.swiglu_forward(gate, up, out);
  return record(out, { gate, up }, { gate, up }, (dy, s) => {
    const dgate = empty(dy.shape, dy.dtype);
    const dup = empty(dy.shape, dy.dtype);
    kernels.swiglu_backward(dy, s.gate, s.up, dgate, dup);
    return { gate: dgate, up: dup };
  });
}

type BinaryKernel = (a: TensorArg, b: TensorArg, out: TensorArg) => void;

/** A view of x with the shape of a broadcast result: stretched axes have stride 0. */
function stretch(x: Tensor, shape: readonly number[]): Tensor {
  return sameShape(x.shape, shape)
    ? x
    : x.view(shape, broadcastStrides(x.shape, x.strides, shape), x.offset);
}

function binaryDtype(a: Tensor, b: Tensor, floatOnly: boolean): DType {
  const dtype = promote(a.dtype, b.dtype);
  if (isFloat(dtype)) return dtype;
  if (floatOnly) return 'float32';
  return dtype === 'int64' ? 'int64' : 'int32';
}

interface BinaryRule {
  kernel: BinaryKernel;
  /** true division and the like: integers become float32 */
  floatOnly?: boolean;
  /** gradients of a and b before they are summed to the inputs' shapes */
  gradient: (dy: Tensor, a: Tensor, b: Tensor) => [Tensor, Tensor];
  /** whether the gradient needs the inputs */
  saves: boolean;
}

function binary(op: string, a: Tensor, b: Tensor, rule: BinaryRule): Tensor {
  check.tensor(op, 'a', a);
  check.tensor(op, 'b', b);
  const dtype = binaryDtype(a, b, rule.floatOnly ?? false);
  const compute = isHalf(dtype) ? 'float32' : dtype;
  if (a.dtype !== compute || b.dtype !== compute)
    return tidy(() => {
      const x = a.dtype === compute ? a : cast(a, compute);
      const y = b.dtype === compute ? b : cast(b, compute);
      return restore(binary(op, x, y, rule), dtype);
    });
  const shape = broadcastShapes(op, a.shape, b.shape);
  const out = empty(shape, dtype);
  const x = stretch(a, shape);
  const y = stretch(b, shape);
  rule.kernel(x, y, out);
  if (x !== a) x.dispose();
  if (y !== b) y.dispose();
  if (!isFloat(dtype)) return out;
  const shapeA = a.shape;
  const shapeB = b.shape;
  return record(out, { a, b }, rule.saves ? { a, b } : { a: null, b: null }, (dy, s) => {
    const [da, db] = rule.gradient(dy, s.a!, s.b!);
    return { a: unbroadcast(da, shapeA), b: unbroadcast(db, shapeB) };
  });
}

/** x · scale + shift with plain numbers. (…) → (…) */
function affine(op: string, x: Tensor, scale: number, shift: number): Tensor {
  check.tensor(op, 'x', x);
  if (!check.isComputeFloat(x))
    return tidy(() => restore(affine(op, computable(x), scale, shift), x.dtype));
  const out = empty(x.shape, x.dtype);
  kernels.affine(x, out, scale, shift);
  return record(out, { x }, {}, (dy) => {
    const dx = empty(dy.shape, dy.dtype);
    kernels.affine(dy, dx, scale, 0);
    return { x: dx };
  });
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number';
}

/** A number as a tensor that takes the other operand's dtype (float32 beside integers when it is not whole). */
function scalarLike(value: number, other: Tensor): Tensor {
  const dtype = isFloat(other.dtype)
    ? other.dtype
    : Number.isInteger(value)
      ? other.dtype === 'bool'
        ? 'int32'
        : other.dtype
      : 'float32';
  return full([], value, { dtype, device: other.device });
}

const negated = (dy: Tensor): Tensor => affine('neg', dy, -1, 0);

const addRule: BinaryRule = { kernel: kernels.add, saves: false, gradient: (dy) => [dy, dy] };
const subRule: BinaryRule = {
  kernel: kernels.sub,
  saves: false,
  gradient: (dy) => [dy, negated(dy)],
};
const mulRule: BinaryRule = {
  kernel: kernels.mul,
  saves: true,
  gradient: (dy, a, b) => [mul(dy, b), mul(dy, a)],
};
const divRule: BinaryRule = {
  kernel: kernels.div,
  floatOnly: true,
  saves: true,
  gradient: (dy, a, b) => {
    const da = div(dy, b);
    return [da, negated(div(mul(da, a), b))];
  },
};
// At a tie each side receives half, as in the reference frameworks.
function extremumRule(kernel: BinaryKernel, wins: (a: Tensor, b: Tensor) => Tensor): BinaryRule {
  return {
    kernel,
    saves: true,
    gradient: (dy, a, b) => {
      const half = mul(cast(equal(a, b), dy.dtype), 0.5);
      return [
        mul(dy, add(cast(wins(a, b), dy.dtype), half)),
        mul(dy, add(cast(wins(b, a), dy.dtype), half)),
      ];
    },
  };
}
const maximumRule: BinaryRule = extremumRule(kernels.maximum, greater);
const minimumRule: BinaryRule = extremumRule(kernels.minimum, less);

/** a + b, with broadcasting; b may be a number. */
export function add(a: Tensor, b: Tensor | number): Tensor {
  if (isNumber(b))
    return isFloat(a.dtype)
      ? affine('add', a, 1, b)
      : tidy(() => binary('add', a, scalarLike(b, a), addRule));
  return binary('add', a, b, addRule);
}
/** a - b, with broadcasting; b may be a number. */
export function sub(a: Tensor, b: Tensor | number): Tensor {
  if (isNumber(b))
    return isFloat(a.dtype)
      ? affine('sub', a, 1, -b)
      : tidy(() => binary('sub', a, scalarLike(b, a), subRule));
  return binary('sub', a, b, subRule);
}
/** a · b element by element, with broadcasting; b may be a number. */
export function mul(a: Tensor, b: Tensor | number): Tensor {
  if (isNumber(b))
    return isFloat(a.dtype)
      ? affine('mul', a, b, 0)
      : tidy(() => binary('mul', a, scalarLike(b, a), mulRule));
  return binary('mul', a, b, mulRule);
}
/** a / b, with broadcasting; b may be a number. Integers are divided as float32. */
export function div(a: Tensor, b: Tensor | number): Tensor {
  if (isNumber(b)) return tidy(() => binary('div', a, scalarLike(b, a), divRule));
  return binary('div', a, b, divRule);
}
/** The larger of a and b, with broadcasting; NaN wins. The gradient is shared at a tie. */
export function maximum(a: Tensor, b: Tensor): Tensor {
  return binary('maximum', a, b, maximumRule);
}
/** The smaller of a and b, with broadcasting; NaN wins. The gradient is shared at a tie. */
export function minimum(a: Tensor, b: Tensor): Tensor {
  return binary('minimum', a, b, minimumRule);
}

function compare(op: string, a: Tensor, b: Tensor | number, kernel: BinaryKernel): Tensor {
  return tidy(() => {
    check.tensor(op, 'a', a);
    const other = isNumber(b) ? scalarLike(b, a) : b;
    check.tensor(op, 'b', other);
    const dtype = binaryDtype(a, other, false);
    const compute = isHalf(dtype) ? 'float32' : dtype;
    const x = a.dtype === compute ? a : cast(a, compute);
    const y = other.dtype === compute ? other : cast(other, compute);
    const shape = broadcastShapes(op, a.shape, other.shape);
    const out = empty(shape, 'bool');
    kernel(stretch(x, shape), stretch(y, shape), out);
    return out;
  });
}

/** a = b as bool, with broadcasting. NaN equals nothing. */
export function equal(a: Tensor, b: Tensor | number): Tensor {
  return compare('equal', a, b, kernels.equal);
}
/** a ≠ b as bool, with broadcasting. */
export function notEqual(a: Tensor, b: Tensor | number): Tensor {
  return compare('notEqual', a, b, kernels.not_equal);
}
/** a < b as bool, with broadcasting. */
export function less(a: Tensor, b: Tensor | number): Tensor {
  return compare('less', a, b, kernels.less);
}
/** a ≤ b as bool, with broadcasting. */
export function lessEqual(a: Tensor, b: Tensor | number): Tensor {
  return compare('lessEqual', a, b, kernels.less_equal);
}
/** a > b as bool, with broadcasting. */
export function greater(a: Tensor, b: Tensor | number): Tensor {
  return compare('greater', a, b, kernels.greater);
}
/** a ≥ b as bool, with broadcasting. */
export function greaterEqual(a: Tensor, b: Tensor | number): Tensor {
  return compare('greaterEqual', a, b, kernels.greater_equal);
}

/** Elements limited to [low, high]; NaN stays NaN. The gradient passes inside the limits, bounds included. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  check.tensor('clamp', 'x', x);
  check.number('clamp', 'low', low);
  check.number('clamp', 'high', high, low);
  if (!check.isComputeFloat(x))
    return tidy(() => restore(clamp(computable(x), low, high), x.dtype));
  const out = empty(x.shape, x.dtype);
  kernels.clamp_forward(x, out, low, high);
  return record(out, { x }, { x }, (dy, s) => {
    const dx = empty(dy.shape, dy.dtype);
    kernels.clamp_backward(dy, s.x, dx, low, high);
    return { x: dx };
  });
}

/** a where condition is true, b elsewhere, with broadcasting. condition is bool. */
export function where(condition: Tensor, a: Tensor | number, b: Tensor | number): Tensor {
  check.tensor('where', 'condition', condition);
  check.dtype('where', 'condition', condition, 'bool');
  if (isNumber(a) || isNumber(b))
    return tidy(() => {
      const like = isNumber(a) ? (isNumber(b) ? full([], 0, { device: condition.device }) : b) : a;
      return where(
        condition,
        isNumber(a) ? scalarLike(a, like) : a,
        isNumber(b) ? scalarLike(b, like) : b,
      );
    });
  check.tensor('where', 'a', a);
  check.tensor('where', 'b', b);
  const dtype = promote(a.dtype, b.dtype);
  const compute = isHalf(dtype) ? 'float32' : binaryDtype(a, b, false);
  if (a.dtype !== compute || b.dtype !== compute)
    return tidy(() => {
      const y = where(
        condition,
        a.dtype === compute ? a : cast(a, compute),
        b.dtype === compute ? b : cast(b, compute),
      );
      return y.dtype === dtype ? y : cast(y, dtype);
    });
  const shape = broadcastShapes(
    'where',
    broadcastShapes('where', a.shape, b.shape),
    condition.shape,
  );
  const out = empty(shape, dtype);
  tidy(() => kernels.where(stretch(condition, shape), stretch(a, shape), stretch(b, shape), out));
  if (!isFloat(dtype)) return out;
  const shapeA = a.shape;
  const shapeB = b.shape;
  return record(out, { a, b }, { condition }, (dy, s) => ({
    a: unbroadcast(where(s.condition, dy, 0), shapeA),
    b: unbroadcast(where(s.condition, 0, dy), shapeB),
  }));
}

/** x with `value` where mask (bool, broadcastable) is true. */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  check.tensor('maskedFill', 'x', x);
  check.number('maskedFill', 'value', value);
  return tidy(() => where(mask, full([], value, { dtype: x.dtype, device: x.device }), x));
}
