// What op tests share: fixtures, tolerances, a leak check, and checkOp().
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  cast,
  gradcheck,
  memory,
  openSafetensors,
  randn,
  synchronize,
  tensor,
  tidy,
} from '../lib/index.js';
import type { TensorFile, Tensor } from '../lib/index.js';

export const fixturesPath = resolve(
  process.env['ROOTS_FIXTURES'] ?? new URL('../../shared/fixtures', import.meta.url).pathname,
);
export const hasFixtures = existsSync(fixturesPath);

const temporaries: string[] = [];
process.on('exit', () => temporaries.forEach((f) => rmSync(f, { recursive: true, force: true })));
/** A fresh folder that goes when the process ends. */
export function temporaryFolder(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `roots-${name}-`));
  temporaries.push(folder);
  return folder;
}

/** describe() that needs the fixtures: skipped with a visible reason where they are absent. */
export function describeWithFixtures(name: string, body: () => void): void {
  if (hasFixtures) describe(name, body);
  else
    // a skipped body would still run, to collect its tests, and may read fixtures there
    describe.skip(`${name} (skipped: no fixtures at ${fixturesPath}; set ROOTS_FIXTURES)`, () => {
      it('needs the fixtures', () => {});
    });
}

export function fixture(path: string): string {
  return resolve(fixturesPath, path);
}

export function fixtureJson(path: string): Record<string, unknown> {
  return JSON.parse(readFileSync(fixture(path), 'utf8')) as Record<string, unknown>;
}

const opened = new Map<string, Promise<TensorFile>>();
export function fixtureTensors(path: string): Promise<TensorFile> {
  if (!opened.has(path)) opened.set(path, openSafetensors(fixture(path)));
  return opened.get(path)!;
}

export async function numbers(t: Tensor): Promise<Float64Array> {
  const data = await t.data();
  return Float64Array.from(data as ArrayLike<number | bigint>, Number);
}

export interface Tolerance {
  rtol: number;
  atol: number;
}

/** reliability: f32 1.3e-6 / 1e-5, f64 1e-12 forward. */
export const f32Tolerance: Tolerance = { rtol: 1.3e-6, atol: 1e-5 };
export const f64Tolerance: Tolerance = { rtol: 1e-10, atol: 1e-12 };

export function expectClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: Tolerance,
  what = '',
): void {
  expect(got.length, what).toBe(want.length);
  for (let i = 0; i < want.length; i++) {
    const g = got[i]!;
    const w = want[i]!;
    if (Number.isNaN(w) ? Number.isNaN(g) : g === w) continue;
    if (!(Math.abs(g - w) <= tolerance.atol + tolerance.rtol * Math.abs(w)))
      throw new Error(
        `${what}: element ${i} is ${g}, expected ${w} (difference ${Math.abs(g - w)})`,
      );
  }
}

interface Values {
  data: Float64Array;
  shape: readonly number[];
}

/** a (…, M, K) × b (…, K, N), or one b for all, by three loops. */
export function matmulReference(a: Values, b: Values): number[] {
  const [m, k] = a.shape.slice(-2) as [number, number];
  const n = b.shape.at(-1)!;
  const batch = a.data.length / (m * k);
  const shared = b.data.length === k * n;
  const out: number[] = [];
  for (let t = 0; t < batch; t++)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let s = 0;
        for (let q = 0; q < k; q++)
          s += a.data[t * m * k + i * k + q]! * b.data[(shared ? 0 : t * k * n) + q * n + j]!;
        out.push(s);
      }
  return out;
}

/** Runs `fn` and expects as many storages and bytes afterwards as before. */
export async function expectNoLeak(fn: () => void | Promise<void>): Promise<void> {
  // garbage of earlier tests would be collected in the middle: let it go first
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await synchronize();
  const before = memory();
  await fn();
  await synchronize();
  const after = memory();
  expect({ tensors: after.tensors, bytes: after.bytes }).toEqual({
    tensors: before.tensors,
    bytes: before.bytes,
  });
}

