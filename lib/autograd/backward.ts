// backward(): walks the graph from a result to the leaves, every node once, and frees what it leaves behind.
import * as kernels from '../native/kernels.gen.js';
import { empty, emptyLike, ones } from '../tensor/create.js';
import { RootsError, ShapeError } from '../tensor/errors.js';
import { tidy, untracked } from '../tensor/scope.js';
import { contiguousStrides, format, sameShape } from '../tensor/shape.js';
import { dtypes, isHalf } from '../tensor/dtype.js';
import type { Tensor } from '../tensor/tensor.js';
import { noGrad } from './modes.js';
import type { Node } from './node.js';

export interface BackwardOptions {
  /** Keep what was saved, so that backward() can run again. */
  retainGraph?: boolean;
}

/** Nodes such that each comes before the nodes its gradients flow to. */
function order(root: Node): Node[] {
  const finished = new Set<Node>();
  const out: Node[] = [];
  const stack: [node: Node, next: number][] = [[root, 0]];
  const started = new Set<Node>([root]);
  while (stack.length > 0) {
    const top = stack.at(-1)!;
    const edge = top[0].edges[top[1]++];
    if (!edge) {
      stack.pop();
      finished.add(top[0]);
      out.push(top[0]);
    } else if ('node' in edge && !started.has(edge.node)) {
      started.add(edge.node);
      stack.push([edge.node, 0]);
    }
  }
  return out.toReversed();
}

const bytesOf = (t: Tensor): number => t.size * dtypes[t.dtype].bytes;

/** out = fn(inputs), by way of float32: kernels do not compute in 16 bits. */
function widened(
  inputs: readonly Tensor[],
  out: Tensor,
  fn: (inputs: readonly Tensor[], out: Tensor) => void,
): void {
  tidy(() => {
    const wide = inputs.map((x) => {
      const copy = empty(x.shape, 'float32');
      kernels.copy(x, copy);
      return copy;
    });
    const result = empty(out.shape, 'float32');
    fn(wide, result);
    kernels.copy(result, out);
  });
}

function addInto(a: Tensor, b: Tensor, out: Tensor): Tensor {
  if (isHalf(out.dtype)) widened([a, b], out, ([x, y], sum) => kernels.add(x!, y!, sum));
  else kernels.add(a, b, out);
  return out;
}

const add = (a: Tensor, b: Tensor): Tensor => addInto(a, b, empty(a.shape, a.dtype));

/** The gradient itself when nobody else's handle refers to its bytes and they are dense; otherwise a copy. Takes it over. */
function own(gradient: Tensor): Tensor {
  const { storage } = gradient;
  if (!storage.isShared && gradient.isContiguous && storage.bytes === bytesOf(gradient))
    return gradient;
  const out = emptyLike(gradient);
  kernels.copy(gradient, out);
  gradient.dispose();
  return out;
}

/**
 * Adds d(y)/d(leaf), times `gradient`, to `leaf.grad` of every leaf with `requiresGrad` that y was computed from.
 * y must have one element unless `gradient` (of y's shape) is given.
 */
export function backward(y: Tensor, gradient?: Tensor, options: BackwardOptions = {}): void {
  y.checkAlive();
  if (!y.requiresGrad)
    throw new RootsError(
      'ERR_NO_GRAD',
      'backward: this tensor does not depend on any tensor with requiresGrad (or was computed inside noGrad)',
    );
  if (!gradient && y.size !== 1)
    throw new ShapeError(
      `backward: expected a tensor of one element, got shape ${format(y.shape)}; reduce it first, or pass a gradient`,
    );
  if (gradient && !sameShape(gradient.shape, y.shape))
    throw new ShapeError(
      `backward: the gradient has shape ${format(gradient.shape)}, expected ${format(y.shape)}`,
    );
  untracked(() =>
    noGrad(() => {
      const seed = gradient
        ? gradient.detach()
        : ones(y.shape, { dtype: y.dtype, device: y.device });
      const root = y.node as Node | null;
      if (!root) {
        accumulate(y, seed);
        return;
      }
      const pending = new Map<Node, Tensor>([[root, seed]]);
      try {
        for (const node of order(root)) step(node, pending, options.retainGraph ?? false);
      } finally {
        for (const tensor of pending.values()) tensor.dispose();
      }
    }),
  );
}

