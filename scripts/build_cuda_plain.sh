#!/usr/bin/env bash
# The CUDA module with nvcc alone, for machines without CMake and Node: scripts/build_cuda_plain.sh OUT.so
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: scripts/build_cuda_plain.sh OUT.so}
nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$out")"
printf '%s\n' native/cuda/*.cu | xargs -P "$(nproc)" -I{} sh -c '"$1" -std=c++17 -O3 -Inative -Xcompiler=-fPIC -Xcompiler=-fvisibility=hidden \
  -gencode=arch=compute_80,code=[sm_80,compute_80] -gencode=arch=compute_90a,code=sm_90a -c "$2" -o "$3/$(basename "$2").o"' _ "$nvcc" {} "$work"
"$nvcc" -shared -cudart static -Xlinker --exclude-libs,ALL -Xlinker --version-script=native/cuda/exports.map \
  -Xcompiler -static-libstdc++ -Xcompiler -static-libgcc "$work"/*.o -o "$out"
echo "$out"
