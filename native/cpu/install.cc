// Fills a kernel table with this instruction set's kernels. Levels that improve only some products
// override those alone.
#include "cpu/declare.h"

#define ROOTS_JOIN_(a, b) a##b
#define ROOTS_JOIN(a, b) ROOTS_JOIN_(a, b)

namespace roots {

#pragma GCC visibility push(hidden)
void ROOTS_JOIN(install_, ROOTS_ISA)(KernelTable* table);
#if defined(__AMX_BF16__)
namespace avx512 {
decltype(ROOTS_ISA::attention_bf16_forward) attention_bf16_forward;
}
// vdpbf16ps has half the rate on these processors: no faster than float32 products, which need no pairs
namespace attention_of_level = avx512;
#else
namespace attention_of_level = ROOTS_ISA;
#endif
#pragma GCC visibility pop

void ROOTS_JOIN(install_, ROOTS_ISA)(KernelTable* table) {
#if defined(ROOTS_I8_LEVEL) || defined(ROOTS_24_LEVEL) || defined(ROOTS_BF16_LEVEL)
#if defined(ROOTS_I8_LEVEL)
  table->matmul_i8 = ROOTS_ISA::matmul_i8;
  table->linear_w8a8 = ROOTS_ISA::linear_w8a8;
  table->linear_w4a16 = ROOTS_ISA::linear_w4a16;
  table->probe_fma = ROOTS_ISA::probe_fma;
#endif
#if defined(ROOTS_I8_LEVEL) || defined(ROOTS_24_LEVEL)
  table->linear_w8a8_24 = ROOTS_ISA::linear_w8a8_24;
#endif
#if defined(ROOTS_BF16_LEVEL)
  table->matmul_bf16 = ROOTS_ISA::matmul_bf16;
  table->linear_bf16 = ROOTS_ISA::linear_bf16;
  table->linear_packed = ROOTS_ISA::linear_packed;
  table->probe_fma = ROOTS_ISA::probe_fma;
  table->attention_bf16_forward = attention_of_level::attention_bf16_forward;
#endif
#else
#define KERNEL(name, ...) table->name = ROOTS_ISA::name;
#include "kernels.def"
#undef KERNEL
#endif
}

}  // namespace roots