/** Takes over `gradient`. */
function accumulate(leaf: Tensor, gradient: Tensor): void {
  if (leaf.isDisposed) {
    gradient.dispose();
    return;
  }
  if (!leaf.grad) {
    leaf.grad = own(gradient);
    return;
  }
  // in place, as in the reference frameworks: `grad` keeps its identity while gradients accumulate
  if (leaf.grad.isContiguous) addInto(leaf.grad, gradient, leaf.grad);
  else {
    const sum = add(leaf.grad, gradient);
    leaf.grad.dispose();
    leaf.grad = sum;
  }
  gradient.dispose();
}

function denseSum(node: Node, name: string): Tensor | null {
  const edge = node.edges.find((e) => e.name === name);
  if (!edge || !('leaf' in edge) || edge.leaf.isDisposed) return null;
  const { grad } = edge.leaf;
  return grad?.isContiguous ? grad : null;
}

/** Takes over what is pending of the gradient of one input. */
function takePending(node: Node, name: string, pending: Map<Node, Tensor>): Tensor | null {
  const edge = node.edges.find((e) => e.name === name);
  if (!edge || !('node' in edge)) return null;
  const sum = pending.get(edge.node);
  if (!sum?.isContiguous) return null;
  pending.delete(edge.node);
  return sum;
}

function step(node: Node, pending: Map<Node, Tensor>, retain: boolean): void {
  const dy = pending.get(node);
  if (!dy) return;
  pending.delete(node);
  const saved = node.saved;
  if (!saved) {
    dy.dispose();
    throw new RootsError(
      'ERR_GRAPH_FREED',
      'backward: the graph was freed by an earlier backward(); pass { retainGraph: true } to the first one',
    );
  }
  const taken: Tensor[] = [];
  const gradients = tidy(() => {
    const result = node.backward(dy, saved, {
      last: !retain,
      sumOf: (name) => denseSum(node, name),
      take: (name) => {
        const sum = takePending(node, name, pending);
        if (sum) taken.push(sum);
        return sum;
      },
    });
    // dy or a saved tensor may be returned as it is, even twice: give each edge a handle of its own
    return node.edges.map((edge) => result[edge.name]?.detach() ?? null);
  });
  dy.dispose();
  for (const sum of taken) sum.dispose();
  // before the edges are served: what only this node saved is then free, and a gradient that is nobody else's is not copied
  if (!retain) node.freeSaved();
  node.edges.forEach((edge, i) => {
    const gradient = gradients[i];
    if (!gradient) return;
    if ('leaf' in edge) {
      accumulate(edge.leaf, gradient);
      return;
    }
    const before = pending.get(edge.node);
    if (before) {
      pending.set(edge.node, add(before, gradient));
      before.dispose();
      gradient.dispose();
    } else {
      pending.set(edge.node, gradient);
    }
  });
}

/** dy summed over the axes along which an input of `shape` was broadcast. */
export function unbroadcast(dy: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(dy.shape, shape)) return dy;
  const lead = dy.shape.length - shape.length;
  const stretched = dy.shape.map((n, i) => i < lead || (shape[i - lead] === 1 && n !== 1));
  const kept = dy.shape.map((_, i) => i).filter((i) => !stretched[i]);
  const reduced = dy.shape.map((_, i) => i).filter((i) => stretched[i]);
  const axes = [...kept, ...reduced];
  const view = dy.view(
    axes.map((i) => dy.shape[i]!),
    axes.map((i) => dy.strides[i]!),
    dy.offset,
  );
  const out = empty(
    kept.map((i) => dy.shape[i]!),
    dy.dtype,
  );
  if (isHalf(dy.dtype)) widened([view], out, ([x], sum) => kernels.reduce_sum(x!, sum));
  else kernels.reduce_sum(view, out);
  return out.view(shape, contiguousStrides(shape), 0);
}

/**
 * A gradient that the forward already made, times dy, a scalar: in place the last time anyone asks, since that of an output head is
 * as large as the head.
 */
export function timesUpstream(gradient: Tensor, dy: Tensor, last: boolean): Tensor {
  const { shape } = gradient;
  const factor = dy.view(
    shape,
    shape.map(() => 0),
    dy.offset,
  );
  const out = last ? gradient : emptyLike(gradient);
  kernels.mul(gradient, factor, out);
  return out;
}
