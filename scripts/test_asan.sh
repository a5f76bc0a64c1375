#!/usr/bin/env bash
# The suite in Node with an ASan + UBSan addon.
#   scripts/test_asan.sh [vitest options]
# ROOTS_CMAKE_DEFS=-DROOTS_AVX512_EMULATED=ON adds the AVX-512 kernels where the processor has none, several times as slow.
set -euo pipefail
cd "$(dirname "$0")/.."

# what this processor cannot run need not be compiled
levels=ON
grep -qw avx512vl /proc/cpuinfo || levels=OFF
node scripts/build_native.mjs --out=build/asan -DROOTS_SANITIZE=address,undefined -DROOTS_AVX512=$levels
export ROOTS_ADDON=build/asan/Release/roots.node
[ -f "$ROOTS_ADDON" ] || ROOTS_ADDON=build/asan/roots.node
preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=1,detect_stack_use_after_return=0 UBSAN_OPTIONS=halt_on_error=1,print_stacktrace=1
export LSAN_OPTIONS=suppressions=$PWD/test/sanitizers/lsan.supp,print_suppressions=0
# Two parts of about the same time side by side, each in a process of its own whose exit looks for leaks; workers that
# vitest ends would not.
part() {
  LD_PRELOAD=$preload node --expose-gc node_modules/vitest/vitest.mjs run --pool=threads --maxWorkers=1 "$@"
}
part test/train test/models test/io "$@" >build/asan/part.log 2>&1 &
other=$!
first=0 second=0
part --exclude 'test/{train,models,io}/**' "$@" || first=$?
wait "$other" || second=$?
cat build/asan/part.log
exit $((first | second))
