// mma.sync: one warp multiplies 16 rows by 8 columns over 32 bytes of K. TF32 (8 numbers), 16-bit floats (16)
// and int8 (32) place their 32-bit words alike (PTX ISA, "Matrix fragments for mma.m16n8k8", "m16n8k16" and
// "m16n8k32"):
//   A word (row, w):   lane (row % 8) * 4 + w % 4, register row / 8 + 2 (w / 4)
//   B word (w, col):   lane col * 4 + w % 4,       register w / 4
//   D (row, col):      lane (row % 8) * 4 + col / 2, register 2 (row / 8) + col % 2
// And what brings operands of 16 bits there: copies of 16 bytes from global into shared memory that a thread
// does not wait for (cp.async), and loads of four 8 x 8 matrices by a whole warp (ldmatrix).
#pragma once

#include <string.h>

#include <type_traits>

#include "cuda/number.cuh"

#if defined(ROOTS_CUDA_EMULATED)
#include <vector>
#endif

namespace roots {
namespace cuda {

// of 16-bit floats, float32 sums
template <class Half>
struct HalfProduct {
  using Stored = Half;
  using Accumulator = float;
  static constexpr int kPerWord = 2;
  static constexpr bool kWholeWords = false;
  static constexpr bool kBf16 = std::is_same_v<Half, Bf16>;
  static ROOTS_DEVICE uint32_t pair(float low, float high) {
    return kBf16 ? bf16_pair(low, high) : f16_pair(low, high);
  }
#if defined(ROOTS_CUDA_EMULATED)
  static float dot(uint32_t a, uint32_t b) {
    return to_float(Half{static_cast<uint16_t>(a)}) * to_float(Half{static_cast<uint16_t>(b)}) +
           to_float(Half{static_cast<uint16_t>(a >> 16)}) * to_float(Half{static_cast<uint16_t>(b >> 16)});
  }
#endif
};
using Bf16Product = HalfProduct<Bf16>;
using F16Product = HalfProduct<F16>;

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

// Copies run as late as the program allows: when they are waited for.
struct ThreadCopies {
  struct Copy {
    void* to;
    const void* from;
  };
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};
inline ThreadCopies& thread_copies() {
  static ThreadCopies threads[1024];
  return threads[threadIdx.x];
}
inline void copy_16(void* to, const void* from, bool valid) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0))
    emulator::fail("a copy of 16 bytes that is not aligned");
  thread_copies().open.push_back({to, valid ? from : nullptr});
}
inline void copies_commit() {
  thread_copies().groups.push_back(thread_copies().open);
  thread_copies().open.clear();
}
template <int kLeft>
inline void copies_wait() {
  auto& groups = thread_copies().groups;
  while (groups.size() > kLeft) {
    for (const auto& c : groups.front()) {
      if (c.from)
        memcpy(c.to, c.from, 16);
      else
        memset(c.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}
inline void load_matrices(uint32_t (&words)[4], const void* row) {
  const unsigned char* all = emulator::gather(&row, sizeof row);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const void* from;
    memcpy(&from, all + (i * 8 + lane / 4) * 64, sizeof from);
    memcpy(&words[i], static_cast<const unsigned char*>(from) + lane % 4 * 4, 4);
  }
}
inline void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  const unsigned char* all = emulator::gather(&row, sizeof row);
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    words[i] = 0;
    for (int e = 0; e < 2; ++e) {
      const void* from;
      memcpy(&from, all + (i * 8 + lane % 4 * 2 + e) * 64, sizeof from);
      uint16_t value;
      memcpy(&value, static_cast<const unsigned char*>(from) + lane / 4 * 2, 2);
      words[i] |= static_cast<uint32_t>(value) << 16 * e;
    }
  }
}

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

// 16 bytes from global to shared memory, both aligned; zeros when not valid (`from` is then not read).
ROOTS_DEVICE void copy_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
ROOTS_DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kLeft groups of this thread's copies are unfinished; other threads see them after a barrier.
template <int kLeft>
ROOTS_DEVICE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
// Four 8 x 8 matrices: lane 8 i + r points to row r of matrix i. words[i]: elements (row, 2 c) and
// (row, 2 c + 1) of matrix i, for row = lane / 4 and c = lane % 4; transposed: (2 c, column) and (2 c + 1,
// column) for column = lane / 4.
ROOTS_DEVICE void load_matrices(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
ROOTS_DEVICE void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

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
ROOTS_DEVICE void mma<F16Product>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
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
