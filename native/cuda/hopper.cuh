// What Hopper (compute capability 9.0) adds for products: barriers in shared memory that count bytes, boxes
// of a matrix copied by the tensor memory accelerator (TMA), and products of a whole warp group (wgmma) that
// read their operands from shared memory. One function per instruction (PTX ISA 8.x, "mbarrier",
// "cp.async.bulk.tensor", "wgmma"), and what each does when emulated on the CPU.
//
// Operands lie in shared memory in rows of 128 bytes, 16-byte chunks swizzled: the chunk's number is XORed
// with the row's number modulo 8. Tiles start at multiples of 1024 bytes.
#pragma once

#include "core/check.h"
#include "cuda/gemm/mma.cuh"
#include "cuda/launch.cuh"

#if defined(ROOTS_CUDA_EMULATED)
#include <vector>
#else
#include <cuda.h>
#include <cudaTypedefs.h>
#endif

namespace roots {
namespace cuda {
namespace hopper {

constexpr int kWarpGroup = 128;    // threads of one wgmma
constexpr int kSwizzledRow = 128;  // bytes
constexpr int kAlignment = 1024;   // of tiles

// A thread's part of the sums (64, 8 kBlocks) of a warp group's product; a block (64, 8) lies as the sums of
// mma.sync do (gemm/mma.cuh), 16 rows to a warp.
template <class P, int kBlocks>
using Sums = typename P::Accumulator[kBlocks][4];

// Where a byte of a tile lies: bits 4-6 of its address, XOR bits 7-9.
ROOTS_BOTH uint32_t swizzle(uint32_t address) { return address ^ (address >> 3 & 0x70); }

// Where an operand of a wgmma lies (PTX ISA, "Matrix descriptor"): the address, the distance of neighbouring
// 64-wide columns of boxes (of an operand that is contiguous along M or N) and of neighbouring groups of
// eight rows, each in units of 16 bytes; bit 62: rows of 128 bytes, swizzled.
ROOTS_BOTH uint64_t descriptor(uint32_t address, uint32_t box_stride, uint32_t group_stride) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(box_stride >> 4) << 16 |
         static_cast<uint64_t>(group_stride >> 4) << 32 | uint64_t{1} << 62;
}

// Where sum [block][i] of thread t belongs.
ROOTS_BOTH int sum_row(int t, int i) { return t / 32 * 16 + t % 32 / 4 + i / 2 * 8; }
ROOTS_BOTH int sum_column(int t, int block, int i) { return block * 8 + t % 4 * 2 + i % 2; }

// A ring of `stages` places, each with two barriers: where tile i passes, and the parity of the phase to wait
// for. Of `full`: the one in which the tile arrives; of `empty`: the one in which the tile before it in the
// same place was read. The first round finds all places empty: the phase before the first counts as ended.
ROOTS_BOTH int place_of(int i, int stages) { return i % stages; }
ROOTS_BOTH uint32_t full_phase(int i, int stages) { return i / stages & 1; }
ROOTS_BOTH uint32_t empty_phase(int i, int stages) { return (i / stages & 1) ^ 1; }

// Whether the GPU has all this, and ROOTS_CUDA_HOPPER=1 asks for it: it has not run on a GPU yet.
bool wanted();

#if defined(ROOTS_CUDA_EMULATED)

struct TensorMap {
  const unsigned char* base;
  int64_t inner, rows, pitch, head_pitch, batch_pitch;  // elements, rows, bytes
  int32_t bytes, box_rows;                              // of an element, of a box
};

inline Status make_map(TensorMap* map, const void* base, int32_t bytes, int64_t inner, int64_t rows,
                       int64_t pitch, int32_t box_rows) {
  CHECK(reinterpret_cast<uintptr_t>(base) % 16 == 0 && pitch % 16 == 0 && box_rows <= 256,
        "a map TMA refuses");
  *map = {static_cast<const unsigned char*>(base), inner, rows, pitch, 0, 0, bytes, box_rows};
  return nullptr;
}
inline Status make_heads_map(TensorMap* map, const void* base, int64_t width, const int64_t (&counts)[3],
                             const int64_t (&pitches)[3], int32_t box_rows) {
  for (const int64_t pitch : pitches) CHECK(pitch > 0 && pitch % 16 == 0, "a map TMA refuses");
  CHECK(reinterpret_cast<uintptr_t>(base) % 16 == 0 && box_rows <= 256, "a map TMA refuses");
  *map = {static_cast<const unsigned char*>(base),
          width,
          counts[0],
          pitches[0],
          pitches[1],
          pitches[2],
          2,
          box_rows};
  return nullptr;
}

// Copies and products run as late as the program allows: a copy when somebody waits for a barrier in vain, a
// product when its group is waited for. Who reads or overwrites too early gets wrong numbers.
struct Barrier {
  int16_t expected, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
};
static_assert(sizeof(Barrier) == 8, "as on the device");

struct Copy {
  TensorMap map;
  Barrier* barrier;
  unsigned char* to;
  int32_t x, y, head, batch;
  const void* bytes;  // not null: `count` of them as they are
  int32_t count;
};
template <class P>
struct Product {
  typename P::Accumulator* sums;
  int blocks;
  uint64_t a, b;
  bool along_m, along_n, accumulate;
  std::vector<uint32_t> left = {};  // the warp's left operand, where it came in registers: four words a lane
};
inline std::vector<Copy>& pending_copies() {
  static std::vector<Copy> all;
  return all;
}
template <class P>
struct Products {
  std::vector<Product<P>> open;
  std::vector<std::vector<Product<P>>> groups;
};
template <class P>
inline Products<P>& this_thread() {
  static Products<P> threads[1024];
  return threads[threadIdx.x];
}

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emulator::dynamic_shared());
}
inline void complete_phase(Barrier* b) {
  if (b->pending == 0 && b->bytes == 0) {
    b->phase ^= 1;
    b->pending = b->expected;
  }
}
inline void barrier_init(Barrier* b, int count) {
  b->expected = b->pending = static_cast<int16_t>(count);
  b->bytes = 0;
  b->phase = 0;
}
inline void barrier_fence() {}
inline void barrier_arrive(Barrier* b) {
  if (b->pending <= 0) emulator::fail("more arrivals than a barrier expects");
  --b->pending;
  complete_phase(b);
}
inline void barrier_arrive_expect(Barrier* b, int bytes) {
  b->bytes += bytes;
  barrier_arrive(b);
}
inline void copy_box(const Copy& c) {
  if (c.bytes) {
    memcpy(c.to, c.bytes, static_cast<size_t>(c.count));
    c.barrier->bytes -= c.count;
    complete_phase(c.barrier);
    return;
  }
  const TensorMap& m = c.map;
  const uint32_t base = shared_address(c.to);
  for (int32_t r = 0; r < m.box_rows; ++r)
    for (int32_t i = 0; i < kSwizzledRow; ++i) {
      const bool inside = c.y + r < m.rows && c.x + i / m.bytes < m.inner;
      emulator::dynamic_shared()[swizzle(base + static_cast<uint32_t>(r * kSwizzledRow + i))] =
          inside ? m.base[c.batch * m.batch_pitch + c.head * m.head_pitch + (c.y + r) * m.pitch +
                          c.x * m.bytes + i]
                 : 0;
    }
  c.barrier->bytes -= m.box_rows * kSwizzledRow;
  complete_phase(c.barrier);
}
inline void barrier_wait(Barrier* b, uint32_t phase) {
  while (b->phase == phase) {
    auto& copies = pending_copies();
    if (!copies.empty()) {
      const Copy first = copies.front();
      copies.erase(copies.begin());
      copy_box(first);
    }
    emulator::yield();
  }
}
inline void copy_async(const TensorMap* map, Barrier* barrier, void* to, int32_t x, int32_t y,
                       int32_t head = 0, int32_t batch = 0) {
  if (shared_address(to) % kAlignment != 0) emulator::fail("a box that is not aligned");
  pending_copies().push_back({*map, barrier, static_cast<unsigned char*>(to), x, y, head, batch, nullptr, 0});
}
inline void copy_head(const TensorMap* map, Barrier* barrier, void* to, int32_t x, int32_t y, int32_t head,
                      int32_t batch) {
  copy_async(map, barrier, to, x, y, head, batch);
}
inline void copy_bytes(Barrier* barrier, void* to, const void* from, int32_t count) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || shared_address(to) % 16 != 0 || count % 16 != 0)
    emulator::fail("bytes that are not aligned");
  pending_copies().push_back({{}, barrier, static_cast<unsigned char*>(to), 0, 0, 0, 0, from, count});
}
template <int kCount>
inline void more_registers() {}
template <int kCount>
inline void fewer_registers() {}

