// Tensor: a view (shape, strides, offset) of a storage, and its place in the autograd graph. It has no arithmetic of
// its own: ops/methods.ts adds every op as a method.
import { deviceAt, hasOtherDevices } from '../native/device.js';
import type { Device } from '../native/device.js';
import * as kernels from '../native/kernels.gen.js';
import { native } from '../native/load.js';
import { allocateArray, dtypes, isHalf } from './dtype.js';
import type { DType, TypedArray } from './dtype.js';
import { DisposedError, ShapeError } from './errors.js';
import { track } from './scope.js';
import { contiguousStrides, format, isContiguous, numel, sameShape } from './shape.js';
import type { Shape } from './shape.js';
import { Storage } from './storage.js';

/** What autograd/ hangs on a tensor; opaque here. */
export interface GradNode {
  retain(): this;
  release(): void;
}

export class Tensor {
  readonly storage: Storage;
  readonly shape: Shape;
  /** In elements. 0 for stretched axes. */
  readonly strides: Shape;
  /** Of the first element, in elements. */
  readonly offset: number;
  readonly dtype: DType;
  /** Whether operations on this tensor are recorded for `backward()`. */
  requiresGrad = false;
  /** The gradient accumulated by `backward()`, for tensors made with `requiresGrad`. */
  grad: Tensor | null = null;
  /** How this tensor was computed; null for leaves. Set by autograd. */
  node: GradNode | null = null;
  #disposed = false;

  /** Takes over one reference to the storage. */
  constructor(storage: Storage, shape: Shape, strides: Shape, offset: number, dtype: DType) {
    this.storage = storage;
    this.shape = shape;
    this.strides = strides;
    this.offset = offset;
    this.dtype = dtype;
    track(this);
  }

  /** The number native code knows the dtype by. */
  get dtypeCode(): number {
    return dtypes[this.dtype].code;
  }

  /** Where the bytes live. */
  get device(): Device {
    this.checkAlive();
    return hasOtherDevices() ? deviceAt(native().storageDevice(this.storage.handle)) : 'cpu';
  }

  /** Number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return numel(this.shape);
  }

  get isDisposed(): boolean {
    return this.#disposed;
  }

  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }

  /** Another view of the same bytes; no autograd, no copy. */
  view(shape: Shape, strides: Shape, offset: number): Tensor {
    this.checkAlive();
    return new Tensor(this.storage.retain(), shape, strides, offset, this.dtype);
  }

  /** The same values without gradient history; shares the bytes. */
  detach(): Tensor {
    return this.view(this.shape, this.strides, this.offset);
  }

  /** Makes this handle stand for the bytes of `value`, of the same shape and any dtype; drops the gradient. */
  setData(value: Tensor): void {
    this.checkAlive();
    value.checkAlive();
    if (this.node || !sameShape(this.shape, value.shape))
      throw new ShapeError(
        `setData: expected a tensor of shape ${format(this.shape)} for a leaf, got ${format(value.shape)}${this.node ? ' for a result of operations' : ''}`,
      );
    const { storage } = this;
    value.storage.retain();
    const { storage: bytes, strides, offset, dtype } = value;
    Object.assign(this, { storage: bytes, strides, offset, dtype });
    storage.release();
    this.grad?.dispose();
    this.grad = null;
  }

  /** Marks a leaf as wanting a gradient, and returns it. */
  setRequiresGrad(value = true): this {
    if (value && dtypes[this.dtype].kind !== 'float')
      throw new TypeError(
        `setRequiresGrad: only floating-point tensors have gradients, this one is ${this.dtype}`,
      );
    this.requiresGrad = value;
    return this;
  }

  checkAlive(): void {
    if (this.#disposed)
      throw new DisposedError(
        `a tensor of shape ${format(this.shape)} was used after dispose() (or after the tidy() that made it); return it from tidy(), or keep() it`,
      );
  }

  /** Releases this handle: the bytes are freed with the last handle or saved copy. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.storage.release();
    this.node?.release();
    this.node = null;
    this.grad?.dispose();
    this.grad = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** The elements in row-major order, copied, once everything before has run. bf16/f16 are widened to float32. */
  async data(): Promise<TypedArray> {
    const [source, temporary] = this.#readable();
    const target = allocateArray(source.dtype, source.size);
    const done = native().read(
      source.storage.handle,
      source.offset * dtypes[source.dtype].bytes,
      target,
    );
    if (temporary) source.dispose();
    return done;
  }

  /** `data()`, blocking the thread until everything before has run. */
  dataSync(): TypedArray {
    const [source, temporary] = this.#readable();
    const target = allocateArray(source.dtype, source.size);
    native().readSync(source.storage.handle, source.offset * dtypes[source.dtype].bytes, target);
    if (temporary) source.dispose();
    return target;
  }

  #readable(): [source: Tensor, temporary: boolean] {
    this.checkAlive();
    if (this.isContiguous && !isHalf(this.dtype)) return [this, false];
    const dtype = isHalf(this.dtype) ? 'float32' : this.dtype;
    const copy = new Tensor(
      Storage.allocate(this.size * dtypes[dtype].bytes),
      this.shape,
      contiguousStrides(this.shape),
      0,
      dtype,
    );
    kernels.copy(this, copy);
    return [copy, true];
  }

  /** The value of a tensor of one element. */
  async item(): Promise<number> {
    this.#checkScalar();
    return Number((await this.data())[0]);
  }

  /** `item()`, blocking. */
  itemSync(): number {
    this.#checkScalar();
    return Number(this.dataSync()[0]);
  }

  #checkScalar(): void {
    if (this.size !== 1)
      throw new ShapeError(
        `item: expected a tensor of one element, got shape ${format(this.shape)}; reduce it first (sum, mean) or use data()`,
      );
  }

  toString(): string {
    return `Tensor(${this.dtype} ${format(this.shape)}${this.requiresGrad ? ', requiresGrad' : ''})`;
  }
}
