// The output head and its loss in one operation: logits exist for a few rows at a time only. With gradients wanted they are
// computed right there, while the logits are at hand (as in Liger Kernel, arXiv 2410.10989, section 3.2).
import { timesUpstream } from '../autograd/backward.js';
import { record, willRecord } from '../autograd/record.js';
import { productDtype } from '../autograd/modes.js';
import * as kernels from '../native/kernels.gen.js';
import { empty, full } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { productKernels } from './compute_dtype.js';
import { div, maximum, notEqual } from './elementwise.js';
import { sum } from './reduce.js';
import { reshape, transpose } from './view.js';

export interface LinearCrossEntropyOptions {
  /** Targets with this value count nothing. Default -100. */
  ignoreIndex?: number;
  /** In [0, 1): this share of the target goes to all classes alike. */
  labelSmoothing?: number;
  /** Logits held at once, in elements. Default 2²⁴ (64 MiB of float32). */
  maxLogits?: number;
}

/**
 * Mean over the counted rows of -ln softmax(x Wᵀ)[target]. x (…, C), weight (V, C), targets (…) int → scalar.
 * Equal to `crossEntropy(linear(x, weight), targets)` without ever holding the (…, V) logits. NaN when no target counts.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const op = 'linearCrossEntropy';
  check.tensor(op, 'x', x);
  check.tensor(op, 'weight', weight);
  check.tensor(op, 'targets', targets);
  check.knownOptions(op, options, ['ignoreIndex', 'labelSmoothing', 'maxLogits']);
  const { ignoreIndex = -100, labelSmoothing = 0, maxLogits = 2 ** 24 } = options;
  check.integer(op, 'ignoreIndex', ignoreIndex, -Number.MAX_SAFE_INTEGER);
  check.number(op, 'labelSmoothing', labelSmoothing, 0, 1);
  check.integer(op, 'maxLogits', maxLogits, 1);
  check.minRank(op, x, 1);
  check.rank(op, 'weight', weight, 2, '(V, C)');
  check.sameDtype(op, x, weight, 'x and weight');
  check.floatDtype(op, x);
  check.indexDtype(op, 'targets', targets);
  const [classes, width] = weight.shape as [number, number];
  if (x.shape.at(-1) !== width)
    throw new ShapeError(
      `${op}: x ${format(x.shape)} and weight ${format(weight.shape)} differ in the last dimension`,
    );
  const lead = x.shape.slice(0, -1);
  check.shape(op, 'targets', targets, lead);
  if (isHalf(x.dtype))
    return tidy(() =>
      linearCrossEntropy(cast(x, 'float32'), cast(weight, 'float32'), targets, options),
    );
  const rows = lead.reduce((a, d) => a * d, 1);
  const step = Math.max(1, Math.min(rows, Math.floor(maxLogits / Math.max(1, classes))));
  // these gradients are made before a loss scale reaches them: in float16 many would vanish
  const { linear } = productKernels(x.dtype);
  const { matmul } = productDtype() === 'float16' ? kernels : productKernels(x.dtype);
  const recording = willRecord(x, weight);
  const { dtype } = x;
  return tidy(() => {
    const flat = contiguous(reshape(x.detach(), [rows, width]));
    const w = contiguous(weight.detach());
    const ids = contiguous(reshape(targets.detach(), [rows]));
    const losses = empty([rows], dtype);
    const counted = sum(cast(notEqual(ids, ignoreIndex), dtype));
    // rows of zeros where nothing counts: the reciprocal of 1 does no harm there
    const one = full([], 1, { dtype, device: x.device });
    const each = div(one, maximum(counted, one));
    const dx = recording ? empty([rows, width], dtype) : null;
    const dw = recording ? empty([classes, width], dtype) : null;
    if (recording && rows === 0) kernels.fill(dw!, 0);
    const logits = empty([step, classes], dtype);
    const lse = empty([step], dtype);
    for (let from = 0; from < rows; from += step) {
      const count = Math.min(step, rows - from);
      const part = (t: Tensor, columns: number, at: number): Tensor =>
        columns > 0
          ? t.view([count, columns], [columns, 1], t.offset + at * columns)
          : t.view([count], [1], t.offset + at);
      const [xs, ys, ts, ls, es] = [
        part(flat, width, from),
        part(logits, classes, 0),
        part(ids, 0, from),
        part(losses, 0, from),
        part(lse, 0, 0),
      ] as const;
      linear(xs, w, null, null, null, ys, null, 0);
      kernels.cross_entropy_forward(ys, ts, ls, es, ignoreIndex, labelSmoothing);
      if (!recording) continue;
      const share = each.view([count], [0], 0);
      const dense = contiguous(share);
      kernels.cross_entropy_backward(dense, ys, ts, es, ys, ignoreIndex, labelSmoothing);
      matmul(ys, w, part(dx!, width, from), 0);
      matmul(transpose(ys), xs, dw!, from === 0 ? 0 : 1);
    }
    const loss = div(sum(losses), counted);
    return record(loss, { x, weight }, { dx, dw }, (dy, s, { last }) => ({
      x: reshape(timesUpstream(s.dx!, dy, last), [...lead, width]),
      weight: timesUpstream(s.dw!, dy, last),
    }));
  });
}
