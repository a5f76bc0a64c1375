// Walking several views of one shape at once.
#pragma once

#include "core/shape.h"
#include "cpu/isa.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

// About 30-60 us of memory-bound work; smaller pieces would be lost in the cost of waking a thread.
constexpr int64_t kChunkElements = 32768;

// N views of one shape, size-1 axes dropped and neighbouring axes merged where every view allows it, then cut
// into segments of the last axis. Segment i is the unit of parallel work.
template <int N>
struct Walk {
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t strides[N][kMaxRank] = {};
  int64_t length = 1;   // of the last axis
  int64_t rows = 1;     // product of the others
  int64_t segment = 1;  // elements of a row per segment
  int64_t segments_per_row = 1;
  int64_t rows_per_chunk = 1;
  int64_t chunks = 0;

  explicit ROOTS_INLINE Walk(const Tensor* const (&views)[N]) {
    const Tensor& first = *views[0];
    bool empty = false;
    for (int32_t i = 0; i < first.rank; ++i) {
      const int64_t n = first.shape[i];
      if (n == 0) empty = true;
      if (n == 1) continue;
      bool merge = rank > 0;
      for (int k = 0; k < N && merge; ++k) merge = strides[k][rank - 1] == views[k]->strides[i] * n;
      if (merge) {
        shape[rank - 1] *= n;
        for (int k = 0; k < N; ++k) strides[k][rank - 1] = views[k]->strides[i];
      } else {
        shape[rank] = n;
        for (int k = 0; k < N; ++k) strides[k][rank] = views[k]->strides[i];
        ++rank;
      }
    }
    if (rank == 0) {
      rank = 1;
      shape[0] = 1;
      for (int k = 0; k < N; ++k) strides[k][0] = 1;
    }
    if (empty) return;
    length = shape[rank - 1];
    for (int32_t i = 0; i + 1 < rank; ++i) rows *= shape[i];
    segment = length < kChunkElements ? length : kChunkElements;
    segments_per_row = (length + segment - 1) / segment;
    rows_per_chunk = segments_per_row > 1 ? 1 : (kChunkElements / length > 1 ? kChunkElements / length : 1);
    chunks = segments_per_row > 1 ? rows * segments_per_row : (rows + rows_per_chunk - 1) / rows_per_chunk;
  }

  ROOTS_INLINE int64_t inner_stride(int k) const { return strides[k][rank - 1]; }

  // Calls body(offsets, n) for every row piece of one chunk; offsets are in elements.
  template <class Body>
  ROOTS_INLINE void run(int64_t chunk, const Body& body) const {
    if (segments_per_row > 1) {
      const int64_t start = (chunk % segments_per_row) * segment;
      piece(chunk / segments_per_row, start, length - start < segment ? length - start : segment, body);
      return;
    }
    const int64_t begin = chunk * rows_per_chunk;
    const int64_t end = begin + rows_per_chunk < rows ? begin + rows_per_chunk : rows;
    for (int64_t row = begin; row < end; ++row) piece(row, 0, length, body);
  }

 private:
  template <class Body>
  ROOTS_INLINE void piece(int64_t row, int64_t start, int64_t n, const Body& body) const {
    int64_t offsets[N];
    for (int k = 0; k < N; ++k) offsets[k] = start * strides[k][rank - 1];
    for (int32_t i = rank - 2; i >= 0; --i) {
      const int64_t index = row % shape[i];
      row /= shape[i];
      for (int k = 0; k < N; ++k) offsets[k] += index * strides[k][i];
    }
    body(offsets, n);
  }
};

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
