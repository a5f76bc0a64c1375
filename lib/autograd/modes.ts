// Modes of computation: whether operations are recorded, and in which precision products are computed. A mode follows async
// calls, so it holds across await.
import { AsyncLocalStorage } from 'node:async_hooks';

const recording = new AsyncLocalStorage<boolean>();

export function isGradEnabled(): boolean {
  return recording.getStore() ?? true;
}

/** Runs `fn` (sync or async) without recording operations for `backward()`. */
export function noGrad<T>(fn: () => T): T {
  return recording.run(false, fn);
}

/** Runs `fn` recording again, inside noGrad. */
export function enableGrad<T>(fn: () => T): T {
  return recording.run(true, fn);
}

/** The precision of matrix products of float32 tensors. */
export type ProductDtype = 'float32' | 'tfloat32' | 'bfloat16' | 'float16';
const productDtypes: readonly string[] = ['float32', 'tfloat32', 'bfloat16', 'float16'];

const products = new AsyncLocalStorage<ProductDtype>();

export function productDtype(): ProductDtype {
  return products.getStore() ?? 'float32';
}

/**
 * Runs `fn` (sync or async) with matrix products of float32 tensors (matmul, linear, and their gradients) computed from operands
 * rounded to `dtype`, with float32 sums. Everything else, weights and results included, stays float32. float16 overflows above 65504
 * and loses gradients below 6e-8: train with a loss scale (`fp16: true`). tfloat32 (10 bits of mantissa) is for the tensor cores of a
 * GPU; the CPU multiplies float32 as it is.
 */
export function autocast<T>(dtype: ProductDtype, fn: () => T): T {
  if (!productDtypes.includes(dtype))
    throw new TypeError(
      `autocast: expected one of ${productDtypes.join(', ')}, got ${JSON.stringify(dtype)}`,
    );
  return products.run(dtype, fn);
}
