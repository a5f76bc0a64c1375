// Gradients of random programs against central differences: results used several times, residual streams that norms and products take
// over, checkpointed parts, handles disposed before backward(), gradients that add up.
import { describe, expect, it } from 'vitest';
import {
  attention,
  checkpoint,
  concat,
  gradcheck,
  layerNorm,
  linear,
  linearCrossEntropy,
  matmul,
  maximum,
  randn,
  rmsNorm,
  swiglu,
  tensor,
  tidy,
} from '../../lib/index.js';
import type { Activation, Tensor } from '../../lib/index.js';
import { Generator } from '../../lib/index.js';
import { expectClose, expectNoLeak, f64Tolerance, numbers } from '../harness.js';
import { Dice } from '../ops/random_cases.js';

const programs = Number(process.env['ROOTS_CASES'] ?? 40);
const seed = Number(process.env['ROOTS_SEED'] ?? 1);
const [rows, width] = [3, 4];

/** x, y, z (3, 4), weight (4, 4), scale and bias (4) → (3, 4) */
type Step = (t: Record<'x' | 'y' | 'z' | 'weight' | 'scale' | 'bias', Tensor>) => Tensor;

const activations: Activation[] = ['none', 'gelu_tanh', 'gelu', 'silu'];
const steps: Step[] = [
  ({ x }) => x.tanh(),
  ({ x }) => x.sigmoid().add(0.25),
  ({ x, y }) => x.add(y),
  ({ x, y }) => x.sub(y).mul(0.5),
  ({ x, y }) => x.mul(y).tanh(),
  ({ x, y }) => maximum(x, y),
  ({ x, y }) => swiglu(x, y),
  ({ x }) => x.softmax(),
  ({ x }) => x.logSoftmax(0).mul(0.5),
  ({ x }) => x.transpose().reshape([rows, width]),
  ({ x, y }) => concat([x.slice(0, 1, 3), y.slice(0, 0, 1)], 0),
  ({ x, y }) => concat([x.slice(1, 2), y.slice(1, 0, 2)], 1),
  ({ x }) => x.sum({ dim: 0, keepdim: true }).expand([rows, width]).tanh(),
  ({ x, y }) => x.mul(y.mean({ dim: 1, keepdim: true })),
  ({ x, scale, bias }) => layerNorm(x, scale, bias),
  ({ x, y, scale }) => rmsNorm(x.add(y), scale),
  // a block's residual stream: the norm reads what the sum goes on with
  ({ x, scale, bias, weight }) => x.add(linear(layerNorm(x, scale, bias), weight)).tanh(),
  ({ x, y, scale, weight }) => {
    const stream = x.add(y);
    return linear(rmsNorm(stream, scale), weight, null, { residual: stream }).mul(0.5);
  },
  ...activations.flatMap((activation): Step[] => [
    ({ x, weight, bias }) => linear(x, weight, bias, { activation }),
    ({ x, y, z, weight, bias }) =>
      linear(x, weight, bias, { activation, gate: y, residual: z }).tanh(),
  ]),
  ({ x, y, z }) => matmul(x, y.transpose()).softmax().matmul(z),
  ({ x, y, z }) => {
    const heads = (t: Tensor): Tensor => t.reshape([1, rows, 2, 2]).permute([0, 2, 1, 3]);
    return attention(heads(x), heads(y), heads(z), { causal: true })
      .permute([0, 2, 1, 3])
      .reshape([rows, width]);
  },
  ({ x, weight, bias }) =>
    checkpoint((h) => linear(h, weight, bias, { activation: 'gelu', residual: h }), x, {
      parameters: [weight, bias].filter((t) => t.requiresGrad),
    }).tanh(),
  ({ x, weight }) =>
    x
      .mul(linearCrossEntropy(x, weight, tensor([1, 0, 3], { dtype: 'int64' }), { maxLogits: 5 }))
      .tanh(),
];

interface Program {
  run: (x: Tensor, y: Tensor, weight: Tensor, scale: Tensor, bias: Tensor) => Tensor;
}

function program(d: Dice): Program {
  const plan = Array.from({ length: 4 + d.below(10) }, (_, i) => ({
    step: d.of(steps),
    // of the two inputs and what came before, the last more often
    operands: Array.from({ length: 3 }, () => (d.chance(0.5) ? i + 1 : d.below(i + 2))),
    dispose: d.chance(0.3),
  }));
  return {
    run: (x, y, weight, scale, bias) => {
      const values = [x, y];
      for (const { step, operands } of plan) {
        const [a, b, c] = operands.map((i) => values[i]!);
        values.push(step({ x: a!, y: b!, z: c!, weight, scale, bias }));
      }
      const out = values.at(-1)!.add(values.at(-2)!).add(values[2]!);
      // the graph holds what it needs
      plan.forEach(({ dispose }, i) => {
        if (dispose) values[i + 2]!.dispose();
      });
      return out;
    },
  };
}

const inputs = (g: Generator): Tensor[] =>
  [[rows, width], [rows, width], [width, width], [width], [width]].map((shape) =>
    randn(shape, { dtype: 'float64', generator: g }),
  );

describe('random programs', () => {
  it('have the gradients of central differences (G03)', () => {
    for (let i = 0; i < programs; i++) {
      const p = program(new Dice(seed * 10000 + i));
      tidy(() => {
        try {
          gradcheck(p.run, inputs(new Generator(i)), { eps: 1e-5, atol: 1e-5 });
        } catch (error) {
          throw new Error(`program ${i}`, { cause: error });
        }
      });
    }
  });

  it('add up when backward() runs again, and leave nothing behind', async () => {
    await expectNoLeak(async () => {
      for (let i = 0; i < programs; i++) {
        const p = program(new Dice(seed * 10000 + i));
        const leaves = inputs(new Generator(i)).map((t) => t.setRequiresGrad());
        const [x, y, weight, scale, bias] = leaves as [Tensor, Tensor, Tensor, Tensor, Tensor];
        const out = tidy(() => p.run(x, y, weight, scale, bias));
        const upstream = tensor(new Float64Array(out.size).fill(0.5), { shape: out.shape });
        out.backward(upstream, { retainGraph: true });
        const once = await Promise.all(leaves.map((t) => (t.grad ? numbers(t.grad) : null)));
        out.backward(upstream);
        for (const [j, t] of leaves.entries()) {
          expect(t.grad === null, `program ${i}, input ${j}`).toBe(once[j] === null);
          if (t.grad)
            expectClose(
              await numbers(t.grad),
              once[j]!.map((v) => 2 * v),
              f64Tolerance,
              `program ${i}, input ${j}`,
            );
        }
        [out, upstream, ...leaves].forEach((t) => t.dispose());
      }
    });
  });
});
