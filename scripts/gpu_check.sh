#!/usr/bin/env bash
# Everything that a machine with a GPU must say about the CUDA module, in one call under ten minutes:
#   scripts/gpu_check.sh OUT [PYTHON]
# OUT gets env.json (probe), results.jsonl (a line per check and per timing) and table.txt. PYTHON needs torch with CUDA. The module is
# build/Release/roots_cuda.so, built here with nvcc when it is missing or does not load. Each stage is a process of its own with a time limit,
# so an error that poisons the device ends that stage alone. Without a GPU: ROOTS_CUDA_MODULE names the emulated module, and sizes shrink.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/gpu_check.sh OUT [PYTHON]}
python=${2:-python3}
mkdir -p "$out"
module=${ROOTS_CUDA_MODULE:-build/Release/roots_cuda.so}
if [ ! -f "$module" ] || ! "$python" -c "import ctypes; ctypes.CDLL('$module')" 2>/dev/null; then
  node scripts/build_cuda.mjs 2>/dev/null || scripts/build_cuda_plain.sh "$module" || exit 1
fi
: >"$out/results.jsonl"
failed=0
for stage in probe:50 correctness:170 graphs:30 hopper:100 bench:220; do
  limit=${stage#*:}
  stage=${stage%:*}
  timeout -k 5 "$limit" "$python" scripts/gpu_check.py "$stage" "$module" "$out"
  code=$?
  if [ $code -ne 0 ]; then
    failed=1
    echo "{\"stage\": \"$stage\", \"ok\": false, \"exit\": $code}" >>"$out/results.jsonl"
    echo "stage $stage: exit $code"
    [ "$stage" = probe ] && break
  fi
done
"$python" scripts/gpu_check.py table "$module" "$out" | tee "$out/table.txt"
exit $failed
