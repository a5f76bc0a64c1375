// The graph: one node per recorded operation, reference-counted like the tensors, because a handle may be disposed
// long before backward() needs what it saved.
import type { GradNode, Tensor } from '../tensor/tensor.js';

export type Saved = Record<string, Tensor | null>;
/** What a backward function may know of the walk it is part of. */
export interface Walk {
  /** Nobody will ask again, so saved results that are nobody else's may be overwritten. */
  readonly last: boolean;
  /** The dense `grad` that the leaf `name` has by now, if any: a sparse gradient adds to it in place and returns null. */
  sumOf(name: string): Tensor | null;
  /**
   * What other operations have contributed by now to the gradient of the input `name`, dense, or null: whoever takes it returns it
   * as part of the gradient, so that it need not be added by a kernel of its own.
   */
  take(name: string): Tensor | null;
}

export type Backward = (dy: Tensor, saved: Saved, walk: Walk) => Record<string, Tensor | null>;

/** Where the gradient of one input goes: another node, or a leaf tensor. */
export type Edge =
  | { readonly name: string; readonly node: Node }
  | { readonly name: string; readonly leaf: Tensor };

export class Node implements GradNode {
  readonly edges: readonly Edge[];
  readonly backward: Backward;
  saved: Saved | null;
  #references = 1;

  constructor(edges: readonly Edge[], saved: Saved, backward: Backward) {
    this.edges = edges;
    this.saved = saved;
    this.backward = backward;
  }

  retain(): this {
    this.#references++;
    return this;
  }

  /** Frees chains of any length without recursion. */
  release(): void {
    const pending: Node[] = [this];
    for (let node = pending.pop(); node; node = pending.pop()) {
      if (--node.#references > 0) continue;
      node.freeSaved();
      for (const edge of node.edges) if ('node' in edge) pending.push(edge.node);
    }
  }

  freeSaved(): void {
    if (!this.saved) return;
    for (const tensor of Object.values(this.saved)) tensor?.dispose();
    this.saved = null;
  }
}