inline void products_begin() {}
template <class P, bool kAlongM, bool kAlongN, int kBlocks>
inline void multiply(typename P::Accumulator (&d)[kBlocks][4], uint64_t a, uint64_t b, bool accumulate) {
  this_thread<P>().open.push_back({&d[0][0], kBlocks, a, b, kAlongM, kAlongN, accumulate});
}
template <class P, bool kAlongN, int kBlocks>
inline void multiply_left(typename P::Accumulator (&d)[kBlocks][4], const uint32_t (&left)[4], uint64_t b,
                          bool accumulate) {
  const unsigned char* all = emulator::gather(left, sizeof left);
  std::vector<uint32_t> words(kWarp * 4);
  for (size_t lane = 0; lane < kWarp; ++lane) memcpy(&words[lane * 4], all + lane * 64, 16);
  this_thread<P>().open.push_back({&d[0][0], kBlocks, 0, b, false, kAlongN, accumulate, words});
}
template <class P>
inline void products_commit() {
  this_thread<P>().groups.push_back(this_thread<P>().open);
  this_thread<P>().open.clear();
}
// The word of P::kPerWord numbers from k on; of an operand along its rows, one number at a time.
template <class P>
inline uint32_t operand(uint64_t descriptor, bool along_rows, int row, int k) {
  const auto field = [&](int shift) { return static_cast<uint32_t>(descriptor >> shift & 0x3fff) << 4; };
  const auto at = [&](uint32_t offset) { return emulator::dynamic_shared() + swizzle(field(0) + offset); };
  const auto urow = static_cast<uint32_t>(row), uk = static_cast<uint32_t>(k);
  uint32_t word = 0;
  if (!along_rows) {
    memcpy(&word, at(urow / 8 * field(32) + urow % 8 * kSwizzledRow + uk * (4 / P::kPerWord)), 4);
    return word;
  }
  for (uint32_t e = 0; e < 2; ++e) {
    uint16_t value;
    memcpy(&value,
           at(urow / 64 * field(16) + (uk + e) / 8 * field(32) + (uk + e) % 8 * kSwizzledRow + urow % 64 * 2),
           2);
    word |= static_cast<uint32_t>(value) << 16 * e;
  }
  return word;
}
template <class P>
inline void run(const Product<P>& p) {
  const int t = static_cast<int>(threadIdx.x) % kWarpGroup;
  const auto left = [&](int row, int k) {
    if (p.left.empty()) return operand<P>(p.a, p.along_m, row, k);
    const int w = k / P::kPerWord;
    return p.left[static_cast<size_t>((row % 8 * 4 + w % 4) * 4 + row % 16 / 8 + w / 4 * 2)];
  };
  for (int block = 0; block < p.blocks; ++block)
    for (int i = 0; i < 4; ++i) {
      typename P::Accumulator& to = p.sums[block * 4 + i];
      typename P::Accumulator sum = p.accumulate ? to : 0;
      for (int k = 0; k < 8 * P::kPerWord; k += P::kPerWord)
        sum += P::dot(left(sum_row(t, i), k), operand<P>(p.b, p.along_n, sum_column(t, block, i), k));
      to = sum;
    }
}
// Until at most kLeft groups of products are unfinished.
template <class P, int kLeft>
inline void products_wait() {
  auto& groups = this_thread<P>().groups;
  while (groups.size() > kLeft) {
    for (const Product<P>& p : groups.front()) run(p);
    groups.erase(groups.begin());
  }
  __syncwarp();  // the instruction is one of the whole warp
}
template <class P, int kBlocks>
inline void products_done(typename P::Accumulator (&)[kBlocks][4]) {}

