#include "cpu/features.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace roots {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512_core", "avx512_vnni", "amx"};

#if defined(__x86_64__)
uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}
#endif

// Linux gives the 8 KiB of tile registers to processes that ask, once for all their threads
// (Documentation/arch/x86/xstate.rst).
bool tiles_allowed() {
#if defined(ROOTS_AVX512_EMULATED)
  return true;
#elif defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

const char* isa_name(IsaLevel level) { return kNames[static_cast<int>(level)]; }

IsaLevel detected_isa() {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return IsaLevel::baseline;
  const bool osxsave = c & (1u << 27), avx = c & (1u << 28), fma = c & (1u << 12), f16c = c & (1u << 29);
  if (!osxsave || !avx || !fma || !f16c) return IsaLevel::baseline;
  const uint64_t states = enabled_states();
  if ((states & 0x6) != 0x6) return IsaLevel::baseline;  // XMM and YMM saved by the system
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return IsaLevel::baseline;
  const bool avx2 = b & (1u << 5), bmi2 = b & (1u << 8);
  if (!avx2 || !bmi2) return IsaLevel::baseline;
  const bool f = b & (1u << 16), dq = b & (1u << 17), bw = b & (1u << 30), vl = b & (1u << 31);
#if defined(ROOTS_AVX512_EMULATED)
  return IsaLevel::amx;
#endif
  if (!f || !dq || !bw || !vl || (states & 0xe0) != 0xe0) return IsaLevel::avx2;  // opmask and ZMM saved
  if (!(c & (1u << 11))) return IsaLevel::avx512;
  const bool tiles = d & (1u << 24), bf16 = d & (1u << 22), int8 = d & (1u << 25);
  const bool amx = tiles && bf16 && int8 && (states & 0x60000) == 0x60000;  // their configuration and data
  return amx && has_avx512_vbmi2() && has_avx512_bf16() ? IsaLevel::amx : IsaLevel::avx512_vnni;
#else
  return IsaLevel::baseline;
#endif
}

bool has_avx512_vbmi2() {
#if defined(ROOTS_AVX512_EMULATED)
  return true;
#elif defined(__x86_64__)
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 6));
#else
  return false;
#endif
}

bool has_avx512_bf16() {
#if defined(ROOTS_AVX512_EMULATED)
  return true;
#elif defined(__x86_64__)
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
#else
  return false;
#endif
}

IsaLevel selected_isa(const char** error) {
  const auto allowed = [](IsaLevel level) {
    return level == IsaLevel::amx && !tiles_allowed() ? IsaLevel::avx512_vnni : level;
  };
  const IsaLevel level = detected_isa();
  *error = nullptr;
  const char* wanted = getenv("ROOTS_ISA");
  if (!wanted || !*wanted) return allowed(level);
  struct Cap {
    const char* name;
    IsaLevel level;
  };
  // "avx512" is everything of that family; "avx512_core" leaves VNNI out, so that tests reach that level too
  const Cap caps[] = {{"baseline", IsaLevel::baseline},
                      {"sse2", IsaLevel::baseline},
                      {"avx2", IsaLevel::avx2},
                      {"avx512_core", IsaLevel::avx512},
                      {"avx512", IsaLevel::avx512_vnni},
                      {"avx512_vnni", IsaLevel::avx512_vnni},
                      {"amx", IsaLevel::amx}};
  for (const Cap& cap : caps)
    if (strcmp(wanted, cap.name) == 0) return allowed(cap.level < level ? cap.level : level);
  *error = "ROOTS_ISA must be baseline, avx2, avx512_core, avx512 or amx";
  return allowed(level);
}

}  // namespace roots
