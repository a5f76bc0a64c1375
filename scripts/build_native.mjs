// Builds the addon with CMake through cmake-js.
//   node scripts/build_native.mjs [--out=DIR] [--debug] [--clean] [-DNAME=VALUE]...
// Also understands how prebuildify calls node-gyp: "rebuild --target=.. --arch=.. --release".
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const args = process.argv.slice(2);
const option = (name) => args.find((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3);
const out = resolve(root, option('out') ?? 'build/cmake');
const defines = [...args, ...(process.env.ROOTS_CMAKE_DEFS ?? '').split(' ')].filter((a) =>
  a.startsWith('-D'),
);
const config = args.includes('--debug') ? 'Debug' : 'Release';

const has = (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0;
function refuse(message) {
  console.error(`roots-llm: ${message}`);
  process.exit(1);
}
if (!has('cmake'))
  refuse('cmake is needed to build the native core. On Debian: apt-get install cmake g++ make');
const generator = has('ninja') ? 'Ninja' : has('make') ? 'Unix Makefiles' : undefined;
if (!generator)
  refuse('make or ninja is needed to build the native core. On Debian: apt-get install make');
if (!has(process.env.CXX ?? 'c++') && !has('g++') && !has('clang++'))
  refuse('a C++20 compiler is needed to build the native core. On Debian: apt-get install g++');

let cmakeJs;
try {
  cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js');
} catch {
  refuse('cmake-js is not installed; run "npm install" in a checkout of roots-llm');
}
if (args.includes('--clean')) rmSync(out, { recursive: true, force: true });
const common = ['--out', out, '--config', config, '--generator', generator];
if (option('arch')) common.push('--arch', option('arch'));
function cmake(command, extra) {
  const result = spawnSync(process.execPath, [cmakeJs, command, ...common, ...extra], {
    cwd: root,
    stdio: process.env.ROOTS_VERBOSE ? 'inherit' : ['ignore', 'pipe', 'pipe'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (result.status !== 0) {
    console.error(result.stdout ?? '', result.stderr ?? '');
    refuse(`native build failed at "cmake-js ${command}"`);
  }
}
cmake(
  'configure',
  defines.map((d) => `--CD${d.slice(2)}`),
);
cmake('build', []);

// node-gyp-build looks in build/Release; a sanitized or otherwise special build stays where --out says.
const built = [
  join(out, 'Release/roots.node'),
  join(out, 'Debug/roots.node'),
  join(out, 'roots.node'),
].find(existsSync);
if (!built) refuse(`no roots.node under ${out}`);
if (!option('out') || args.includes('rebuild')) {
  mkdirSync(join(root, 'build/Release'), { recursive: true });
  cpSync(built, join(root, 'build/Release/roots.node'));
}