#else

using TensorMap = CUtensorMap;
struct Barrier {
  uint64_t bits;
};

// rows of `inner` elements of 1 or 2 bytes, `pitch` bytes apart; boxes of 128 bytes by box_rows.
Status make_map(TensorMap* map, const void* base, int32_t bytes, int64_t inner, int64_t rows, int64_t pitch,
                int32_t box_rows);

// Heads (batch, head, row, width) of bfloat16 elements: counts and pitches (bytes) of rows, heads and
// batches; boxes of 64 elements by box_rows of one head.
Status make_heads_map(TensorMap* map, const void* base, int64_t width, const int64_t (&counts)[3],
                      const int64_t (&pitches)[3], int32_t box_rows);

ROOTS_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
ROOTS_DEVICE void barrier_init(Barrier* b, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
// Makes initialised barriers visible to the copies; before a __syncthreads().
ROOTS_DEVICE void barrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
ROOTS_DEVICE void barrier_arrive(Barrier* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and adds to the bytes that must be copied before the phase ends.
ROOTS_DEVICE void barrier_arrive_expect(Barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
// Until the phase of this parity has ended.
ROOTS_DEVICE void barrier_wait(Barrier* b, uint32_t phase) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, "
        "done;\n}"
        : "=r"(done)
        : "r"(shared_address(b)), "r"(phase)
        : "memory");
}
// The box at element x of row y, zeros where it lies outside the matrix; the barrier counts all its bytes.
ROOTS_DEVICE void copy_async(const TensorMap* map, Barrier* barrier, void* to, int32_t x, int32_t y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}
// The same of a map of heads; rows beyond the head's last are zeros.
ROOTS_DEVICE void copy_head(const TensorMap* map, Barrier* barrier, void* to, int32_t x, int32_t y,
                            int32_t head, int32_t batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
      "%6}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(head), "r"(batch)
      : "memory");
}
// Bytes as they are; addresses and count are multiples of 16.
ROOTS_DEVICE void copy_bytes(Barrier* barrier, void* to, const void* from, int32_t count) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(count), "r"(shared_address(barrier))
      : "memory");
}
// A warp group takes registers that another gave up.
template <int kCount>
ROOTS_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
ROOTS_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
// Before the first product after other instructions touched the sums.
ROOTS_DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
template <class P>
ROOTS_DEVICE void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kLeft groups of products are unfinished; sums of finished ones are read after
// products_done().
template <class P, int kLeft>
ROOTS_DEVICE void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
template <class P, int kBlocks>
ROOTS_DEVICE void products_done(typename P::Accumulator (&d)[kBlocks][4]) {
#pragma unroll
  for (int i = 0; i < kBlocks * 4; ++i) {  // not read before the wait
    if constexpr (P::kPerWord == 2)
      asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
    else
      asm volatile("" : "+r"(d[i / 4][i % 4])::"memory");
  }
}
// Sums of a product as operands of assembly: their numbers, and the list of them with a constraint.
#define ROOTS_NUMBERS_32                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ROOTS_NUMBERS_64                                                               \
  ROOTS_NUMBERS_32                                                                     \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ROOTS_NUMBERS_128                                                                        \
  ROOTS_NUMBERS_64                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define ROOTS_BLOCK(c, n) c(d[n][0]), c(d[n][1]), c(d[n][2]), c(d[n][3])
