// One step of an LSTM (Hochreiter & Schmidhuber 1997) and of a GRU (Cho et al., arXiv 1406.1078), with PyTorch's gate order and
// formulas. The products with the weights come first, as linear(); these fuse everything behind them.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { contiguous } from './cast.js';
import * as check from './check.js';
import { slice } from './view.js';

function checkState(op: string, name: string, t: Tensor, pre: Tensor, gates: number): void {
  check.tensor(op, name, t);
  check.rank(op, name, t, 2, '(B, H)');
  check.sameDtype(op, pre, t, `the products and ${name}`);
  if (pre.rank !== 2 || pre.shape[0] !== t.shape[0] || pre.shape[1] !== gates * t.shape[1]!)
    throw new ShapeError(
      `${op}: expected products of shape [B, ${gates} H] for ${name} ${format(t.shape)}, got ${format(pre.shape)}`,
    );
}

/**
 * pre (B, 4H) = x W_ihᵀ + b + h W_hhᵀ in the order i, f, g, o; c (B, H) → { h, c } (B, H):
 * c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c').
 */
export function lstmCell(pre: Tensor, c: Tensor): { h: Tensor; c: Tensor } {
  check.tensor('lstmCell', 'pre', pre);
  check.floatDtype('lstmCell', pre);
  checkState('lstmCell', 'c', c, pre, 4);
  const [b, h] = c.shape as [number, number];
  return tidy(() => {
    const dense = contiguous(pre.detach());
    const before = contiguous(c.detach());
    const gates = empty([b, 4 * h], pre.dtype);
    // h and c in one tensor, so that one node carries both gradients
    const both = empty([2 * b, h], pre.dtype);
    const half = (t: Tensor, i: number): Tensor => t.view([b, h], [h, 1], t.offset + i * b * h);
    kernels.lstm_cell_forward(dense, before, gates, half(both, 1), half(both, 0));
    const out = record(both, { pre, c }, { gates, before, both }, (dy, s) => {
      const d = contiguous(dy);
      const dpre = empty([b, 4 * h], dy.dtype);
      const dc = empty([b, h], dy.dtype);
      kernels.lstm_cell_backward(
        half(d, 0),
        half(d, 1),
        s.gates,
        s.before,
        half(s.both, 1),
        dpre,
        dc,
      );
      return { pre: dpre, c: dc };
    });
    return { h: slice(out, 0, 0, b), c: slice(out, 0, b, 2 * b) };
  });
}

/**
 * x (B, 3H) = x W_ihᵀ + b_ih, hidden (B, 3H) = h W_hhᵀ + b_hh in the order r, z, n; h (B, H) → (B, H):
 * n = tanh(x_n + σ(r) hidden_n), h' = (1 - z) n + z h.
 */
export function gruCell(x: Tensor, hidden: Tensor, h: Tensor): Tensor {
  check.tensor('gruCell', 'x', x);
  check.tensor('gruCell', 'hidden', hidden);
  check.floatDtype('gruCell', x);
  checkState('gruCell', 'h', h, x, 3);
  checkState('gruCell', 'h', h, hidden, 3);
  const [b, units] = h.shape as [number, number];
  return tidy(() => {
    const gates = empty([b, 4 * units], x.dtype);
    const out = empty([b, units], x.dtype);
    const before = contiguous(h.detach());
    kernels.gru_cell_forward(
      contiguous(x.detach()),
      contiguous(hidden.detach()),
      before,
      gates,
      out,
    );
    return record(out, { x, hidden, h }, { gates, before }, (dy, s) => {
      const dx = empty([b, 3 * units], dy.dtype);
      const dhidden = empty([b, 3 * units], dy.dtype);
      const dh = empty([b, units], dy.dtype);
      kernels.gru_cell_backward(contiguous(dy), s.gates, s.before, dx, dhidden, dh);
      return { x: dx, hidden: dhidden, h: dh };
    });
  });
}
