// What a student can be taught besides logits: hidden states, attention relations.
import { Module } from '../../nn/module.js';
import { Linear } from '../../nn/linear.js';
import { contiguous } from '../../ops/cast.js';
import { add, div, mul, reciprocal, sqrt, square, sub } from '../../ops/elementwise.js';
import { klDiv, mseLoss } from '../../ops/losses.js';
import { matmul } from '../../ops/matmul.js';
import { mean, sum } from '../../ops/reduce.js';
import { permute, reshape, transpose } from '../../ops/view.js';
import { empty, full } from '../../tensor/create.js';
import { OptionError } from '../../tensor/errors.js';
import { tidy } from '../../tensor/scope.js';
import type { Generator } from '../../tensor/random.js';
import type { Tensor } from '../../tensor/tensor.js';
import * as init from '../../nn/init.js';

/** Student layer → teacher layer, both counted from 0 (embeddings) to the number of layers. */
export function layerMap(student: number, teacher: number): number[] {
  return Array.from({ length: student + 1 }, (_, i) => Math.round((i * teacher) / student));
}

/** Trainable maps from the student's width to the teacher's, one per layer; empty where the widths are equal. */
export class Projections extends Module {
  readonly #maps: Linear[] = [];

  constructor(count: number, from: number, to: number, generator: Generator) {
    super();
    if (from === to) return;
    for (let i = 0; i < count; i++)
      this.#maps.push(
        this.register(
          `${i}`,
          new Linear({ weight: init.xavierUniform(empty([to, from]), { generator }) }),
        ),
      );
  }

  apply(i: number, x: Tensor): Tensor {
    return this.#maps[i]?.forward(x) ?? x;
  }
}

/** Mean over tokens of 1 - cos(x, y). x, y (…, C) → scalar */
export function cosineLoss(x: Tensor, y: Tensor): Tensor {
  return tidy(() => {
    const dot = sum(mul(x, y), { dim: -1 });
    const norms = sqrt(
      add(mul(sum(square(x), { dim: -1 }), sum(square(y), { dim: -1 })), full([], 1e-12)),
    );
    return sub(full([], 1), mean(mul(dot, reciprocal(norms))));
  });
}

/** MSE(x, y) / MSE(y, 0): layers of any magnitude count alike (SquareHead, arXiv 2310.06927). */
export function squareHeadLoss(x: Tensor, y: Tensor): Tensor {
  return tidy(() => div(mseLoss(x, y), add(mean(square(y)), full([], 1e-12))));
}

/**
 * KL between the relations softmax(A Aᵀ / √d) of teacher and student (MiniLMv2, arXiv 2012.15828): widths and head counts may differ.
 * student, teacher (B, H, T, D), re-split into `heads` relation heads → scalar
 */
export function relationLoss(student: Tensor, teacher: Tensor, heads: number): Tensor {
  const relations = (x: Tensor): Tensor => {
    const [b, h, t, d] = x.shape as [number, number, number, number];
    if ((h * d) % heads !== 0)
      throw new OptionError(
        `distill: ${h * d} channels cannot be split into ${heads} relation heads`,
      );
    const wide = reshape(contiguous(permute(x, [0, 2, 1, 3])), [b, t, heads, (h * d) / heads]);
    const split = contiguous(permute(wide, [0, 2, 1, 3])); // (B, R, T, d)
    return mul(matmul(split, transpose(split)), 1 / Math.sqrt((h * d) / heads));
  };
  return tidy(() => klDiv(relations(student), relations(teacher).detach()));
}
