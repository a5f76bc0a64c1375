#!/usr/bin/env bash
# Runs every fuzz target for some seconds (default 60), all of them side by side. A finding ends with exit code 1 and its
# input is kept.
#   scripts/fuzz.sh [seconds]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
clang=$(command -v clang++-19 || command -v clang++)
cmake -S . -B build/fuzz -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DROOTS_FUZZ=ON >/dev/null
targets=()
for source in native/test/fuzz_*.cc; do targets+=("$(basename "$source" .cc)"); done
cmake --build build/fuzz --target "${targets[@]}" -j2 >/dev/null
mkdir -p build/findings
jobs=()
for target in "${targets[@]}"; do
  mkdir -p "build/corpus/$target"
  "build/fuzz/$target" -max_total_time="$seconds" -max_len=4096 -dict=native/test/json.dict -artifact_prefix=build/findings/ \
    -print_final_stats=1 "build/corpus/$target" "native/test/corpus/$target" >"build/fuzz/$target.log" 2>&1 &
  jobs+=($!)
done
failed=0
for i in "${!targets[@]}"; do
  wait "${jobs[$i]}" || failed=1
  echo "${targets[$i]}: $seconds s"
  grep -E 'stat::number_of_executed_units|ERROR|SUMMARY|crash' "build/fuzz/${targets[$i]}.log" || true
done
[ "$failed" = 0 ] && [ -z "$(ls build/findings)" ] || { echo "findings in build/findings"; exit 1; }
