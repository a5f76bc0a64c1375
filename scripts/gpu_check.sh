#!/usr/bin/env bash
# Everything that a machine with a GPU must say about the CUDA module, in one call under ten minutes:
#   scripts/gpu_check.sh OUT [PYTHON]
# OUT gets env.json (probe), results.jsonl (a line per check and per timing), the sanitizer's logs and table.txt. PYTHON needs torch with CUDA. The module is
# build/Release/roots_cuda.so, built here with nvcc when it is missing or does not load. Each stage is a process of its own with a time limit,
# so an error that poisons the device ends that stage alone. Without a GPU: ROOTS_CUDA_MODULE names the emulated module, and sizes shrink;
# it is slow, so ROOTS_CHECK_SECONDS gives the two long stages more time.
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
# run NAME SECONDS COMMAND...: a stage; 1 when it failed
run() {
  timeout -k 5 "$2" "${@:3}"
  local code=$?
  [ $code -eq 0 ] && return 0
  failed=1
  echo "{\"stage\": \"$1\", \"ok\": false, \"exit\": $code}" >>"$out/results.jsonl"
  echo "stage $1: exit $code"
  return 1
}
check() { run "$1" "$2" "$python" scripts/gpu_check.py "$1" "$module" "$out"; }
# memory, barriers and races of the smallest shapes; absent or refused in some sandboxes, which a row says
sanitizer() {
  local tool=${COMPUTE_SANITIZER:-compute-sanitizer}
  if ! command -v "$tool" >/dev/null || ! timeout 20 "$tool" true >/dev/null 2>&1; then
    echo '{"stage": "sanitizer", "skipped": "no compute-sanitizer that runs"}' >>"$out/results.jsonl"
    echo 'sanitizer skipped: no compute-sanitizer that runs'
    return
  fi
  for kind in memcheck synccheck racecheck; do
    run "sanitizer $kind" 25 "$tool" --tool "$kind" --error-exitcode 9 --log-file "$out/$kind.txt" \
      "$python" scripts/gpu_check.py ladder "$module" "$out"
  done
}
sweep() {
  for wanted in 0 1; do ROOTS_CUDA_HOPPER=$wanted run sweep 20 "$python" scripts/gpu_check.py sweep "$module" "$out"; done
}
if check probe 40; then
  check ladder 25
  check correctness "${ROOTS_CHECK_SECONDS:-140}"
  check graphs 25
  check hopper "${ROOTS_CHECK_SECONDS:-80}"
  [ -n "${ROOTS_CUDA_MODULE:-}" ] || sanitizer
  check bench 150
  sweep
fi
"$python" scripts/gpu_check.py table "$module" "$out" | tee "$out/table.txt"
exit $failed
