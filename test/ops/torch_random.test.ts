// Every op and every gradient against PyTorch on random shapes, strides, dtypes and options (G03). Needs the Python named by
// ROOTS_PEER_PYTHON. ROOTS_CASES says how many cases each op gets, ROOTS_SEED where the sequence of all begins.
import { spawnSync } from 'node:child_process';
import { appendFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { Tensor } from '../../lib/index.js';
import { numbers, temporaryFolder } from '../harness.js';
import {
  casesOf,
  compare,
  describeCase,
  leafOf,
  ops,
  relativeError,
  relativeGradientError,
  upstreamOf,
  viewOf,
} from './random_cases.js';
import type { Case, Op } from './random_cases.js';

const python = process.env['ROOTS_PEER_PYTHON'];
const cases = Number(process.env['ROOTS_CASES'] ?? 60);
const seed = Number(process.env['ROOTS_SEED'] ?? 1);

interface Result {
  shape: number[];
  values: (number | string)[];
  gradients: ((number | string)[] | null)[];
}

const script = `
import json, math, sys, torch
import torch.nn.functional as F
def plain(x):
    return [v if math.isfinite(v) else str(v) for v in x.detach().to(torch.float64).flatten().tolist()]
def view(b, o):
    for axis, (start, end) in enumerate(o["bounds"]): b = b.narrow(axis, start, end - start)
    # dense: some of the reference's kernels are wrong for strides of 0
    return b.permute(o["order"]).expand(o["shape"]).contiguous()
def run(c):
    leaves = []
    for o in c["operands"]:
        kind = getattr(torch, o["dtype"])
        b = torch.tensor([float(v) for v in o["values"]], dtype=torch.float64).to(kind).reshape(o["base"])
        # the reference computes in float64 and int64, on the values that the dtype holds
        leaves.append(b.double().requires_grad_(c["smooth"]) if b.is_floating_point() else b.bool() if o["dtype"] == "bool" else b.long())
    t = [view(b, o) for b, o in zip(leaves, c["operands"])]
    y = eval(c["expression"], {"torch": torch, "F": F, "math": math, "t": t, "o": c["options"]})
    gradients = [None] * len(leaves)
    if c["smooth"] and y.requires_grad:
        g = ((torch.arange(y.numel(), dtype=torch.float64) * 7 + 3) % 11 - 5) / 4
        y.backward(g.reshape(y.shape))
        gradients = [plain(b.grad) if b.is_floating_point() and b.grad is not None else None for b in leaves]
    return {"shape": list(y.shape), "values": plain(y), "gradients": gradients}
def named(name, c):
    try: return run(c)
    except Exception as error: raise RuntimeError(name + " " + json.dumps({**c, "operands": [{**o, "values": []} for o in c["operands"]]})) from error
with open(sys.argv[2], "w") as answers:
    for line in open(sys.argv[1]):
        name, cases = json.loads(line)
        answers.write(json.dumps([name, [named(name, c) for c in cases]]) + "\\n")
`;

const known = ops.filter((op) => op.expression !== null);

/** NaN and infinity, which JSON has not, as words. */
const words = (_: string, v: unknown): unknown =>
  typeof v === 'number' && !Number.isFinite(v) ? String(v) : v;

function compareWithTorch(what: string, some: readonly Op[], specials: boolean): void {
  const reason = python ? '' : ' (skipped: set ROOTS_PEER_PYTHON)';
  describe.skipIf(!python)(`${what} against PyTorch (G03)${reason}`, () => {
    const all = new Map<string, Case[]>();
    const answers = new Map<string, Result[]>();
    beforeAll(() => {
      const folder = temporaryFolder('random');
      const [asked, answered] = [join(folder, 'cases.jsonl'), join(folder, 'results.jsonl')];
      for (const op of some) {
        const made = casesOf(op, seed, cases, specials);
        all.set(op.name, made);
        appendFileSync(asked, `${JSON.stringify([op.name, made], words)}\n`);
      }
      const child = spawnSync(python!, ['-c', script, asked, answered], { encoding: 'utf8' });
      expect(child.status, child.stderr.slice(-2000)).toBe(0);
      for (const line of readFileSync(answered, 'utf8').trimEnd().split('\n')) {
        const [name, results] = JSON.parse(line) as [string, Result[]];
        answers.set(name, results);
      }
    }, 600_000);

    it.each(some)('$name', async (op) => {
      expect(all.get(op.name)).toHaveLength(cases);
      for (const [i, c] of all.get(op.name)!.entries())
        await compareCase(op, c, answers.get(op.name)![i]!, describeCase(op, i, c));
    });
  });
}

async function compareCase(op: Op, c: Case, wanted: Result, what: string): Promise<void> {
  const leaves = c.operands.map((o) => leafOf(o, c.smooth));
  let y: Tensor;
  try {
    y = op.run(
      leaves.map((x, j) => viewOf(x, c.operands[j]!)),
      c.options,
    );
  } catch (error) {
    throw new Error(what, { cause: error });
  }
  expect(y.shape, what).toEqual(wanted.shape);
  compare(await numbers(y), wanted.values, relativeError(c, y), what);
  if (c.smooth && y.requiresGrad) {
    y.backward(upstreamOf(y));
    for (const [j, x] of leaves.entries()) {
      const gradient = wanted.gradients[j];
      if (!gradient || !x.grad) continue;
      const relative = relativeGradientError(c, y, c.operands[j]!);
      compare(await numbers(x.grad), gradient, relative, `${what}: gradient ${j}`);
    }
  }
  y.dispose();
  leaves.forEach((x) => x.dispose());
}

compareWithTorch('random shapes', known, false);
const alike = known.filter((op) => !op.finite);
compareWithTorch('NaN, infinity and zeros of both signs', alike, true);
