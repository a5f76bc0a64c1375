// Element types: names, numbers shared with native/core/dtype.h, sizes, promotion.

export type DType =
  | 'float32'
  | 'float64'
  | 'bfloat16'
  | 'float16'
  | 'int8'
  | 'uint8'
  | 'int32'
  | 'int64'
  | 'bool';

/** What `data()` gives. 16-bit floats come widened to `Float32Array`, int64 as `BigInt64Array`. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int32Array
  | BigInt64Array;

export interface DTypeInfo {
  /** The value of `enum class DType`. */
  readonly code: number;
  readonly bytes: number;
  readonly kind: 'float' | 'int' | 'bool';
}

export const dtypes: Readonly<Record<DType, DTypeInfo>> = {
  float32: { code: 0, bytes: 4, kind: 'float' },
  float64: { code: 1, bytes: 8, kind: 'float' },
  bfloat16: { code: 2, bytes: 2, kind: 'float' },
  float16: { code: 3, bytes: 2, kind: 'float' },
  int8: { code: 4, bytes: 1, kind: 'int' },
  uint8: { code: 5, bytes: 1, kind: 'int' },
  int32: { code: 6, bytes: 4, kind: 'int' },
  int64: { code: 7, bytes: 8, kind: 'int' },
  bool: { code: 8, bytes: 1, kind: 'bool' },
};

export function isFloat(dtype: DType): boolean {
  return dtypes[dtype].kind === 'float';
}

/** 16-bit floats: stored, but computed in float32. */
export function isHalf(dtype: DType): boolean {
  return dtype === 'bfloat16' || dtype === 'float16';
}

const intOrder: readonly DType[] = ['bool', 'uint8', 'int8', 'int32', 'int64'];

/** The dtype of an operation on both: floats win over integers, wider over narrower, float32 between the two halves. */
export function promote(a: DType, b: DType): DType {
  if (a === b) return a;
  if (isFloat(a) !== isFloat(b)) return isFloat(a) ? a : b;
  if (isFloat(a)) {
    if (a === 'float64' || b === 'float64') return 'float64';
    return 'float32';
  }
  if ((a === 'uint8' && b === 'int8') || (a === 'int8' && b === 'uint8')) return 'int32';
  return intOrder.indexOf(a) > intOrder.indexOf(b) ? a : b;
}

/** An array for `count` elements of a dtype that JavaScript can hold. */
export function allocateArray(dtype: DType, count: number): TypedArray {
  switch (dtype) {
    case 'float64':
      return new Float64Array(count);
    case 'int8':
      return new Int8Array(count);
    case 'uint8':
    case 'bool':
      return new Uint8Array(count);
    case 'int32':
      return new Int32Array(count);
    case 'int64':
      return new BigInt64Array(count);
    default:
      return new Float32Array(count);
  }
}
