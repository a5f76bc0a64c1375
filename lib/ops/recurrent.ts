// LSTM (Hochreiter & Schmidhuber 1997) and GRU (Cho et al., arXiv 1406.1078) with PyTorch's gate order and formulas: one step, and
// whole sequences. The products of the inputs with their weights come first, as linear(); these fuse everything behind them.
import { noGrad } from '../autograd/modes.js';
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { isHalf } from '../tensor/dtype.js';
import { ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast, contiguous } from './cast.js';
import * as check from './check.js';
import { add } from './elementwise.js';
import { linear, matmul } from './matmul.js';
import { sum } from './reduce.js';
import { reshape, slice, transpose } from './view.js';

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

/** Time step `i` of a time-major (T, rows, columns) tensor, as a matrix. */
function step(t: Tensor, i: number): Tensor {
  const [, rows, columns] = t.shape as [number, number, number];
  return t.view([rows, columns], [columns, 1], t.offset + i * rows * columns);
}

/** (B, T, N) ↔ (T, B, N), dense. */
const swapTime = (t: Tensor): Tensor => contiguous(transpose(t, 0, 1));

function checkSequence(
  op: string,
  gates: number,
  pre: Tensor,
  weight: Tensor,
  bias: Tensor,
  states: Record<string, Tensor>,
): [b: number, t: number, h: number] {
  check.tensor(op, 'pre', pre);
  check.rank(op, 'pre', pre, 3, '(B, T, gates H)');
  check.floatDtype(op, pre);
  check.tensor(op, 'weight', weight);
  check.rank(op, 'weight', weight, 2, '(gates H, H)');
  const [b, t, width] = pre.shape as [number, number, number];
  const h = weight.shape[1]!;
  const expected: [string, Tensor, number[]][] = [
    ['weight', weight, [gates * h, h]],
    ['bias', bias, [gates * h]],
    ...Object.entries(states).map(([name, s]): [string, Tensor, number[]] => [name, s, [b, h]]),
  ];
  for (const [name, tensor, shape] of expected) {
    check.tensor(op, name, tensor);
    check.sameDtype(op, pre, tensor, `pre and ${name}`);
    if (format(tensor.shape) !== format(shape))
      throw new ShapeError(
        `${op}: expected ${name} of shape ${format(shape)}, got ${format(tensor.shape)}`,
      );
  }
  if (width !== gates * h || t === 0)
    throw new ShapeError(
      `${op}: expected pre of shape [B, T, ${gates * h}] with T above 0, got ${format(pre.shape)}`,
    );
  return [b, t, h];
}

/** What both sequences give back for the recurrent product: one matrix product over all steps instead of one per step. */
function weightGradients(dhidden: Tensor, before: Tensor): { weight: Tensor; bias: Tensor } {
  const [t, b, width] = dhidden.shape as [number, number, number];
  const rows = reshape(dhidden, [t * b, width]);
  const h = reshape(before, [t * b, before.shape[2]!]);
  return { weight: matmul(transpose(rows, 0, 1), h), bias: sum(rows, { dim: 0 }) };
}

/**
 * An LSTM layer over a sequence. pre (B, T, 4H) = x W_ihᵀ + b_ih, weight (4H, H) = W_hh, bias (4H) = b_hh, h and c (B, H)
 * → y (B, T, H) and the state { h, c } (B, H) after the last step.
 */
