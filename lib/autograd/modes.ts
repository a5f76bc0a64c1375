// Whether operations are recorded. The mode follows async calls, so `noGrad` holds across await.
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
