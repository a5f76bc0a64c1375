// prebuilds/<platform>-<arch>/roots.glibc.node by prebuildify, which calls the CMake build instead of node-gyp.
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const prebuildify = createRequire(import.meta.url)('prebuildify');
prebuildify(
  {
    cwd: root,
    arch: process.arch,
    napi: true,
    strip: true,
    name: 'roots',
    tagLibc: process.platform === 'linux',
    targets: [`node@${process.versions.node}`],
    shell: true,
    nodeGyp: `"${process.execPath}" "${root}/scripts/build_native.mjs"`,
  },
  (error) => {
    if (!error) return;
    console.error(`prebuild: ${error.message}`);
    process.exit(1);
  },
);