export function lstmSequence(
  pre: Tensor,
  weight: Tensor,
  bias: Tensor,
  h: Tensor,
  c: Tensor,
): { y: Tensor; h: Tensor; c: Tensor } {
  const [b, t, units] = checkSequence('lstmSequence', 4, pre, weight, bias, { h, c });
  if (isHalf(pre.dtype))
    return tidy(() => {
      const f = (x: Tensor): Tensor => cast(x, 'float32');
      const out = lstmSequence(f(pre), f(weight), f(bias), f(h), f(c));
      const [y, last, cell] = [out.y, out.h, out.c].map((x) => cast(x, pre.dtype));
      return { y: y!, h: last!, c: cell! };
    });
  return tidy(() => {
    const { hs, cs, gates } = noGrad(() => {
      const products = swapTime(pre);
      const all = {
        hs: empty([t + 1, b, units], pre.dtype),
        cs: empty([t + 1, b, units], pre.dtype),
        gates: empty([t, b, 4 * units], pre.dtype),
      };
      kernels.copy(h, step(all.hs, 0));
      kernels.copy(c, step(all.cs, 0));
      for (let i = 0; i < t; i++)
        tidy(() =>
          kernels.lstm_cell_forward(
            add(step(products, i), linear(step(all.hs, i), weight, bias)),
            step(all.cs, i),
            step(all.gates, i),
            step(all.cs, i + 1),
            step(all.hs, i + 1),
          ),
        );
      return all;
    });
    // y and the last c in one tensor, so that one node carries both gradients
    const both = empty([t + 1, b, units], pre.dtype);
    kernels.copy(steps(hs, 1, t), steps(both, 0, t));
    kernels.copy(step(cs, t), step(both, t));
    const out = record(both, { pre, weight, bias, h, c }, { hs, cs, gates, w: weight }, (dy, s) => {
      const d = contiguous(dy);
      const dpre = empty([t, b, 4 * units], dy.dtype);
      let dh: Tensor | null = null;
      let dc = step(d, t);
      for (let i = t - 1; i >= 0; i--) {
        const next = empty([b, units], dy.dtype);
        kernels.lstm_cell_backward(
          dh ? add(step(d, i), dh) : step(d, i),
          dc,
          step(s.gates, i),
          step(s.cs, i),
          step(s.cs, i + 1),
          step(dpre, i),
          next,
        );
        dh = matmul(step(dpre, i), s.w);
        dc = next;
      }
      return {
        pre: swapTime(dpre),
        ...weightGradients(dpre, steps(s.hs, 0, t)),
        h: dh!,
        c: dc,
      };
    });
    const y = transpose(slice(out, 0, 0, t), 0, 1);
    const last = (i: number): Tensor => reshape(slice(out, 0, i, i + 1), [b, units]);
    return { y, h: last(t - 1), c: last(t) };
  });
}

/** Time steps [from, from + count) of a time-major tensor. */
function steps(x: Tensor, from: number, count: number): Tensor {
  const [, b, n] = x.shape as [number, number, number];
  return x.view([count, b, n], [b * n, n, 1], x.offset + from * b * n);
}

/**
 * A GRU layer over a sequence. pre (B, T, 3H) = x W_ihᵀ + b_ih, weight (3H, H) = W_hh, bias (3H) = b_hh, h (B, H)
 * → y (B, T, H) and h (B, H) after the last step.
 */
export function gruSequence(
  pre: Tensor,
  weight: Tensor,
  bias: Tensor,
  h: Tensor,
): { y: Tensor; h: Tensor } {
  const [b, t, units] = checkSequence('gruSequence', 3, pre, weight, bias, { h });
  if (isHalf(pre.dtype))
    return tidy(() => {
      const f = (x: Tensor): Tensor => cast(x, 'float32');
      const out = gruSequence(f(pre), f(weight), f(bias), f(h));
      return { y: cast(out.y, pre.dtype), h: cast(out.h, pre.dtype) };
    });
  return tidy(() => {
    const { hs, gates } = noGrad(() => {
      const products = swapTime(pre);
      const all = {
        hs: empty([t + 1, b, units], pre.dtype),
        gates: empty([t, b, 4 * units], pre.dtype),
      };
      kernels.copy(h, step(all.hs, 0));
      for (let i = 0; i < t; i++)
        tidy(() =>
          kernels.gru_cell_forward(
            step(products, i),
            linear(step(all.hs, i), weight, bias),
            step(all.hs, i),
            step(all.gates, i),
            step(all.hs, i + 1),
          ),
        );
      return all;
    });
    const all = empty([t, b, units], pre.dtype);
    kernels.copy(steps(hs, 1, t), all);
    const out = record(all, { pre, weight, bias, h }, { hs, gates, w: weight }, (dy, s) => {
      const d = contiguous(dy);
      const dpre = empty([t, b, 3 * units], dy.dtype);
      const dhidden = empty([t, b, 3 * units], dy.dtype);
      let dh: Tensor | null = null;
      for (let i = t - 1; i >= 0; i--) {
        const direct = empty([b, units], dy.dtype);
        kernels.gru_cell_backward(
          dh ? add(step(d, i), dh) : step(d, i),
          step(s.gates, i),
          step(s.hs, i),
          step(dpre, i),
          step(dhidden, i),
          direct,
        );
        dh = add(direct, matmul(step(dhidden, i), s.w));
      }
      return { pre: swapTime(dpre), ...weightGradients(dhidden, steps(s.hs, 0, t)), h: dh! };
    });
    return {
      y: transpose(out, 0, 1),
      h: reshape(slice(out, 0, t - 1, t), [b, units]),
    };
  });
}
