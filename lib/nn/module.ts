// Module: named parts (parameters and submodules). Names are those of the checkpoint, dots included, so that a state
// dict needs no translation.
import { RootsError } from '../tensor/errors.js';
import { Tensor } from '../tensor/tensor.js';

export abstract class Module {
  readonly #parts = new Map<string, Tensor | Module>();

  /** Registers a part under its checkpoint name and returns it. */
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

  protected clearParts(): void {
    this.#parts.clear();
  }

  /** Every parameter with its full name, in order of registration. */
  *namedParameters(prefix = ''): Generator<[name: string, parameter: Tensor]> {
    for (const [name, part] of this.#parts) {
      if (part instanceof Tensor) yield [prefix + name, part];
      else yield* part.namedParameters(`${prefix}${name}.`);
    }
  }

  *namedModules(prefix = ''): Generator<[name: string, module: Module]> {
    for (const [name, part] of this.#parts) {
      if (part instanceof Tensor) continue;
      yield [prefix + name, part];
      yield* part.namedModules(`${prefix}${name}.`);
    }
  }

  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  /** Number of parameters. Packed int8 weights count as what they stand for. */
  numParameters(): number {
    let total = 0;
    for (const [, p] of this.namedParameters()) total += p.size;
    return total;
  }

  /** Marks all floating-point parameters as wanting gradients, or not. */
  requiresGrad(value = true): this {
    for (const p of this.parameters())
      if (p.dtype === 'float32' || p.dtype === 'float64') p.setRequiresGrad(value);
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
