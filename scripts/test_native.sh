#!/usr/bin/env bash
# The native tests under ASan and under TSan.
set -euo pipefail
cd "$(dirname "$0")/.."
for kind in address thread; do
  out=build/native-$kind
  cmake -S . -B "$out" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DROOTS_TESTS=ON -DROOTS_BASELINE_ONLY=ON \
    -DROOTS_SANITIZE="$kind" >/dev/null
  cmake --build "$out" --target runtime_test -j2 >/dev/null
  # TSan cannot map its shadow with full address space randomisation
  setarch -R "$out/runtime_test"
done
