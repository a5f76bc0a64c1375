// record(): the only way into the graph.
import type { Tensor } from '../tensor/tensor.js';
import { untracked } from '../tensor/scope.js';
import { isGradEnabled } from './modes.js';
import { Node } from './node.js';
import type { Edge, Walk } from './node.js';

type SavedInputs = Record<string, Tensor | null>;
type Gradients<I> = { [K in keyof I]: Tensor | null };

/**
 * Hangs a backward function on `out` when one of `inputs` needs a gradient.
 *
 * `backward(dy, saved)` returns one gradient (or null) per input, by name. It may use nothing but its arguments:
 * handles of the enclosing function may be disposed by then, so whatever it needs goes into `saved`.
 */
export function record<I extends Record<string, Tensor | null>, S extends SavedInputs>(
  out: Tensor,
  inputs: I,
  saved: S,
  backward: (dy: Tensor, saved: S, walk: Walk) => Gradients<I>,
): Tensor {
  let needed = false;
  for (const name in inputs) needed ||= inputs[name]?.requiresGrad === true;
  if (!needed || !isGradEnabled()) return out;
  const edges: Edge[] = [];
  for (const name in inputs) {
    const input = inputs[name];
    if (!input?.requiresGrad) continue;
    edges.push(input.node ? { name, node: (input.node as Node).retain() } : { name, leaf: input });
  }
  const copies = untracked(() => {
    const result: SavedInputs = {};
    for (const name in saved) result[name] = saved[name]?.detach() ?? null;
    return result;
  });
  out.node = new Node(edges, copies, backward as Node['backward']);
  out.requiresGrad = true;
  return out;
}

/** Whether an operation on these inputs will be recorded: ops that save extra outputs ask first. */
export function willRecord(...inputs: (Tensor | null | undefined)[]): boolean {
  for (const t of inputs) if (t?.requiresGrad) return isGradEnabled();
  return false;
}
