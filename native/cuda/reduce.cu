// Reductions. x is a view whose first axes are kept and whose last axes are reduced; out holds the kept axes.
// Along a row: a block per piece of fixed length. Across rows (the last kept axis is dense, as for a bias
// gradient), and where there is little to add: a thread per output and piece. Pieces are combined in order by
// a second kernel, so the bits are the same on every run.
#include <type_traits>

#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 32768;  // elements of one partial result along a row
constexpr int64_t kRows = 512;     // rows of one partial result across rows
constexpr int64_t kFew = kWarp;    // elements per output that are not worth a block

template <class Op, class T>
ROOTS_BOTH T identity() {
  if constexpr (std::is_same_v<Op, Sum>) {
    return T(0);
  } else {
    constexpr bool kMax = std::is_same_v<Op, Max>;
    if constexpr (static_cast<T>(0.5) != T(0))
      return kMax ? -infinity(T(0)) : infinity(T(0));
    else
      return static_cast<T>(kMax ? 1ull << (sizeof(T) * 8 - 1) : ~(1ull << (sizeof(T) * 8 - 1)));
  }
}

template <class Op, class T>
__global__ void along_kernel(Tensor x, int32_t kept, int64_t outputs, int64_t reduced, int64_t pieces,
                             T* out) {
  __shared__ T space[kWarp];
  for (int64_t job = blockIdx.x; job < outputs * pieces; job += gridDim.x) {
    const T* base = static_cast<const T*>(x.data) + offset_of(x, 0, kept, job / pieces);
    const int64_t begin = job % pieces * kPiece, end = begin + kPiece < reduced ? begin + kPiece : reduced;
    T total = identity<Op, T>();
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x)
      total = Op::template combine<T>(total, base[offset_of(x, kept, x.rank, i)]);
    total = block_reduce<Op>(total, identity<Op, T>(), space);
    if (threadIdx.x == 0) out[job] = total;
  }
}

template <class Op, class T>
__global__ void across_kernel(Tensor x, int32_t kept, int64_t outputs, int64_t reduced, int64_t pieces,
                              T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t job = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; job < outputs * pieces;
       job += step) {
    const int64_t output = job % outputs, piece = job / outputs;
    const T* base = static_cast<const T*>(x.data) + offset_of(x, 0, kept, output);
    const int64_t end = (piece + 1) * kRows < reduced ? (piece + 1) * kRows : reduced;
    T total = identity<Op, T>();
    for (int64_t r = piece * kRows; r < end; ++r)
      total = Op::template combine<T>(total, base[offset_of(x, kept, x.rank, r)]);
    out[output * pieces + piece] = total;
  }
}

template <class Op, class T>
__global__ void combine_kernel(const T* parts, int64_t outputs, int64_t pieces, T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < outputs; i += step) {
    T total = identity<Op, T>();
    for (int64_t p = 0; p < pieces; ++p) total = Op::template combine<T>(total, parts[i * pieces + p]);
    out[i] = total;
  }
}

template <class Op>
Status reduce(const Tensor& x, const Tensor& out) {
  CHECK(is_contiguous(out) && out.rank <= x.rank, "out must be contiguous and of lower rank");
  for (int32_t i = 0; i < out.rank; ++i) CHECK(out.shape[i] == x.shape[i], "shapes differ");
  CHECK(x.dtype == out.dtype, "dtypes differ");
  const int32_t kept = out.rank;
  int64_t reduced = 1;
  for (int32_t i = kept; i < x.rank; ++i) reduced *= x.shape[i];
  const int64_t outputs = numel(out);
  if (outputs == 0) return nullptr;
  const bool dense_columns = kept > 0 && x.rank > kept && x.strides[kept - 1] == 1 &&
                             x.strides[x.rank - 1] != 1 && out.shape[kept - 1] > 1;
  const bool across = dense_columns || reduced <= kFew;
  int64_t pieces = ceil_div(reduced, across ? kRows : kPiece);
  if (pieces < 1) pieces = 1;
  return dispatch_number(x.dtype, [&](auto t) -> Status {
    using T = decltype(t);
    T* to = data<T>(out);
    if (pieces > 1) {
      to = static_cast<T*>(workspace(0, static_cast<size_t>(outputs * pieces) * sizeof(T)));
      CHECK(to != nullptr, kOutOfMemory);
    }
    const Status status = across
                              ? launch(across_kernel<Op, T>, grid_for(ceil_div(outputs * pieces, kThreads)),
                                       kThreads, 0, x, kept, outputs, reduced, pieces, to)
                              : launch(along_kernel<Op, T>, grid_for(outputs * pieces), kThreads, 0, x, kept,
                                       outputs, reduced, pieces, to);
    if (status || pieces == 1) return status;
    return launch(combine_kernel<Op, T>, grid_for(ceil_div(outputs, kThreads)), kThreads, 0,
                  static_cast<const T*>(to), outputs, pieces, data<T>(out));
  });
}

