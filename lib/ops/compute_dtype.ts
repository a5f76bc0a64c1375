// Kernels compute in float32 and float64; other element types go there and back.
import { productDtype } from '../autograd/modes.js';
import type { ProductDtype } from '../autograd/modes.js';
import * as kernels from '../native/kernels.gen.js';
import { isHalf } from '../tensor/dtype.js';
import type { DType } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { cast } from './cast.js';
import * as check from './check.js';

/** x itself when kernels can compute with it, else a float32 version (16-bit floats, integers, bool). */
export function computable(x: Tensor): Tensor {
  return check.isComputeFloat(x) ? x : cast(x, 'float32');
}

/** x itself when kernels can compare its elements, else a version with the same order: integers up to 2⁵³ as float64. */
export function comparable(x: Tensor): Tensor {
  return x.dtype === 'int32' || x.dtype === 'int64' ? cast(x, 'float64') : computable(x);
}

/** The dtype results go back to after computing in float32. */
export function restore(y: Tensor, dtype: DType): Tensor {
  return isHalf(dtype) ? cast(y, dtype) : y;
}

type Products = { matmul: typeof kernels.matmul; linear: typeof kernels.linear };

/** The kernels for products of `dtype` operands: in the precision of autocast(), for float32 alone. */
export function productKernels(dtype: DType, precision: ProductDtype = productDtype()): Products {
  if (dtype !== 'float32' || precision === 'float32') return kernels;
  return byPrecision[precision];
}

const byPrecision: Record<Exclude<ProductDtype, 'float32'>, Products> = {
  tfloat32: { matmul: kernels.matmul_tf32, linear: kernels.linear_tf32 },
  bfloat16: { matmul: kernels.matmul_bf16, linear: kernels.linear_bf16 },
  float16: { matmul: kernels.matmul_f16, linear: kernels.linear_f16 },
};
