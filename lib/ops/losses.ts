// Loss functions.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, emptyLike } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { div, exp, maximum, mul, notEqual, square, sub } from './elementwise.js';
import { mean, sum } from './reduce.js';
import { logSoftmax } from './softmax.js';
import { full } from '../tensor/create.js';
import { reshape } from './view.js';

export type Reduction = 'mean' | 'sum' | 'none';

export interface CrossEntropyOptions {
  /** Targets with this value count nothing. */
  ignoreIndex?: number;
  /** In [0, 1): this share of the target goes to all classes alike (arXiv 1512.00567). */
  labelSmoothing?: number;
  /** 'mean' is over the targets that count. */
  reduction?: Reduction;
}

/**
 * -ln softmax(logits)[target], by a kernel that keeps no probabilities. logits (…, V), targets (…) int → scalar, or
 * (…) with reduction 'none'. With no target that counts, the mean is NaN, as in the reference frameworks.
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): Tensor {
  check.tensor('crossEntropy', 'logits', logits);
  check.tensor('crossEntropy', 'targets', targets);
  check.knownOptions('crossEntropy', options, ['ignoreIndex', 'labelSmoothing', 'reduction']);
  const { ignoreIndex = -100, labelSmoothing = 0, reduction = 'mean' } = options;
  check.oneOf('crossEntropy', 'reduction', reduction, ['mean', 'sum', 'none']);
  check.number('crossEntropy', 'labelSmoothing', labelSmoothing, 0, 1);
  check.integer('crossEntropy', 'ignoreIndex', ignoreIndex, -Number.MAX_SAFE_INTEGER);
  check.minRank('crossEntropy', logits, 1);
  check.floatDtype('crossEntropy', logits);
  check.indexDtype('crossEntropy', 'targets', targets);
  const lead = logits.shape.slice(0, -1);
  if (format(targets.shape) !== format(lead))
    throw new ShapeError(
      `crossEntropy: targets must have shape ${format(lead)} (logits ${format(logits.shape)} without the class axis), got ${format(targets.shape)}; ` +
        'targets are class indices, not one-hot vectors',
    );
  if (isHalf(logits.dtype))
    return tidy(() => crossEntropy(cast(logits, 'float32'), targets, options));
  const rows = lead.reduce((a, d) => a * d, 1);
  const width = logits.shape.at(-1)!;
  return tidy(() => {
    const flat = contiguous(reshape(logits.detach(), [rows, width]));
    const ids = contiguous(reshape(targets, [rows]));
    const loss = empty([rows], logits.dtype);
    const lse = empty([rows], logits.dtype);
    kernels.cross_entropy_forward(flat, ids, loss, lse, ignoreIndex, labelSmoothing);
    const each = record(loss, { logits }, { flat, ids, lse }, (dy, s) => {
      const dlogits = emptyLike(s.flat);
      kernels.cross_entropy_backward(
        contiguous(dy),
        s.flat,
        s.ids,
        s.lse,
        dlogits,
        ignoreIndex,
        labelSmoothing,
      );
      return { logits: reshape(dlogits, [...lead, width]) };
    });
    if (reduction === 'none') return reshape(each, lead);
    if (reduction === 'sum') return sum(each);
    const counted = sum(cast(notEqual(ids, ignoreIndex), logits.dtype));
    return div(sum(each), counted);
  });
}

function reduced(x: Tensor, reduction: Reduction): Tensor {
  return reduction === 'mean' ? mean(x) : reduction === 'sum' ? sum(x) : contiguous(x);
}

/** (x - y)², reduced. Both (…) → scalar, or (…) with reduction 'none'. */
export function mseLoss(x: Tensor, y: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  check.knownOptions('mseLoss', options, ['reduction']);
  const reduction = options.reduction ?? 'mean';
  check.oneOf('mseLoss', 'reduction', reduction, ['mean', 'sum', 'none']);
  check.tensor('mseLoss', 'x', x);
  check.tensor('mseLoss', 'y', y);
  check.shape('mseLoss', 'y', y, x.shape);
  return tidy(() => reduced(square(sub(x, y)), reduction));
}

/**
 * T² · KL(softmax(target/T) ‖ softmax(logits/T)), averaged over rows: the distillation loss of Hinton et al.
 * (arXiv 1503.02531). logits, target (…, V) → scalar
 */
export function klDiv(
  logits: Tensor,
  target: Tensor,
  options: { temperature?: number } = {},
): Tensor {
  check.knownOptions('klDiv', options, ['temperature']);
  const t = options.temperature ?? 1;
  check.number('klDiv', 'temperature', t, Number.MIN_VALUE);
  check.tensor('klDiv', 'logits', logits);
  check.tensor('klDiv', 'target', target);
  check.shape('klDiv', 'target', target, logits.shape);
  check.floatDtype('klDiv', logits);
  const rows = Math.max(1, logits.size / Math.max(1, logits.shape.at(-1)!));
  return tidy(() => {
    const q = logSoftmax(mul(logits, 1 / t));
    const p = logSoftmax(mul(target, 1 / t));
    // p = 0 contributes 0: the floor keeps 0 · ∞ away without touching what float32 can represent
    const floor = full([], -1e4, { dtype: p.dtype, device: p.device });
    const difference = sub(maximum(p, floor), maximum(q, floor));
    return mul(sum(mul(exp(p), difference)), (t * t) / rows);
  });
}
