// mma.sync: one warp multiplies 16 rows by 8 columns over 32 bytes of K. TF32 (8 numbers), bfloat16 (16) and
// int8 (32) place their 32-bit words alike (PTX ISA, "Matrix fragments for mma.m16n8k8", "m16n8k16" and
// "m16n8k32"):
//   A word (row, w):   lane (row % 8) * 4 + w % 4, register row / 8 + 2 (w / 4)
//   B word (w, col):   lane col * 4 + w % 4,       register w / 4
//   D (row, col):      lane (row % 8) * 4 + col / 2, register 2 (row / 8) + col % 2
#pragma once

#include <string.h>

#include "cuda/number.cuh"

namespace roots {
namespace cuda {

struct Bf16Product {
  using Accumulator = float;
  static constexpr int kPerWord = 2;
  static constexpr bool kWholeWords = false;
#if defined(ROOTS_CUDA_EMULATED)
  static float dot(uint32_t a, uint32_t b) {
    return to_float(Bf16{static_cast<uint16_t>(a)}) * to_float(Bf16{static_cast<uint16_t>(b)}) +
           to_float(Bf16{static_cast<uint16_t>(a >> 16)}) * to_float(Bf16{static_cast<uint16_t>(b >> 16)});
  }
#endif
};

// float32 rounded to 10 bits of mantissa
struct Tf32Product {
  using Accumulator = float;
  static constexpr int kPerWord = 1;
  static constexpr bool kWholeWords = false;
#if defined(ROOTS_CUDA_EMULATED)
  static float dot(uint32_t a, uint32_t b) { return float_of(a) * float_of(b); }
  static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
  }
#endif
};

struct I8Product {
  using Accumulator = int32_t;
  static constexpr int kPerWord = 4;
  static constexpr bool kWholeWords = true;  // operands come as rows of whole 32-bit words
#if defined(ROOTS_CUDA_EMULATED)
  static int32_t dot(uint32_t a, uint32_t b) {
    int32_t sum = 0;
    for (int i = 0; i < 32; i += 8)
      sum += static_cast<int32_t>(static_cast<int8_t>(a >> i)) *
             static_cast<int32_t>(static_cast<int8_t>(b >> i));
    return sum;
  }
#endif
};

#if defined(ROOTS_CUDA_EMULATED)

template <class P>
inline void mma(typename P::Accumulator (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char* all = emulator::gather(mine, sizeof mine);
  const auto word = [&](int lane, int i) {
    uint32_t w;
    memcpy(&w, all + lane * 64 + i * 4, 4);
    return w;
  };
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int w = 0; w < 8; ++w)
      d[i] += P::dot(word(row % 8 * 4 + w % 4, row / 8 + w / 4 * 2), word(column * 4 + w % 4, 4 + w / 4));
  }
}

#else

template <class P>
ROOTS_DEVICE void mma(typename P::Accumulator (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
ROOTS_DEVICE void mma<Bf16Product>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
ROOTS_DEVICE void mma<Tf32Product>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
ROOTS_DEVICE void mma<I8Product>(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

}  // namespace cuda
}  // namespace roots
