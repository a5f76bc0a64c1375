#!/usr/bin/env bash
# Packs the package with its prebuild, installs the tarball in an empty folder without scripts, network or compiler,
# and uses it there: import, require, command line, types.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
[ -n "$(ls prebuilds/*/*.node 2>/dev/null)" ] || node scripts/prebuild.mjs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ROOTS_SKIP_BUILD=1 npm pack --silent --pack-destination "$work" >/dev/null
tarball=$(ls "$work"/*.tgz)
bytes=$(stat -c %s "$tarball")
[ "$bytes" -lt 15000000 ] || { echo "tarball of $bytes bytes exceeds 15 MB"; exit 1; }
tar tzf "$tarball" >"$work/list"
if grep -E 'binding\.gyp|^package/test/|^package/native/test/' "$work/list"; then echo "the tarball holds files it should not"; exit 1; fi
grep -q 'prebuilds/.*\.node' "$work/list" || { echo "the tarball holds no prebuild"; exit 1; }

mkdir "$work/app"
cd "$work/app"
echo '{"name":"app","private":true,"type":"module"}' >package.json
# dependencies come from this checkout: no network
npm install --ignore-scripts --offline --silent "$tarball" 2>/dev/null || {
  # npm's cache may lack the packages: install them as files
  npm install --ignore-scripts --silent "$tarball" "$root"/node_modules/{node-gyp-build,node-addon-api} "$root/node_modules/@huggingface/tokenizers"
}
ls node_modules/roots-llm/binding.gyp 2>/dev/null && { echo "binding.gyp was installed"; exit 1; }
cat >use.mjs <<'JS'
import { tensor, devices, memory } from 'roots-llm';
const x = tensor([[1, 2], [3, 4]], { requiresGrad: true });
x.matmul(x).sum().backward();
const grad = [...(await x.grad.data())];
if (String(grad) !== '7,11,9,13') throw new Error(`wrong gradient ${grad}`);
console.log(devices()[0].isa, memory().tensors > 0);
JS
cat >use.cjs <<'JS'
const { tensor } = require('roots-llm');
tensor([1, 2]).add(1).data().then((v) => { if (String([...v]) !== '2,3') throw new Error('wrong sum'); });
JS
# no compiler, no make, no cmake in sight
mkdir "$work/bin"
ln -s "$(command -v node)" "$work/bin/node"
PATH="$work/bin" node use.mjs
PATH="$work/bin" node use.cjs
PATH="$work/bin" node node_modules/roots-llm/dist/cli/main.js devices --json >/dev/null
cat >types.ts <<'TS'
import { LanguageModel, tensor } from 'roots-llm';
const y: Float32Array | unknown = await tensor([[1, 2]]).matmul(tensor([[1], [2]])).softmax().data();
const lm: LanguageModel | null = null;
console.log(y, lm);
TS
"$root/node_modules/.bin/tsc" --noEmit --module nodenext --target es2022 --lib es2023,esnext.disposable --strict --types node --typeRoots "$root/node_modules/@types" types.ts
echo "package test: $(basename "$tarball"), $bytes bytes, installs and runs"
