// Distillation as a training objective: the student follows the teacher's next-token distribution, and, if asked, its hidden states,
// attention relations or the text itself.
import { noGrad } from '../../autograd/modes.js';
import type { TokenBatch } from '../../data/token_dataset.js';
import type { CausalLM } from '../../models/causal_lm.js';
import { linearCrossEntropy } from '../../ops/linear_cross_entropy.js';
import { linearKlDiv } from '../../ops/linear_kl_div.js';
import * as check from '../../ops/check.js';
import { add, mul } from '../../ops/elementwise.js';
import { mseLoss } from '../../ops/losses.js';
import { reshape } from '../../ops/view.js';
import { OptionError } from '../../tensor/errors.js';
import { Generator } from '../../tensor/random.js';
import { keep, tidy } from '../../tensor/scope.js';
import type { Tensor } from '../../tensor/tensor.js';
import { ids } from '../../train/objectives.js';
import type { Objective } from '../../train/objectives.js';
import { cachedKl } from './teacher_cache.js';
import type { TeacherBatch } from './teacher_cache.js';
import { Projections, cosineLoss, layerMap, relationLoss, squareHeadLoss } from './losses.js';

export interface DistillOptions {
  /** Softens both distributions. Default 1. */
  temperature?: number;
  /** KL(student ‖ teacher). */
  reverse?: boolean;
  /** Weight of cross-entropy on the text; the divergence has 1 - alpha. Default 0: the teacher alone. */
  alpha?: number;
  /** Weight of the distance between hidden states, layer by layer. Default 0. */
  hidden?: number;
  hiddenKind?: 'mse' | 'cosine';
  /** Weight of MiniLM relation transfer at the last layer. Default 0. */
  relations?: number;
  relationHeads?: number;
  /** Weight of SquareHead over all layers; needs the teacher's width. Default 0. */
  squareHead?: number;
}

export const distillOptionNames: readonly string[] = [
  'temperature',
  'reverse',
  'alpha',
  'hidden',
  'hiddenKind',
  'relations',
  'relationHeads',
  'squareHead',
];

export interface Distillation extends Objective<CausalLM, TokenBatch & Partial<TeacherBatch>> {
  /** Trained beside the student; empty where the widths are equal. */
  readonly auxiliary: Projections;
}

export function checkVocabularies(teacher: CausalLM, student: CausalLM): void {
  if (teacher.shape.vocab !== student.shape.vocab)
    throw new OptionError(
      `distill: the teacher's vocabulary has ${teacher.shape.vocab} tokens, the student's ${student.shape.vocab}; logits can only be compared over one vocabulary`,
    );
}

interface Seen {
  features: Tensor;
  states: Tensor[];
  qkv: Tensor[];
}

/** The objective for `student`; the teacher is only read. */
export function distillation(
  teacher: CausalLM,
  student: CausalLM,
  options: DistillOptions = {},
): Distillation {
  check.knownOptions('distill', options, distillOptionNames);
  const { temperature = 1, reverse = false, alpha = 0, hiddenKind = 'mse' } = options;
  const { hidden = 0, relations = 0, relationHeads = 4, squareHead = 0 } = options;
  check.number('distill', 'temperature', temperature, Number.MIN_VALUE);
  check.number('distill', 'alpha', alpha, 0, 1);
  for (const [name, value] of Object.entries({ hidden, relations, squareHead }))
    check.number('distill', name, value, 0);
  check.integer('distill', 'relationHeads', relationHeads, 1);
  check.oneOf('distill', 'hiddenKind', hiddenKind, ['mse', 'cosine']);
  checkVocabularies(teacher, student);
  if (squareHead > 0 && teacher.shape.hidden !== student.shape.hidden)
    throw new OptionError(
      `distill: squareHead needs equal widths, got ${teacher.shape.hidden} (teacher) and ${student.shape.hidden}; use hidden, which projects`,
    );
  const layers = layerMap(student.shape.layers, teacher.shape.layers);
  const auxiliary = new Projections(
    hidden > 0 ? layers.length : 0,
    student.shape.hidden,
    teacher.shape.hidden,
    new Generator(0x5eed),
  );
  auxiliary.requiresGrad();
  const wantsStates = hidden > 0 || squareHead > 0;

  const look = (model: CausalLM, inputIds: Tensor): Seen => {
    if (!wantsStates && relations === 0)
      return { features: model.features({ inputIds }), states: [], qkv: [] };
    const qkv: Tensor[] = [];
    const out = model.forward({
      inputIds,
      logitsToKeep: 1,
      outputHiddenStates: true,
      ...(relations > 0 && {
        observeAttention: (layer: number, ...parts: Tensor[]) => {
          // handles of its own: the block's tidy() ends before the loss is made
          if (layer === model.shape.layers - 1) qkv.push(...parts.map(share));
        },
      }),
    });
    const states = out.hiddenStates!;
    return { features: states.at(-1)!, states, qkv };
  };

  const loss = (model: CausalLM, batch: TokenBatch & Partial<TeacherBatch>): Tensor => {
    const inputIds = ids(batch.inputIds, batch);
    const own = look(model, inputIds);
    const rows = batch.inputIds.length;
    const parts: Tensor[] = [];
    if (batch.topIndices && batch.topLogProbs) {
      if (wantsStates || relations > 0 || temperature !== 1 || reverse)
        throw new OptionError(
          'distill: cached teacher logits serve the forward divergence at temperature 1 alone; for hidden states, relations, reverse or another temperature use the teacher itself',
        );
      parts.push(mul(cachedKl(model.project(own.features), batch as TeacherBatch), 1 - alpha));
    } else {
      const his = noGrad(() => look(teacher, inputIds));
      const flat = noGrad(() => reshape(his.features, [rows, his.features.shape.at(-1)!]));
      const kl = linearKlDiv(
        own.features,
        model.outputWeight,
        (from, count) =>
          noGrad(() =>
            teacher.project(
              flat.view([count, flat.shape[1]!], flat.strides, flat.offset + from * flat.shape[1]!),
            ),
          ),
        { temperature, reverse },
      );
      if (alpha < 1) parts.push(mul(kl, 1 - alpha));
      if (hidden > 0)
        layers.forEach((t, i) => {
          const x = auxiliary.apply(i, own.states[i]!);
          const y = his.states[t]!;
          const distance = hiddenKind === 'mse' ? mseLoss(x, y) : cosineLoss(x, y);
          parts.push(mul(distance, hidden / layers.length));
        });
      if (squareHead > 0)
        layers.forEach((t, i) =>
          parts.push(
            mul(squareHeadLoss(own.states[i]!, his.states[t]!), squareHead / layers.length),
          ),
        );
      if (relations > 0)
        own.qkv.forEach((x, i) =>
          parts.push(mul(relationLoss(x, his.qkv[i]!, relationHeads), relations / 3)),
        );
      for (const t of [...own.qkv, ...his.qkv]) t.dispose();
    }
    if (alpha > 0)
      parts.push(
        mul(linearCrossEntropy(own.features, model.outputWeight, ids(batch.targets, batch)), alpha),
      );
    return parts.reduce((a, b) => add(a, b));
  };

  return {
    auxiliary,
    loss: (model, batch) =>
      tidy(() => ({ loss: loss(model, batch), count: batch.inputIds.length })),
    tokens: (batch) => batch.inputIds.length,
  };
}

/** A handle that stays recorded and outlives tidy(). */
function share(t: Tensor): Tensor {
  return keep(mul(t, 1));
}