#define ROOTS_4_BLOCKS(c, n) \
  ROOTS_BLOCK(c, n), ROOTS_BLOCK(c, n + 1), ROOTS_BLOCK(c, n + 2), ROOTS_BLOCK(c, n + 3)
#define ROOTS_8_BLOCKS(c, n) ROOTS_4_BLOCKS(c, n), ROOTS_4_BLOCKS(c, n + 4)
#define ROOTS_16_BLOCKS(c) ROOTS_8_BLOCKS(c, 0), ROOTS_8_BLOCKS(c, 8)
#define ROOTS_32_BLOCKS(c) ROOTS_16_BLOCKS(c), ROOTS_8_BLOCKS(c, 16), ROOTS_8_BLOCKS(c, 24)

// d (64, 8 kBlocks) = or += a (64, 32 bytes) b (32 bytes, 8 kBlocks), asynchronously. kAlongM: a is
// contiguous along M, not K; kAlongN: b along N; int8 only along K.
template <class P, bool kAlongM, bool kAlongN, int kBlocks>
ROOTS_DEVICE void multiply(typename P::Accumulator (&d)[kBlocks][4], uint64_t a, uint64_t b,
                           bool accumulate) {
  const int go = accumulate;
  if constexpr (P::kPerWord == 4) {
    static_assert(kBlocks == 32 && !kAlongM && !kAlongN, "no such product");
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" ROOTS_NUMBERS_128 "}, %128, %129, go;\n}"
        : ROOTS_32_BLOCKS("+r")
        : "l"(a), "l"(b), "r"(go));
  } else if constexpr (!P::kBf16) {
    static_assert(kBlocks == 32, "no such product");
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" ROOTS_NUMBERS_128
        "}, %128, %129, go, 1, 1, %131, %132;\n}"
        : ROOTS_32_BLOCKS("+f")
        : "l"(a), "l"(b), "r"(go), "n"(kAlongM ? 1 : 0), "n"(kAlongN ? 1 : 0));
  } else if constexpr (kBlocks == 32) {
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" ROOTS_NUMBERS_128
        "}, %128, %129, go, 1, 1, %131, %132;\n}"
        : ROOTS_32_BLOCKS("+f")
        : "l"(a), "l"(b), "r"(go), "n"(kAlongM ? 1 : 0), "n"(kAlongN ? 1 : 0));
  } else if constexpr (kBlocks == 8) {
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ROOTS_NUMBERS_32
        "}, %32, %33, go, 1, 1, %35, %36;\n}"
        : ROOTS_8_BLOCKS("+f", 0)
        : "l"(a), "l"(b), "r"(go), "n"(kAlongM ? 1 : 0), "n"(kAlongN ? 1 : 0));
  } else {
    static_assert(kBlocks == 16, "no such product");
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" ROOTS_NUMBERS_64
        "}, %64, %65, go, 1, 1, %67, %68;\n}"
        : ROOTS_16_BLOCKS("+f")
        : "l"(a), "l"(b), "r"(go), "n"(kAlongM ? 1 : 0), "n"(kAlongN ? 1 : 0));
  }
}
// The same with a (64, 16) in registers, as mma.sync takes it: 16 rows to a warp. bfloat16 alone.
template <class P, bool kAlongN, int kBlocks>
ROOTS_DEVICE void multiply_left(float (&d)[kBlocks][4], const uint32_t (&left)[4], uint64_t b,
                                bool accumulate) {
  const int go = accumulate;
  if constexpr (kBlocks == 16) {
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" ROOTS_NUMBERS_64
        "}, {%64, %65, %66, %67}, %68, go, 1, 1, %70;\n}"
        : ROOTS_16_BLOCKS("+f")
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(b), "r"(go), "n"(kAlongN ? 1 : 0));
  } else {
    static_assert(kBlocks == 8, "no such product");
    asm volatile(
        "{\n.reg .pred go;\nsetp.ne.b32 go, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ROOTS_NUMBERS_32
        "}, {%32, %33, %34, %35}, %36, go, 1, 1, %38;\n}"
        : ROOTS_8_BLOCKS("+f", 0)
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(b), "r"(go), "n"(kAlongN ? 1 : 0));
  }
}

#undef ROOTS_NUMBERS_32
#undef ROOTS_NUMBERS_64
#undef ROOTS_NUMBERS_128
#undef ROOTS_BLOCK
#undef ROOTS_4_BLOCKS
#undef ROOTS_8_BLOCKS
#undef ROOTS_16_BLOCKS
#undef ROOTS_32_BLOCKS

#endif

}  // namespace hopper
}  // namespace cuda
}  // namespace roots
