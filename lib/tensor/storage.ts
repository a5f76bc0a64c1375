// Native bytes with a reference count: one per Tensor handle, one per copy saved in the autograd graph.
// The native External behind it also has a finalizer, the net for handles that are never disposed.
import { native } from '../native/load.js';
import { DisposedError } from './errors.js';

export class Storage {
  /** The native External; kernels read it. */
  readonly handle: unknown;
  readonly bytes: number;
  #references = 1;

  private constructor(handle: unknown, bytes: number) {
    this.handle = handle;
    this.bytes = bytes;
  }

  /** Uninitialised bytes for kernels to fill; `host`: for the host to fill, before any kernel. */
  static allocate(bytes: number, host: boolean = false): Storage {
    return new Storage(native().createStorage(bytes, host), bytes);
  }

  /** A copy of the bytes of an array. */
  static from(data: ArrayBufferView): Storage {
    return new Storage(native().createStorageFrom(data), data.byteLength);
  }

  /** Whether more than one handle refers to these bytes. */
  get isShared(): boolean {
    return this.#references > 1;
  }

  retain(): this {
    if (this.#references === 0)
      throw new DisposedError('the storage of this tensor has been disposed');
    this.#references++;
    return this;
  }

  release(): void {
    if (this.#references === 0) return;
    if (--this.#references === 0) native().disposeStorage(this.handle);
  }
}
