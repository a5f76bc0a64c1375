// What `npm ci` in a checkout runs: the native addon, then TypeScript. Consumers of the package never run it.
import { spawnSync } from 'node:child_process';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

if (process.env.ROOTS_SKIP_BUILD) process.exit(0);
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
for (const [command, ...args] of [
  [process.execPath, 'scripts/build_native.mjs'],
  [process.execPath, 'node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'],
]) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (result.status !== 0) process.exit(result.status ?? 1);
}
