// What every optimizer has in common: parameter groups, clipping, state. The rule itself is a kernel call for many parameters, in
// place and without a temporary; no call waits for an earlier one.
import * as kernels from '../native/kernels.gen.js';
import { native } from '../native/load.js';
import * as check from '../ops/check.js';
import { contiguous } from '../ops/cast.js';
import { empty, zeros } from '../tensor/create.js';
import { DTypeError, OptionError, ShapeError } from '../tensor/errors.js';
import { tidy, untracked } from '../tensor/scope.js';
import { format, sameShape } from '../tensor/shape.js';
import type { Tensor } from '../tensor/tensor.js';

/** Parameters that share options; options left out are the optimizer's. */
export type ParamGroup<O> = { params: Iterable<Tensor> } & Partial<O>;

/** The options every rule has. */
export interface CommonOptions {
  /** Learning rate; changed between steps by a schedule. */
  lr: number;
  weightDecay: number;
}

/** A group as it is used: every option has a value. */
export type Group<O> = { readonly params: readonly Tensor[]; initialLr: number } & {
  -readonly [K in keyof O]: O[K];
};

/** Norm and factor of the gradients, computed where they are; the factor is NaN when something is not finite. */
export class GradientScale {
  /** (2) float64: norm, factor. */
  readonly values: Tensor;

  constructor(values: Tensor) {
    this.values = values;
  }

  /** The global 2-norm before clipping, and whether gradients (and loss) were finite. */
  async read(): Promise<{ norm: number; finite: boolean }> {
    const [norm, factor] = (await this.values.data()) as Float64Array;
    return { norm: norm!, finite: !Number.isNaN(factor) };
  }

