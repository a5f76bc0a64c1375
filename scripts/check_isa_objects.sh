#!/usr/bin/env bash
# Kernel objects are compiled once per instruction set. A weak symbol in one of them could be kept by the linker for
# everybody, and crash older processors; a reference to libstdc++ or libm would raise the glibc floor.
#   scripts/check_isa_objects.sh [build folder]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/cmake}
bad=0 seen=0
while IFS= read -r object; do
  seen=$((seen + 1))
  weak=$(nm -C "$object" | grep -E ' [WVu] ' | grep -v '__gxx_personality' || true)
  if [ -n "$weak" ]; then
    echo "weak symbols in $object:"
    echo "$weak" | head -5
    bad=1
  fi
  # The compiler's own helpers and the four memory functions of C are all that a kernel may call.
  extern=$(nm -u "$object" | awk '{print $2}' |
    grep -vE '^(memcpy|memmove|memset|memcmp|__memcpy_chk|__memset_chk|__memmove_chk|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_|_ZN5roots)' || true)
  if [ -n "$extern" ]; then
    echo "undefined symbols in $object:"
    echo "$extern" | head -5
    bad=1
  fi
done < <(find "$build" -path '*roots_baseline.dir*' -name '*.o' -o -path '*roots_avx*.dir*' -name '*.o' -o -path '*roots_amx.dir*' -name '*.o')
[ "$seen" -gt 0 ] || { echo "no kernel objects under $build"; exit 1; }
[ "$bad" -eq 0 ] && echo "check_isa_objects: $seen objects, no weak symbols, no library references"
exit "$bad"
