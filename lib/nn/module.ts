// Module: named parts (parameters and submodules). Names are those of the checkpoint, dots included, so that a state
// dict needs no translation.
import * as check from '../ops/check.js';
import { cast, contiguous, toDevice } from '../ops/cast.js';
import { hasOtherDevices } from '../native/device.js';
import type { Device } from '../native/device.js';
import * as kernels from '../native/kernels.gen.js';
import { resolveDevice } from '../tensor/device.js';
import type { DeviceOption } from '../tensor/device.js';
import { isHalf } from '../tensor/dtype.js';
import { RootsError, ShapeError } from '../tensor/errors.js';
import { format, sameShape } from '../tensor/shape.js';
import { tidy } from '../tensor/scope.js';
import { Tensor } from '../tensor/tensor.js';

/** The prefix of what a part holds; a part without a name holds what its owner has. */
const within = (prefix: string, name: string): string =>
  name === '' ? prefix : `${prefix}${name}.`;

export abstract class Module {
  readonly #parts = new Map<string, Tensor | Module>();
  #training = false;

  /** Whether dropout is active. Off until `train()` is called. */
  get training(): boolean {
    return this.#training;
  }

  /** Switches this module and everything in it to training, or back. */
  train(mode = true): this {
    this.#training = mode;
    for (const part of this.#parts.values()) if (part instanceof Module) part.train(mode);
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** Registers a part under its checkpoint name and returns it. What a module registered as '' holds has no prefix. */
  protected register<T extends Tensor | Module>(name: string, part: T): T {
    if (this.#parts.has(name))
      throw new RootsError(
        'ERR_MODULE',
        `${this.constructor.name}: part ${JSON.stringify(name)} registered twice`,
      );
    this.#parts.set(name, part);
    return part;
  }

  /** Exchanges a registered tensor; the old one is disposed. */
  protected replace(name: string, part: Tensor | null): void {
    const old = this.#parts.get(name);
    if (part) this.#parts.set(name, part);
    else this.#parts.delete(name);
    if (old && old !== part && old instanceof Tensor) old.dispose();
  }

  /** Exchanges a registered tensor for one of another name, in its place; the old one is disposed. */
  protected replaceAs(name: string, newName: string, part: Tensor): Tensor {
    const parts = [...this.#parts];
    this.#parts.clear();
    for (const [key, old] of parts) {
      this.#parts.set(key === name ? newName : key, key === name ? part : old);
      if (key === name) old.dispose();
    }
    return part;
  }

  protected clearParts(): void {
    this.#parts.clear();
  }

  /** Brings parameters that are kept in another form back to the one their names stand for. */
  protected materialize(): void {}

  /** Every parameter with its full name, in order of registration. */
  *namedParameters(prefix = ''): Generator<[name: string, parameter: Tensor]> {
    this.materialize();
    for (const [name, part] of this.#parts) {
      if (part instanceof Tensor) yield [prefix + name, part];
      else yield* part.namedParameters(within(prefix, name));
    }
  }

  *namedModules(prefix = ''): Generator<[name: string, module: Module]> {
    for (const [name, part] of this.#parts) {
      if (part instanceof Tensor) continue;
      if (name !== '') yield [prefix + name, part];
      yield* part.namedModules(within(prefix, name));
    }
  }

  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  /** Number of parameters. Packed int8 weights count as what they stand for. */
  numParameters(): number {
    let total = 0;
    for (const part of this.#parts.values())
      total += part instanceof Tensor ? part.size : part.numParameters();
    return total;
  }

  /** Every parameter by name; the tensors are the module's own, not copies. A tied parameter has one name. */
  stateDict(): Map<string, Tensor> {
    return new Map(this.namedParameters());
  }

  /**
   * Copies values into the parameters, by name. With `strict` (the default) names must match exactly; shapes always must.
   * Returns the names that were missing and those that were not used.
   */
  loadStateDict(
    values: ReadonlyMap<string, Tensor>,
    options: { strict?: boolean } = {},
  ): { missing: string[]; unexpected: string[] } {
    const own = this.stateDict();
    const missing = [...own.keys()].filter((n) => !values.has(n));
    const unexpected = [...values.keys()].filter((n) => !own.has(n));
    if ((options.strict ?? true) && missing.length + unexpected.length > 0)
      throw new RootsError(
        'ERR_MODULE',
        `loadStateDict: missing ${missing.slice(0, 3).join(', ') || 'nothing'}, unexpected ${unexpected.slice(0, 3).join(', ') || 'nothing'}; pass { strict: false } to load what matches`,
      );
    for (const [name, parameter] of own) {
      const value = values.get(name);
      if (value && !sameShape(value.shape, parameter.shape))
        throw new ShapeError(
          `loadStateDict: ${name} has shape ${format(parameter.shape)}, got ${format(value.shape)}`,
        );
    }
    for (const [name, parameter] of own) {
      const value = values.get(name);
      if (value) tidy(() => kernels.copy(toDevice(value.detach(), parameter.device), parameter));
    }
    return { missing, unexpected };
  }

  /** Excludes parameters whose name contains one of these parts (all by default) from training. Returns how many. */
  freeze(...parts: string[]): number {
    let count = 0;
    for (const [name, p] of this.namedParameters()) {
      if (parts.length > 0 && !parts.some((part) => name.includes(part))) continue;
      p.setRequiresGrad(false);
      count++;
    }
    return count;
  }

  /** Marks all floating-point parameters as wanting gradients, or not. */
  requiresGrad(value = true): this {
    for (const p of this.parameters()) {
      if (value && isHalf(p.dtype))
        throw new RootsError(
          'ERR_MODULE',
          `requiresGrad: ${this.constructor.name} has ${p.dtype} weights, which are for inference; load it as float32 and train with bf16: true for products in bfloat16`,
        );
      if (p.dtype !== 'float32' && p.dtype !== 'float64') continue;
      // optimizers update dense parameters
      if (value && !p.isContiguous) tidy(() => p.setData(contiguous(p.detach())));
      p.setRequiresGrad(value);
    }
    return this;
  }

  /** Where the parameters live. */
  get device(): Device {
    return (hasOtherDevices() && this.#anyTensor()?.device) || 'cpu';
  }

  /** Of this module or a part of it, in whatever form it is kept. */
  #anyTensor(): Tensor | undefined {
    for (const part of this.#parts.values()) {
      const tensor = part instanceof Tensor ? part : part.#anyTensor();
      if (tensor) return tensor;
    }
    return undefined;
  }

  /**
   * Moves every parameter to a device ('cpu', 'cuda', or 'auto': the GPU where there is one), or casts every floating-point parameter to
   * a dtype, in place: whoever holds one sees the change, and gradients are dropped. float16 and bfloat16 parameters halve the memory and
   * compute in float32; train them as float32 with autocast() instead.
   */
  to(target: DeviceOption | 'float32' | 'float64' | 'float16' | 'bfloat16'): this {
    const all = this.parameters();
    if (target === 'cpu' || target === 'cuda' || target === 'auto') {
      const device = resolveDevice('to', target);
      tidy(() =>
        all.forEach((p) => p.device !== device && p.setData(toDevice(p.detach(), device))),
      );
      return this;
    }
    check.oneOf('to', 'target', target, [
      'cpu',
      'cuda',
      'auto',
      'float32',
      'float64',
      'float16',
      'bfloat16',
    ]);
    if (all.some((p) => p.dtype === 'int8'))
      throw new RootsError(
        'ERR_MODULE',
        `${this.constructor.name}.to: int8 weights have one format; load the float checkpoint to get another dtype`,
      );
    tidy(() => all.forEach((p) => p.dtype !== target && p.setData(cast(p.detach(), target))));
    return this;
  }

  /** Releases every parameter. The module cannot be used afterwards. */
  dispose(): void {
    for (const [, part] of this.#parts) part.dispose();
    this.#parts.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
