// A stable sort of small integers, with where each came from: bytes from the lowest up (radix sort, Knuth,
// "The Art of Computer Programming" 5.2.5). A block owns 1024 numbers and each of its 256 threads one value
// of the byte: it counts, and later places, the numbers that have it, in their order. No atomics: the same
// bits on every run.
#pragma once

#include "cuda/launch.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kDigits = 256, kChunk = 1024;

// Numbers and where they came from. Before the first pass number i comes from i.
struct Sortable {
  int32_t *number, *from;
};

// `table` [digit][chunk]: how many numbers of the chunk have the digit.
__global__ void __launch_bounds__(kDigits)
    count_digits_kernel(const int32_t* numbers, int64_t count, int shift, int32_t* table) {
  __shared__ uint8_t digits[kChunk];
  const int own = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk;
  const int here = static_cast<int>(count - first < kChunk ? count - first : kChunk);
  for (int i = own; i < here; i += kDigits) digits[i] = static_cast<uint8_t>(numbers[first + i] >> shift);
  __syncthreads();
  int32_t found = 0;
  for (int i = 0; i < here; ++i) found += digits[i] == own;
  table[static_cast<int64_t>(own) * gridDim.x + blockIdx.x] = found;
}

// Each element becomes the sum of those before it; one block.
__global__ void __launch_bounds__(kChunk) sums_before_kernel(int32_t* table, int64_t count) {
  __shared__ int32_t sums[kChunk];
  const int t = static_cast<int>(threadIdx.x);
  const int64_t per = (count + kChunk - 1) / kChunk, first = t * per,
                last = first + per < count ? first + per : count;
  int32_t sum = 0;
  for (int64_t i = first; i < last; ++i) sum += table[i];
  sums[t] = sum;
  __syncthreads();
  for (int step = 1; step < kChunk; step *= 2) {
    const int32_t before = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += before;
    __syncthreads();
  }
  int32_t next = sums[t] - sum;
  for (int64_t i = first; i < last; ++i) {
    const int32_t here = table[i];
    table[i] = next;
    next += here;
  }
}

__global__ void __launch_bounds__(kDigits)
    place_kernel(Sortable in, bool first_pass, int64_t count, int shift, const int32_t* table, Sortable out) {
  __shared__ int32_t numbers[kChunk], from[kChunk];
  const int own = static_cast<int>(threadIdx.x);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk;
  const int here = static_cast<int>(count - first < kChunk ? count - first : kChunk);
  for (int i = own; i < here; i += kDigits) {
    numbers[i] = in.number[first + i];
    from[i] = first_pass ? static_cast<int32_t>(first) + i : in.from[first + i];
  }
  __syncthreads();
  int64_t to = table[static_cast<int64_t>(own) * gridDim.x + blockIdx.x];
  for (int i = 0; i < here; ++i)
    if ((numbers[i] >> shift & (kDigits - 1)) == own) {
      out.number[to] = numbers[i];
      out.from[to++] = from[i];
    }
}

// Ints of workspace for sorting `count` numbers; the caller writes them to the first `count`.
inline size_t sort_ints(int64_t count) {
  return static_cast<size_t>(4 * count + kDigits * ceil_div(count, kChunk));
}
// Sorts numbers from 0 to `limit`, fewer than 2^31; the result lies in `space`.
inline Status sort(int32_t* space, int64_t count, int64_t limit, Sortable* sorted) {
  Sortable now{space, space + count}, next{space + 2 * count, space + 3 * count};
  int32_t* const table = space + 4 * count;
  const int64_t chunks = ceil_div(count, kChunk);
  const dim3 grid(static_cast<unsigned>(chunks));
  int shift = 0;
  do {
    if (const Status status = launch(count_digits_kernel, grid, kDigits, 0,
                                     static_cast<const int32_t*>(now.number), count, shift, table))
      return status;
    if (const Status status = launch(sums_before_kernel, dim3(1), kChunk, 0, table, kDigits * chunks))
      return status;
    if (const Status status = launch(place_kernel, grid, kDigits, 0, now, shift == 0, count, shift,
                                     static_cast<const int32_t*>(table), next))
      return status;
    const Sortable done = next;
    next = now;
    now = done;
    shift += 8;
  } while (shift < 32 && limit >> shift > 0);
  *sorted = now;
  return nullptr;
}

}  // namespace
}  // namespace cuda
}  // namespace roots
