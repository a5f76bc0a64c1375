#include "cpu/features.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace roots {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512_core", "avx512_vnni"};

#if defined(__x86_64__)
uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}
#endif

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
  return IsaLevel::avx512_vnni;
#endif
  if (!f || !dq || !bw || !vl || (states & 0xe0) != 0xe0) return IsaLevel::avx2;  // opmask and ZMM saved
  return c & (1u << 11) ? IsaLevel::avx512_vnni : IsaLevel::avx512;
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
  IsaLevel level = detected_isa();
  *error = nullptr;
  const char* wanted = getenv("ROOTS_ISA");
  if (!wanted || !*wanted) return level;
  struct Cap {
    const char* name;
    IsaLevel level;
  };
  // "avx512" is everything of that family; "avx512_core" leaves VNNI out, so that tests reach that level too
  const Cap caps[] = {{"baseline", IsaLevel::baseline},  {"sse2", IsaLevel::baseline},
                      {"avx2", IsaLevel::avx2},          {"avx512_core", IsaLevel::avx512},
                      {"avx512", IsaLevel::avx512_vnni}, {"avx512_vnni", IsaLevel::avx512_vnni}};
  for (const Cap& cap : caps)
    if (strcmp(wanted, cap.name) == 0) return cap.level < level ? cap.level : level;
  *error = "ROOTS_ISA must be baseline, avx2, avx512_core or avx512";
  return level;
}

}  // namespace roots
