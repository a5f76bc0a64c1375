#!/usr/bin/env bash
# The suite in Node with an ASan + UBSan addon.
#   scripts/test_asan.sh [vitest filters and options]
set -euo pipefail
cd "$(dirname "$0")/.."

node scripts/build_native.mjs --out=build/asan -DROOTS_SANITIZE=address,undefined
export ROOTS_ADDON=build/asan/Release/roots.node
[ -f "$ROOTS_ADDON" ] || ROOTS_ADDON=build/asan/roots.node
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=1,detect_stack_use_after_return=0 UBSAN_OPTIONS=halt_on_error=1,print_stacktrace=1 \
  LSAN_OPTIONS=suppressions=$PWD/test/sanitizers/lsan.supp,print_suppressions=0 \
  node --expose-gc node_modules/vitest/vitest.mjs run --pool=threads --maxWorkers=1 "$@"
