// Native bytes with a reference count: one per Tensor handle, one per copy saved in the autograd graph.
// The native External behind it also has a finalizer, the net for handles that are never disposed.
import { native } from '../native/load.js';
import { DisposedError } from './errors.js';

/** Handles of disposed storages, for new ones: making one costs more than everything else about a small tensor. */
const spare: unknown[] = [];
const maxSpare = 1024;

export class Storage {
  /** The native External, which kernels read; undefined once disposed. No other object may keep it. */
  handle: unknown;
  readonly bytes: number;
  #references = 1;

  private constructor(handle: unknown, bytes: number) {
    this.handle = handle;
    this.bytes = bytes;
  }

  /** Uninitialised bytes for kernels to fill; `host`: for the host to fill, before any kernel. */
  static allocate(bytes: number, host: boolean = false): Storage {
    if (!host && spare.length > 0) {
      const handle = spare.pop();
      native().reuseStorage(handle, bytes);
      return new Storage(handle, bytes);
    }
    return new Storage(native().createStorage(bytes, host), bytes);
  }

  /** The same, on a given device. Otherwise the first kernel that uses it decides, by its other tensors. */
  static allocateOn(bytes: number, device: number): Storage {
    return new Storage(native().createStorage(bytes, false, device), bytes);
  }

  /** A copy of the bytes of an array. */
  static from(data: ArrayBufferView, device: number): Storage {
    return new Storage(native().createStorageFrom(data, device), data.byteLength);
  }

  /** A copy of some of these bytes, on another device. */
  transfer(offset: number, bytes: number, device: number): Storage {
    return new Storage(native().transferStorage(this.handle, offset, bytes, device), bytes);
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
    if (--this.#references > 0) return;
    const { handle } = this;
    this.handle = undefined;
    native().disposeStorage(handle);
    if (spare.length < maxSpare) spare.push(handle);
  }
}
