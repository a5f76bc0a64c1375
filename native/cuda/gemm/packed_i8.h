// Packed int8 weights on a GPU: plain rows, padded with zeros to whole 32-bit words, in a buffer of the size
// that every device uses (native/cpu/gemm/i8.h: panels of 32 outputs, quads of 4 inputs, one int32 per
// output).
#pragma once

#include <stdint.h>

namespace roots {
namespace cuda {

struct PackedI8 {
  int64_t row_bytes, total_bytes;
  constexpr PackedI8(int64_t outputs, int64_t inputs)
      : row_bytes((inputs + 3) / 4 * 4), total_bytes((outputs + 31) / 32 * 32 * (row_bytes + 4)) {}
};

}  // namespace cuda
}  // namespace roots