  dispose(): void {
    this.values.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Measures the global 2-norm of the gradients of `params` and what they must be multiplied with so that it is at most `maxNorm`
 * (0: no limit), as torch.nn.utils.clip_grad_norm_. Nothing is changed here: pass the result to `optimizer.step`, which scales
 * gradients while it reads them, and changes nothing at all when they, or `loss`, are not finite. `inverseScale` multiplies
 * gradients first (1 / loss scale).
 */
export function gradientScale(
  params: Iterable<Tensor>,
  options: { maxNorm?: number; loss?: Tensor | null; inverseScale?: number } = {},
): GradientScale {
  check.knownOptions('gradientScale', options, ['maxNorm', 'loss', 'inverseScale']);
  const { maxNorm = 0, loss = null, inverseScale = 1 } = options;
  check.number('gradientScale', 'maxNorm', maxNorm, 0);
  check.number('gradientScale', 'inverseScale', inverseScale, 0);
  const gradients = [...new Set(params)].flatMap((p) => (p.grad ? [p.grad] : []));
  const values = untracked(() => empty([2], 'float64'));
  tidy(() => {
    const sums = zeros([Math.max(1, gradients.length)], {
      dtype: 'float64',
      device: gradients[0]?.device ?? 'cpu',
    });
    for (const [first, some] of lists(gradients))
      kernels.sum_squares(some.map(contiguous), sums, first);
    kernels.clip_scale(sums, loss?.detach() ?? null, values, maxNorm, inverseScale);
  });
  return new GradientScale(values);
}

/** Scales the gradients of `params` in place so that their global 2-norm is at most `maxNorm`; resolves to the norm before. */
export async function clipGradNorm(params: Iterable<Tensor>, maxNorm: number): Promise<number> {
  check.number('clipGradNorm', 'maxNorm', maxNorm, Number.MIN_VALUE);
  const list = [...new Set(params)].filter((p) => p.grad);
  using scale = gradientScale(list, { maxNorm });
  const [norm, factor] = (await scale.values.data()) as Float64Array;
  if (factor! < 1) for (const p of list) kernels.affine(p.grad!, p.grad!, factor!, 0);
  return norm!;
}

/** Tensors of an optimizer's state for one parameter, by name. */
export type State = Record<string, Tensor>;

/** A parameter to update by its gradient (contiguous), with the state that `createState` made. */
export interface Update {
  readonly param: Tensor;
  readonly gradient: Tensor;
  readonly state: State;
}

/** Items in runs that fit a kernel's list of tensors, each with the index of its first. */
function* lists<T>(items: readonly T[]): Generator<[first: number, items: T[]]> {
  const most = native().maxList;
  for (let i = 0; i < items.length; i += most) yield [i, items.slice(i, i + most)];
}

/** One tensor of each update's state; none where the rule as it is set up keeps no such tensor. */
export function states(updates: readonly Update[], name: string): Tensor[] {
  return updates.flatMap((u) => u.state[name] ?? []);
}

export interface OptimizerState {
  steps: number;
  /** "<index>.<name>" → tensor, handles of the caller. */
  tensors: Map<string, Tensor>;
}

export abstract class Optimizer<O extends CommonOptions> {
  readonly groups: readonly Group<O>[];
  readonly #states = new Map<Tensor, State>();
  #steps = 0;

  protected constructor(
    name: string,
    params: Iterable<Tensor> | Iterable<ParamGroup<O>>,
    defaults: O,
    given: Partial<O>,
    checkOptions: (options: O) => void = () => undefined,
  ) {
    check.knownOptions(name, given, Object.keys(defaults));
    const common = { ...defaults, ...given };
    const items = [...params] as (Tensor | ParamGroup<O>)[];
    const grouped = items.length > 0 && 'params' in items[0]!;
    const lists = (grouped ? items : [{ params: items }]) as ParamGroup<O>[];
    const seen = new Set<Tensor>();
    this.groups = lists.map(({ params: list, ...own }, i) => {
      check.knownOptions(`${name}: group ${i}`, own, Object.keys(defaults));
      const options = { ...common, ...own } as O;
      check.number(name, 'lr', options.lr, 0);
      check.number(name, 'weightDecay', options.weightDecay, 0);
      checkOptions(options);
      // a tied parameter appears twice among named parameters, but is one tensor
      const tensors = [...new Set(list)];
      for (const p of tensors) {
        check.tensor(name, 'parameter', p);
        if (!check.isComputeFloat(p))
          throw new DTypeError(
            `${name}: expected float32 or float64 parameters, got ${p.dtype} ${format(p.shape)}; train a float32 copy, with bf16: true or autocast() for products in 16 bits`,
          );
        if (!p.isContiguous)
          throw new ShapeError(
            `${name}: expected dense parameters, which are updated in place; one of shape ${format(p.shape)} is a view with strides ${format(p.strides)}: train contiguous(x), or the tensor it is a view of`,
          );
        if (seen.has(p))
          throw new OptionError(
            `${name}: a parameter of shape ${format(p.shape)} is in two groups; each belongs to one`,
          );
        seen.add(p);
      }
      return { ...options, params: tensors, initialLr: options.lr } as Group<O>;
    });
  }

  /** The rule, in place, for parameters of one group on one device: no more than a kernel's list takes. */
  protected abstract update(
    updates: readonly Update[],
    group: Group<O>,
    step: number,
    scale: Tensor | null,
  ): void;

  /** Fresh state for a parameter. */
  protected abstract createState(param: Tensor, group: Group<O>): State;

  /** Updates done so far. */
  get steps(): number {
    return this.#steps;
  }

  get lr(): number {
    return this.groups[0]?.lr ?? 0;
  }
  /** Sets the rate of every group. */
  set lr(value: number) {
    for (const group of this.groups) group.lr = value;
  }

  /** Every group's rate becomes its initial rate times `factor`: what a schedule calls. */
  scaleLr(factor: number): void {
    for (const group of this.groups) group.lr = group.initialLr * factor;
  }

  /** Updates every parameter that has a gradient. */
  step(options: { scale?: GradientScale } = {}): void {
    this.#steps++;
    const scale = options.scale?.values ?? null;
    tidy(() => {
      for (const group of this.groups) {
        const updates = group.params.flatMap((param): Update[] =>
          param.grad
            ? [{ param, gradient: contiguous(param.grad), state: this.#state(param, group) }]
            : [],
        );
        for (const [, some] of lists(updates)) this.update(some, group, this.#steps, scale);
      }
    });
  }

  #state(param: Tensor, group: Group<O>): State {
    let state = this.#states.get(param);
    if (!state) {
      state = untracked(() => this.createState(param, group));
      this.#states.set(param, state);
    }
    return state;
  }

  /** Takes back the count of a step that changed nothing because its gradients were not finite. */
  undoStep(): void {
    this.#steps--;
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const group of this.groups)
      for (const p of group.params) {
        p.grad?.dispose();
        p.grad = null;
      }
  }

  /** Bytes of the state so far. */
  get stateBytes(): number {
    let total = 0;
    for (const state of this.#states.values())
      for (const t of Object.values(state)) total += t.storage.bytes;
    return total;
  }

  /** Everything needed to go on exactly from here, parameters and rates apart. */
  stateDict(): OptimizerState {
    const tensors = new Map<string, Tensor>();
    let index = 0;
    for (const group of this.groups)
      for (const p of group.params) {
        for (const [name, t] of Object.entries(this.#states.get(p) ?? {}))
          tensors.set(`${index}.${name}`, t);
        index++;
      }
    return { steps: this.#steps, tensors };
  }

  /** Takes over the tensors. Parameters must come in the same order as when the state was saved. */
  loadStateDict(saved: OptimizerState): void {
    this.dispose();
    this.#steps = saved.steps;
    const left = new Set(saved.tensors.keys());
    let index = 0;
    for (const group of this.groups)
      for (const p of group.params) {
        const prefix = `${index++}.`;
        const names = [...left].filter((n) => n.startsWith(prefix));
        if (names.length === 0) continue;
        const fresh = untracked(() => this.createState(p, group));
        const state: State = {};
        for (const [name, like] of Object.entries(fresh)) {
          const tensor = saved.tensors.get(prefix + name);
          if (!tensor || !sameShape(tensor.shape, like.shape) || tensor.dtype !== like.dtype)
            throw new OptionError(
              `loadStateDict: ${prefix}${name} must be ${like.dtype} ${format(like.shape)}, got ${tensor ? `${tensor.dtype} ${format(tensor.shape)}` : 'nothing'}; the state belongs to other parameters or another optimizer`,
            );
          state[name] = tensor;
          left.delete(prefix + name);
          like.dispose();
        }
        this.#states.set(p, state);
      }
    if (left.size > 0)
      throw new OptionError(
        `loadStateDict: nothing here belongs to ${[...left].slice(0, 3).join(', ')}; the state is of another optimizer`,
      );
  }

  /** Releases the state. */
  dispose(): void {
    for (const state of this.#states.values()) for (const t of Object.values(state)) t.dispose();
    this.#states.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Zeros like a parameter. */
export function zerosLike(param: Tensor): Tensor {
  return zeros(param.shape, { dtype: param.dtype as 'float32', device: param.device });
}
