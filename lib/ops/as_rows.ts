// Kernels of linear layers take matrices; callers have any number of leading axes.
import { empty } from '../tensor/create.js';
import { numel } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import { withKernelEnd } from './linear_end.js';
import type { KernelEnd, LinearOptions } from './linear_end.js';

/**
 * x (…, K), gate and residual of `options` (…, outputs) → (…, outputs) float32 by a kernel of matrices (M, K) and (M, outputs). By views made directly, without autograd: this runs
 * for every layer of every decoded token.
 */
export function asRows(
  x: Tensor,
  outputs: number,
  options: LinearOptions,
  kernel: (rows: Tensor, result: Tensor, end: KernelEnd) => void,
): Tensor {
  const lead = x.shape.slice(0, -1);
  const [m, k] = [numel(lead), x.shape[x.rank - 1]!];
  const dense = x.isContiguous ? x.detach() : contiguous(x);
  const rows = dense.view([m, k], [k, 1], dense.offset);
  const out = empty([...lead, outputs], 'float32');
  const result = out.view([m, outputs], [outputs, 1], 0);
  withKernelEnd(options, m, outputs, (end) => kernel(rows, result, end));
  for (const t of [dense, rows, result]) t.dispose();
  return out;
}
