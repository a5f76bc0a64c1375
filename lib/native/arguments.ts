// The arguments of a kernel call: storages go as arguments of the function, numbers through an array that native code reads in
// the same order (native/binding/bind.h). Only kernels.gen.ts uses this.
import { native } from './load.js';
import type { NativeAddon, TensorArg } from './load.js';

/** The kernels by name, once the first argument of the first call has been written. */
export let call: NativeAddon['kernels'];

let numbers: Float64Array | undefined;

function load(): Float64Array {
  const addon = native();
  call = addon.kernels;
  return (numbers = addon.numbers);
}

/** Writes dtype, offset, rank, shape and strides at `at`, or -1 for an absent tensor; returns where the next argument goes. */
export function tensor(at: number, x: TensorArg | null): number {
  const out = numbers ?? load();
  if (x === null) {
    out[at] = -1;
    return at + 1;
  }
  const { shape, strides } = x;
  const rank = shape.length;
  out[at] = x.dtypeCode;
  out[at + 1] = x.offset;
  out[at + 2] = rank;
  const first = at + 3;
  for (let i = 0; i < rank; i++) {
    out[first + i] = shape[i]!;
    out[first + rank + i] = strides[i]!;
  }
  return first + 2 * rank;
}

/** Writes the layouts of a list's tensors one after another. */
export function tensors(at: number, list: readonly TensorArg[]): number {
  for (const x of list) at = tensor(at, x);
  return at;
}

/** The storages of a list. */
export function handles(list: readonly TensorArg[]): unknown[] {
  return list.map((x) => x.storage.handle);
}

/** Writes a number. */
export function number(at: number, value: number): number {
  const out = numbers ?? load();
  out[at] = value;
  return at + 1;
}