// Larger value first, lower index first among equals; NaN is larger than everything.
template <class T>
ROOTS_DEVICE bool before(T a, int64_t i, T b, int64_t j) {
  const bool nan_a = a != a, nan_b = b != b;
  if (nan_a || nan_b) return nan_a && (!nan_b || i < j);
  return a > b || (a == b && i < j);
}

template <class T>
struct Best {
  T value;
  int64_t index;  // -1: none
};

template <class T>
ROOTS_DEVICE Best<T> better(Best<T> a, Best<T> b) {
  if (a.index < 0) return b;
  if (b.index < 0) return a;
  return before(a.value, a.index, b.value, b.index) ? a : b;
}

// The best of the row that comes after `last` (index -1: the best of all). One warp.
template <class T>
ROOTS_DEVICE Best<T> warp_best(const T* row, int64_t n, int64_t stride, Best<T> last) {
  Best<T> best{T(0), -1};
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) {
    const Best<T> x{row[i * stride], i};
    if (last.index < 0 || before(last.value, last.index, x.value, x.index)) best = better(best, x);
  }
  for (int step = kWarp / 2; step > 0; step /= 2)
    best = better(
        best, {__shfl_xor_sync(kAllLanes, best.value, step), __shfl_xor_sync(kAllLanes, best.index, step)});
  return best;
}

template <class T>
__global__ void argmax_kernel(Tensor x, int64_t rows, int64_t* out) {
  const int64_t n = x.shape[x.rank - 1], stride = x.strides[x.rank - 1];
  const int warps = static_cast<int>(blockDim.x) / kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * warps + warp; r < rows;
       r += static_cast<int64_t>(gridDim.x) * warps) {
    const T* row = static_cast<const T*>(x.data) + offset_of(x, 0, x.rank - 1, r);
    const Best<T> best = warp_best<T>(row, n, stride, {T(0), -1});
    if (threadIdx.x % kWarp == 0) out[r] = best.index;
  }
}

template <class T>
__global__ void topk_kernel(const T* x, int64_t rows, int64_t n, int64_t k, T* values, int64_t* indices) {
  const int warps = static_cast<int>(blockDim.x) / kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * warps + warp; r < rows;
       r += static_cast<int64_t>(gridDim.x) * warps) {
    Best<T> last{T(0), -1};
    for (int64_t j = 0; j < k; ++j) {
      last = warp_best<T>(x + r * n, n, 1, last);
      if (threadIdx.x % kWarp == 0) {
        values[r * k + j] = last.value;
        indices[r * k + j] = last.index;
      }
    }
  }
}

}  // namespace

Status reduce_sum(const Context&, Tensor x, Tensor out) { return reduce<Sum>(x, out); }
Status reduce_max(const Context&, Tensor x, Tensor out) { return reduce<Max>(x, out); }
Status reduce_min(const Context&, Tensor x, Tensor out) { return reduce<Min>(x, out); }

Status argmax(const Context&, Tensor x, Tensor out) {
  CHECK(x.rank >= 1 && out.rank == x.rank - 1, "ranks differ");
  for (int32_t i = 0; i < out.rank; ++i) CHECK(out.shape[i] == x.shape[i], "shapes differ");
  CHECK(out.dtype == DType::i64 && is_contiguous(out), "out must be contiguous int64");
  CHECK(x.shape[x.rank - 1] > 0, "an empty axis has no maximum");
  const int64_t rows = numel(out);
  if (rows == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(argmax_kernel<T>, grid_for(ceil_div(rows, kThreads / kWarp)), kThreads, 0, x, rows,
                  data<int64_t>(out));
  });
}

Status topk(const Context&, Tensor x, Tensor values, Tensor indices) {
  CHECK(x.rank >= 1 && values.rank == x.rank && same_shape(values, indices), "shapes differ");
  for (int32_t i = 0; i + 1 < x.rank; ++i) CHECK(values.shape[i] == x.shape[i], "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(values) && is_contiguous(indices), "needs contiguous tensors");
  CHECK(indices.dtype == DType::i64 && values.dtype == x.dtype, "dtypes differ");
  const int64_t n = x.shape[x.rank - 1], k = values.shape[values.rank - 1],
                rows = k > 0 ? numel(values) / k : 0;
  CHECK(k <= n, "k exceeds the axis");
  if (rows == 0) return nullptr;
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(topk_kernel<T>, grid_for(ceil_div(rows, kThreads / kWarp)), kThreads, 0,
                  static_cast<const T*>(data<T>(x)), rows, n, k, data<T>(values), data<int64_t>(indices));
  });
}

}  // namespace cuda
}  // namespace roots
