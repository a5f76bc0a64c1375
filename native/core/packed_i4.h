// Packed int4 weights (N, K) with a scale per output and group of inputs, the same bytes on every device:
// panels of 16 outputs; in a panel, for each two groups, a line of 64 bytes with their scales (16 float16 of
// the first group, 16 of the second) and then the groups' blocks of 32 inputs. A block is 4 pieces of 64
// bytes: byte 4 c + i of piece j holds, of output c, input 8 j + i in the low nibble and input 8 j + 4 + i in
// the high one, as value + 8. So neighbouring inputs of an output lie in one 32-bit lane, as dot-product
// instructions want them, the outputs in lanes beside each other, and a panel is one stream of whole lines.
// Outputs and inputs beyond N and K are zero.
#pragma once

#include <stdint.h>

#include "core/half.h"
#include "core/portable.h"

namespace roots {

struct PackedI4 {
  static constexpr int64_t kPanel = 16, kBlock = 32;
  static constexpr int64_t kBlockBytes = kPanel * kBlock / 2, kLineBytes = 64, kScaleBytes = kPanel * 2;

  int64_t panels, blocks, groups, group_blocks;

  // group: a multiple of kBlock
  ROOTS_PORTABLE PackedI4(int64_t outputs, int64_t inputs, int64_t group)
      : panels((outputs + kPanel - 1) / kPanel),
        blocks((inputs + kBlock - 1) / kBlock),
        groups((inputs + group - 1) / group),
        group_blocks(group / kBlock) {}

  ROOTS_PORTABLE int64_t panel_bytes() const { return (groups + 1) / 2 * kLineBytes + blocks * kBlockBytes; }
  ROOTS_PORTABLE int64_t total_bytes() const { return panels * panel_bytes(); }
  // the bytes of block `b` within its panel, and of the scales of group `g`
  ROOTS_PORTABLE int64_t block_at(int64_t b) const {
    return (b / group_blocks / 2 + 1) * kLineBytes + b * kBlockBytes;
  }
  ROOTS_PORTABLE int64_t scales_at(int64_t g) const {
    return g / 2 * (kLineBytes + 2 * group_blocks * kBlockBytes) + g % 2 * kScaleBytes;
  }
  // where the scale of output n and group g is, and the byte of input k, whose nibble is high(k)
  ROOTS_PORTABLE int64_t scale_at(int64_t n, int64_t g) const {
    return n / kPanel * panel_bytes() + scales_at(g) + n % kPanel * 2;
  }
  ROOTS_PORTABLE int64_t byte_at(int64_t n, int64_t k) const {
    return n / kPanel * panel_bytes() + block_at(k / kBlock) + k % kBlock / 8 * 64 + n % kPanel * 4 + k % 4;
  }
  static ROOTS_PORTABLE bool high(int64_t k) { return k % 8 >= 4; }
  // the value of input k of the block whose bytes of one output begin at `block`
  static ROOTS_PORTABLE int nibble(const uint8_t* block, int64_t k) {
    const int byte = block[k / 8 * 64 + k % 4];
    return (high(k) ? byte >> 4 : byte & 15) - 8;
  }
  // the value of input k of output n
  ROOTS_PORTABLE int value(const uint8_t* packed, int64_t n, int64_t k) const {
    return nibble(packed + byte_at(n, k / kBlock * kBlock), k % kBlock);
  }
  ROOTS_PORTABLE float scale(const uint8_t* packed, int64_t n, int64_t g) const {
    uint16_t bits;
    __builtin_memcpy(&bits, packed + scale_at(n, g), 2);
    return f16_to_f32(bits);
  }
};

// The scale of a group that is quantized: rounded to what is kept of it, and not zero.
ROOTS_PORTABLE float i4_scale(float scale) {
  const float rounded = f16_to_f32(f32_to_f16(scale));
  return rounded > 0 ? rounded : 5.9604644775390625e-8f;  // the least float16
}

}  // namespace roots
