// Which instruction sets this processor and operating system support, capped by ROOTS_ISA.
#pragma once

namespace roots {

// Ordered: a level includes the ones before it.
// amx: with VBMI2 and BF16, and the system's leave to use the tile registers.
enum class IsaLevel : int { baseline = 0, avx2 = 1, avx512 = 2, avx512_vnni = 3, amx = 4 };

// Beside the levels: AVX512_BF16 comes with VNNI on some processors and without it on others.
bool has_avx512_vbmi2();
bool has_avx512_bf16();

const char* isa_name(IsaLevel level);
// What the machine has, by cpuid and XGETBV.
IsaLevel detected_isa();
// detected_isa() lowered by the environment variable ROOTS_ISA (baseline, avx2, avx512_core, avx512, amx),
// and where the system refuses the tile registers. error receives a sentence when the variable names no
// level.
IsaLevel selected_isa(const char** error);

}  // namespace roots