/** The same values through a view whose last two axes are exchanged in memory: not contiguous. */
export function strided(x: Tensor): Tensor {
  if (x.rank < 2) {
    // every second element of a longer tensor
    return tidy(() => {
      const n = x.size;
      const values = x.dataSync() as Float64Array;
      const wide = new Float64Array(2 * n);
      values.forEach((v, i) => (wide[2 * i] = v));
      const t = cast(tensor(wide), x.dtype);
      return t.view([n], [2], 0);
    });
  }
  return tidy(() => {
    const order = x.shape.map((_, i) => i);
    [order[order.length - 1], order[order.length - 2]] = [
      order[order.length - 2]!,
      order[order.length - 1]!,
    ];
    return x.permute(order).clone().permute(order);
  });
}

export interface OpCase {
  name: string;
  /** Makes float64 inputs. */
  inputs: () => Tensor[];
  op: (...inputs: Tensor[]) => Tensor;
  /** float64 truth from values and shapes. */
  reference?: (...inputs: { data: Float64Array; shape: readonly number[] }[]) => ArrayLike<number>;
  /** Leave out gradcheck (discrete results). */
  gradient?: boolean;
  tolerance?: Tolerance;
  f32?: Tolerance;
}

/**
 * For each case: the reference in float64 and float32, bf16 within rounding, non-contiguous inputs, gradcheck, no leak,
 * handles disposed before backward, use after dispose refused.
 */
export function checkOp(title: string, cases: OpCase[]): void {
  describe(title, () => {
    for (const c of cases) {
      if (c.reference) {
        it(`${c.name}: equals the reference in float64 and float32`, async () => {
          const inputs = c.inputs();
          const values = inputs.map((t) => ({
            data: Float64Array.from(t.dataSync() as Float64Array),
            shape: t.shape,
          }));
          const want = c.reference!(...values);
          expectClose(await numbers(c.op(...inputs)), want, c.tolerance ?? f64Tolerance, 'float64');
          const narrow = inputs.map((t) => cast(t, 'float32'));
          expectClose(
            await numbers(c.op(...narrow)),
            c.reference!(...values.map((v) => ({ ...v, data: v.data.map(Math.fround) }))),
            c.f32 ?? f32Tolerance,
            'float32',
          );
        });
      }
      it(`${c.name}: does not care about strides`, async () => {
        const inputs = c.inputs();
        const plain = await numbers(c.op(...inputs));
        const views = inputs.map((t) => (t.size > 1 ? strided(t) : t));
        expect(
          views.some((v) => !v.isContiguous) ||
            inputs.every((t) => t.size <= 1 || t.shape.filter((d) => d > 1).length < 2),
        ).toBe(true);
        expectClose(await numbers(c.op(...views)), plain, { rtol: 1e-12, atol: 1e-13 }, 'strided');
      });
      if (c.gradient !== false)
        it(`${c.name}: gradcheck`, () => {
          gradcheck(c.op, c.inputs());
        });
      it(`${c.name}: leaves nothing behind, survives disposed handles, refuses disposed inputs`, async () => {
        const inputs = c.inputs();
        await expectNoLeak(async () => {
          for (let i = 0; i < 2; i++) {
            const leaves = inputs.map((t) => t.clone().setRequiresGrad(c.gradient !== false));
            const out = c.op(...leaves);
            const total = tidy(() => out.cast('float64').sum());
            out.dispose();
            if (total.requiresGrad) total.backward();
            total.dispose();
            for (const leaf of leaves) leaf.dispose();
          }
        });
        const dead = inputs[0]!.clone();
        dead.dispose();
        expect(() => c.op(dead, ...inputs.slice(1))).toThrow(
          expect.objectContaining({ code: 'ERR_ROOTS_DISPOSED' }),
        );
      });
    }
  });
}

/** Normal float64 values. */
export const normal = (...shape: number[]): Tensor => randn(shape, { dtype: 'float64' });
/** Values in [low, high), float64. */
export function between(low: number, high: number, shape: number[]): Tensor {
  const n = shape.reduce((a, b) => a * b, 1);
  const data = Float64Array.from(
    { length: n },
    (_, i) => low + (high - low) * ((i * 0.7548776662466927 + 0.31) % 1),
  );
  return tensor(data, { shape });
}
