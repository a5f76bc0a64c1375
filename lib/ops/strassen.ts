// Matrix products by one level of Strassen's algorithm, for those who take a larger error for an eighth less arithmetic.
import { record } from '../autograd/record.js';
import * as kernels from '../native/kernels.gen.js';
import { empty } from '../tensor/create.js';
import { DTypeError, ShapeError } from '../tensor/errors.js';
import { tidy } from '../tensor/scope.js';
import { format } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';
import { clone } from './cast.js';
import * as check from './check.js';
import { add, sub } from './elementwise.js';
import { slice, transpose } from './view.js';

function product(a: Tensor, b: Tensor): Tensor {
  const out = empty([a.shape[0]!, b.shape[1]!], a.dtype);
  kernels.matmul(a, b, out, 0);
  return out;
}

/** x[r0..r1, c0..c1], a view. */
const block = (x: Tensor, r0: number, r1: number, c0: number, c1: number): Tensor =>
  slice(slice(x, 0, r0, r1), 1, c0, c1);

function quarters(x: Tensor, rows: number, columns: number): [Tensor, Tensor, Tensor, Tensor] {
  const [r, c] = [rows / 2, columns / 2];
  return [
    block(x, 0, r, 0, c),
    block(x, 0, r, c, columns),
    block(x, r, rows, 0, c),
    block(x, r, rows, c, columns),
  ];
}

/** Seven products of quarters and fifteen sums, for even sizes; sums that follow a product are taken by its kernel. */
function evenProduct(a: Tensor, b: Tensor, [c11, c12, c21, c22]: readonly Tensor[]): void {
  const [a11, a12, a21, a22] = quarters(a, a.shape[0]!, a.shape[1]!);
  const [b11, b12, b21, b22] = quarters(b, b.shape[0]!, b.shape[1]!);
  tidy(() => {
    const p1 = product(a11, b11);
    kernels.add(p1, product(a12, b21), c11!);
    const s1 = add(a21, a22);
    const t1 = sub(b12, b11);
    const s2 = sub(s1, a11);
    const t2 = sub(b22, t1);
    kernels.matmul(s2, t2, p1, 1); // U2 = P1 + S2 T2
    const p5 = product(s1, t1);
    const u3 = clone(p1);
    kernels.matmul(sub(a11, a21), sub(b22, b12), u3, 1); // U3 = U2 + S3 T3
    kernels.add(u3, p5, c22!);
    kernels.matmul(a22, sub(b21, t2), u3, 1); // - A22 T4
    kernels.copy(u3, c21!);
    kernels.add(p1, p5, p5); // U4 = U2 + P5
    kernels.matmul(sub(a12, s2), b22, p5, 1);
    kernels.copy(p5, c12!);
  });
}

/**
 * a b by one level of Winograd's variant of Strassen's algorithm: 7 products of half the size and 15 sums instead of 8 and 4. Pays from
 * some 1024 rows on, and takes the memory of three and a half more matrices.
 *
 * The error is bounded for the whole result, not for each element: max|C - Ĉ| ≤ (4.5 k² + 48 k) u max|A| max|B| beside k² u max|A| max|B|
 * of a plain product (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., chapter 23; u = 2⁻²⁴ for float32), so that an element
 * far below the others may keep no correct digit; in practice it is about three times that of matmul.
 *
 * a (M, K) and b (K, N), float32 or float64, whatever autocast() says → (M, N). Odd sizes: the last row, column or term by plain products.
 */
export function matmulStrassen(a: Tensor, b: Tensor): Tensor {
  const op = 'matmulStrassen';
  check.tensor(op, 'a', a);
  check.tensor(op, 'b', b);
  check.rank(op, 'a', a, 2, '(M, K)');
  check.rank(op, 'b', b, 2, '(K, N)');
  check.sameDtype(op, a, b, 'a and b');
  if (!check.isComputeFloat(a))
    throw new DTypeError(`${op}: expected float32 or float64, got ${a.dtype}; use matmul, or cast`);
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  if (b.shape[0] !== k)
    throw new ShapeError(
      `${op}: inner dimensions differ: ${format(a.shape)} × ${format(b.shape)} (${k} ≠ ${b.shape[0]})`,
    );
  const out = empty([m, n], a.dtype);
  tidy(() => strassen(a.detach(), b.detach(), out));
  return record(out, { a, b }, { a, b }, (dy, s) => ({
    a: matmulStrassen(dy, transpose(s.b)),
    b: matmulStrassen(transpose(s.a), dy),
  }));
}

function strassen(a: Tensor, b: Tensor, out: Tensor): void {
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  if (Math.min(m, n, k) < 2) {
    kernels.matmul(a, b, out, 0);
    return;
  }
  const [em, ek, en] = [m - (m % 2), k - (k % 2), n - (n % 2)];
  const even = block(out, 0, em, 0, en);
  evenProduct(block(a, 0, em, 0, ek), block(b, 0, ek, 0, en), quarters(out, em, en));
  if (ek < k) kernels.add(even, product(block(a, 0, em, ek, k), block(b, ek, k, 0, en)), even);
  if (en < n)
    kernels.copy(product(block(a, 0, em, 0, k), block(b, 0, k, en, n)), block(out, 0, em, en, n));
  if (em < m) kernels.copy(product(block(a, em, m, 0, k), b), block(out, em, m, 0, n));
}
