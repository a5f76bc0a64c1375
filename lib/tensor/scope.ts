// Who disposes tensors that nobody disposed: tidy() collects every handle made inside it.
import type { Tensor } from './tensor.js';
import { RootsError } from './errors.js';

// One list per tidy() in progress, innermost last. A list, not a set: this runs for every tensor.
const scopes: Tensor[][] = [];

/** Called by the Tensor constructor. */
export function track(tensor: Tensor): void {
  if (scopes.length > 0) scopes[scopes.length - 1]!.push(tensor);
}

/** Takes a tensor out of every enclosing tidy(): it lives until it is disposed. */
export function keep<T extends Tensor>(tensor: T): T {
  for (const scope of scopes) {
    const at = scope.lastIndexOf(tensor);
    if (at >= 0) scope.splice(at, 1);
  }
  return tensor;
}

function collect(value: unknown, visit: (tensor: Tensor) => void, depth = 0): void {
  if (value === null || typeof value !== 'object' || depth > 8) return;
  if (isTensor(value)) visit(value);
  else if (Array.isArray(value)) for (const item of value) collect(item, visit, depth + 1);
  else if (Object.getPrototypeOf(value) === Object.prototype)
    for (const item of Object.values(value)) collect(item, visit, depth + 1);
}

function isTensor(value: object): value is Tensor {
  return 'storage' in value && 'strides' in value && 'dispose' in value;
}

/**
 * Runs `fn` and disposes every tensor made inside it, except those it returns (alone, in arrays or in plain objects).
 * Gradients stored by `backward()` survive. Synchronous only: in async code use `using` or `dispose()`.
 */
export function tidy<T>(fn: () => T): T {
  const scope: Tensor[] = [];
  scopes.push(scope);
  let result: T;
  try {
    result = fn();
  } catch (error) {
    scopes.pop();
    for (const tensor of scope) tensor.dispose();
    throw error;
  }
  scopes.pop();
  if (result !== null && typeof result === 'object' && 'then' in result) {
    for (const tensor of scope) tensor.dispose();
    throw new RootsError(
      'ERR_TIDY_ASYNC',
      'tidy: the function returned a promise; tidy is synchronous, use `using` or dispose() in async code',
    );
  }
  if (result === null || typeof result !== 'object') {
    for (const tensor of scope) tensor.dispose();
    return result;
  }
  // the common case, without a set
  if (isTensor(result)) {
    for (const tensor of scope) {
      if (tensor === result) track(tensor);
      else tensor.dispose();
    }
    return result;
  }
  const kept = new Set<Tensor>();
  collect(result, (tensor) => kept.add(tensor));
  for (const tensor of scope) {
    if (kept.has(tensor)) track(tensor);
    else tensor.dispose();
  }
  return result;
}

/** Runs `fn` outside every tidy(): what it makes belongs to the caller. */
export function untracked<T>(fn: () => T): T {
  const saved = scopes.splice(0);
  try {
    return fn();
  } finally {
    scopes.push(...saved);
  }
}
