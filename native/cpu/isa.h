// Where a kernel file's code lives: roots::<isa>, so that the same file can be compiled once per instruction
// set. ROOTS_ISA comes from the build (baseline, avx2, avx512, avx512_vnni, avx512_vbmi2, avx512_bf16,
// amx).
#pragma once

#ifndef ROOTS_ISA
#error "compile kernel files with -DROOTS_ISA=<level> (see CMakeLists.txt)"
#endif

#define ROOTS_INLINE inline __attribute__((always_inline))
// After the parameters of a lambda: it is inlined before the compiler decides which arrays live in registers;
// later, arrays that it captures stay in memory, and every change to them is a store.
#define ROOTS_INLINED __attribute__((always_inline))
