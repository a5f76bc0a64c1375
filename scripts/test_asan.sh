#!/usr/bin/env bash
# The native tests under ASan, UBSan and TSan, then the suite in Node with an ASan + UBSan addon.
#   scripts/test_asan.sh [vitest filters]
set -euo pipefail
cd "$(dirname "$0")/.."

for kind in address,undefined thread; do
  out=build/native-${kind%%,*}
  cmake -S . -B "$out" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DROOTS_TESTS=ON -DROOTS_SANITIZE="$kind" >/dev/null
  cmake --build "$out" --target runtime_test -j2 >/dev/null
  # address space randomisation beyond what TSan can map is switched off for it
  if [ "$kind" = thread ] && setarch -R true 2>/dev/null; then setarch -R "$out/runtime_test"; else "$out/runtime_test"; fi
done

node scripts/build_native.mjs --out=build/asan -DROOTS_SANITIZE=address,undefined
export ROOTS_ADDON=build/asan/Release/roots.node
[ -f "$ROOTS_ADDON" ] || ROOTS_ADDON=build/asan/roots.node
export ROOTS_SLOW=1
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=1,detect_stack_use_after_return=0 UBSAN_OPTIONS=halt_on_error=1,print_stacktrace=1 \
  LSAN_OPTIONS=suppressions=$PWD/test/sanitizers/lsan.supp,print_suppressions=0 \
  node --expose-gc node_modules/vitest/vitest.mjs run --pool=threads --maxWorkers=1 "$@"
