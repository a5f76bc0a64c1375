// Element types of a tensor, their sizes, and the 16-bit float conversions.
// The numbers are part of the contract with lib/tensor/dtype.ts (checked there by a test).
#pragma once

#include <stdint.h>

namespace roots {

enum class DType : int32_t { f32 = 0, f64, bf16, f16, i8, u8, i32, i64, boolean };
constexpr int32_t kNumDTypes = 9;

constexpr int64_t dtype_size(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    default: return 1;
  }
}

}  // namespace roots
