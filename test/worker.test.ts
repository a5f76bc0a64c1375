// Worker threads: the addon in many environments at once, ended at any moment; and exits with work in flight.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';

const library = new URL('../dist/index.js', import.meta.url).href;
const code = (body: string): string =>
  `import(${JSON.stringify(library)}).then(async (roots) => { const { parentPort } = await import('node:worker_threads'); ${body} })`;

describe('worker threads (B6)', () => {
  it('compute side by side', async () => {
    expect(existsSync(new URL(library))).toBe(true);
    const results = await Promise.all(
      [1, 2, 3].map(
        (seed) =>
          new Promise((resolve, reject) => {
            const worker = new Worker(
              code(
                `const g = new roots.Generator(${seed}); const a = roots.randn([200, 200], { generator: g }); const y = a.matmul(a); for (let i = 0; i < 20; i++) a.matmul(a).dispose(); parentPort.postMessage((await y.data()).slice(0, 4)); `,
              ),
              { eval: true },
            );
            worker.once('message', resolve);
            worker.once('error', reject);
          }),
      ),
    );
    expect(new Set(results.map(String)).size).toBe(3);
  });
  it('can be terminated at any moment', async () => {
    for (let i = 0; i < 25; i++) {
      const worker = new Worker(
        code(
          `for (;;) { const a = roots.randn([64, 64]); a.matmul(a).data(); a.dispose(); if (Math.random() < 0.3) await new Promise(setImmediate); }`,
        ),
        { eval: true },
      );
      await new Promise((resolve) => setTimeout(resolve, 20 + 6 * i));
      await worker.terminate();
    }
  });
});

describe('exit with work in flight (B7)', () => {
  it.each([
    '',
    'process.exit(0)',
    'throw new Error("on purpose")',
    'process.kill(process.pid, "SIGTERM")',
  ])('%s ends without a crash', (end) => {
    const r = spawnSync(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import * as roots from ${JSON.stringify(library)}; const a = roots.randn([600, 600]); for (let i = 0; i < 30; i++) a.matmul(a); const p = a.matmul(a).data(); p.catch(() => {}); ${end}`,
      ],
      { timeout: 60_000, encoding: 'utf8' },
    );
    expect(r.error, 'hangs').toBeUndefined();
    if (end.includes('SIGTERM')) expect(r.signal).toBe('SIGTERM');
    else expect(r.status).toBe(end.startsWith('throw') ? 1 : 0);
    expect(r.stderr).not.toMatch(/Segmentation|Aborted|FATAL/);
  });
});
