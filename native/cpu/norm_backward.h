// The backward pass of layer_norm and rms_norm, whose parameter gradients are sums over rows, as partial sums
// per fixed group of rows that are added in order, so the bits do not depend on the number of threads.
#pragma once

#include "cpu/rows.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr int64_t kNormRows = 32;  // rows per partial sum

// add(first row, one past the last, sums) adds what these rows contribute to `count` vectors of `width` sums;
// then they are folded into out[c], where that is not null.
template <class T, class Rows>
ROOTS_INLINE Status sum_over_rows(const Context& context, int64_t rows, int64_t width, int count,
                                  T* const* out, const Rows& add) {
  const int64_t groups = (rows + kNormRows - 1) / kNormRows;
  T* partial = static_cast<T*>(context.workspace(
      context.host, 0, static_cast<size_t>((groups > 0 ? groups : 1) * count * width) * sizeof(T)));
  CHECK(partial != nullptr, "out of memory");
  context.parallel_for(groups, [&](int64_t group) {
    T* sums = partial + group * count * width;
    for (int64_t i = 0; i < count * width; ++i) sums[i] = T(0);
    const int64_t end = (group + 1) * kNormRows < rows ? (group + 1) * kNormRows : rows;
    add(group * kNormRows, end, sums);
  });
  for (int c = 0; c < count; ++c) {
    if (!out[c]) continue;
    for (int64_t i = 0; i < width; ++i) out[c][i] = T(0);
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t i = 0; i < width; ++i) out[c][i] += partial[(group * count + c) * width + i];
  }
  return nullptr;
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
