// Distillation through the output head without ever holding all logits: the student's head and the divergence from the teacher in one
// operation, a few rows at a time, gradients computed while the logits are at hand.
import { timesUpstream } from '../autograd/backward.js';
import { record, willRecord } from '../autograd/record.js';
import { productDtype } from '../autograd/modes.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import * as check from './check.js';
import { productKernels } from './compute_dtype.js';
import { mul } from './elementwise.js';
import { sum } from './reduce.js';
import { reshape, transpose } from './view.js';

export interface LinearKlDivOptions {
  /** Both distributions are softened by it, and the loss multiplied by its square (arXiv 1503.02531). Default 1. */
  temperature?: number;
  /** KL(student ‖ teacher) instead of KL(teacher ‖ student): seeks modes instead of covering them (arXiv 2306.08543). */
  reverse?: boolean;
  /** Logits held at once, in elements. Default 2²² (16 MiB of float32, six times). */
  maxLogits?: number;
}

/**
 * T² KL(softmax(z/T) ‖ softmax(x Wᵀ/T)), the mean over rows. x (…, C), weight (V, C); `teacher(from, count)` gives the teacher's logits
 * z (count, V) for rows from … from + count - 1. → scalar, with gradients for x and weight.
 */
export function linearKlDiv(
  x: Tensor,
  weight: Tensor,
  teacher: (from: number, count: number) => Tensor,
  options: LinearKlDivOptions = {},
): Tensor {
  const op = 'linearKlDiv';
  check.tensor(op, 'x', x);
  check.tensor(op, 'weight', weight);
  check.knownOptions(op, options, ['temperature', 'reverse', 'maxLogits']);
  const { temperature = 1, reverse = false, maxLogits = 2 ** 22 } = options;
  check.number(op, 'temperature', temperature, Number.MIN_VALUE);
  check.rank(op, 'weight', weight, 2, '(V, C)');
  check.sameDtype(op, x, weight, 'x and weight');
  const [classes, width] = weight.shape as [number, number];
  const lead = x.shape.slice(0, -1);
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
    const losses = empty([rows], dtype);
    const dx = recording ? empty([rows, width], dtype) : null;
    const dw = recording ? empty([classes, width], dtype) : null;
    for (let from = 0; from < rows; from += step) {
      const count = Math.min(step, rows - from);
      tidy(() => {
        const part = (t: Tensor): Tensor =>
          t.view([count, width], [width, 1], t.offset + from * width);
        const z = teacher(from, count);
        if (z.shape.length !== 2 || z.shape[0] !== count || z.shape[1] !== classes)
          throw new ShapeError(
            `${op}: the teacher gave ${format(z.shape)}, the student has ${classes} classes: expected [${count}, ${classes}]`,
          );
        const make = (): Tensor => empty([count, classes], dtype);
        const [s, lq, lp] = [make(), make(), make()];
        linear(part(flat), w, null, null, null, s, null, 0);
        if (temperature !== 1) kernels.affine(s, s, 1 / temperature, 0);
        kernels.log_softmax_forward(s, lq);
        kernels.affine(contiguous(z), s, 1 / temperature, 0);
        kernels.log_softmax_forward(s, lp);
        // an impossible token contributes nothing: the floor keeps 0 · ∞ away
        kernels.clamp_forward(lp, lp, -1e4, 0);
        kernels.clamp_forward(lq, lq, -1e4, 0);
        const [p, q] = [make(), make()];
        kernels.exp_forward(lp, p);
        kernels.exp_forward(lq, q);
        const loss = losses.view([count], [1], from);
        // s = log ratio, times the weighting distribution
        if (reverse) kernels.sub(lq, lp, s);
        else kernels.sub(lp, lq, s);
        const weighted = lp;
        kernels.mul(reverse ? q : p, s, weighted);
        kernels.reduce_sum(weighted, loss);
        if (!recording) return;
        const d = lq;
        if (reverse) {
          // q (log q - log p - KL)
          kernels.sub(s, loss.view([count, classes], [1, 0], loss.offset), s);
          kernels.mul(q, s, d);
        } else kernels.sub(q, p, d);
        // d/dz of T² KL is T times that of the softened logits; the mean is over rows
        kernels.affine(d, d, temperature / rows, 0);
        matmul(d, w, part(dx!), 0);
        matmul(transpose(d), part(flat), dw!, from === 0 ? 0 : 1);
      });
    }
    const loss = mul(sum(losses), (temperature * temperature) / rows);
    return record(loss, { x, weight }, { dx, dw }, (dy, g, { last }) => ({
      x: reshape(timesUpstream(g.dx!, dy, last), [...lead, width]),
      weight: timesUpstream(g.dw!, dy, last),
    }));
  });
}
