// Rows and elements chosen by index: embedding tables (float, int8, int4), gather, scatter_add. An index out
// of range sets the fault word, which the next read reports; nothing is read or written for it.
#include "core/product.h"
#include "cuda/declare.cuh"
#include "cuda/gemm/packed_i8.h"
#include "cuda/index.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/sort.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// The index, or -1 after noting the fault.
ROOTS_DEVICE int64_t checked(Indices ids, int64_t i, int64_t limit, FaultReport fault) {
  const int64_t id = ids.at(i);
  if (id >= 0 && id < limit) return id;
  fault.set();
  return -1;
}

template <class Unit>
__global__ void rows_kernel(Indices ids, const Unit* weight, int64_t row_stride, Unit* out, int64_t count,
                            int64_t width, int64_t limit, FaultReport fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count * width;
       i += step) {
    const int64_t id = checked(ids, i / width, limit, fault);
    out[i] = id < 0 ? Unit(0) : weight[id * row_stride + i % width];
  }
}

__global__ void rows_i8_kernel(Indices ids, const int8_t* weight, int64_t row_bytes, const float* scale,
                               float* out, int64_t count, int64_t width, int64_t limit, FaultReport fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count * width;
       i += step) {
    const int64_t id = checked(ids, i / width, limit, fault);
    out[i] = id < 0 ? 0.0f : static_cast<float>(weight[id * row_bytes + i % width]) * scale[id];
  }
}

__global__ void rows_i4_kernel(Indices ids, const uint8_t* packed, PackedI4 s, float* out, int64_t count,
                               int64_t width, int64_t limit, FaultReport fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count * width;
       i += step) {
    const int64_t id = checked(ids, i / width, limit, fault), c = i % width;
    out[i] = id < 0 ? 0.0f
                    : static_cast<float>(s.value(packed, id, c)) *
                          s.scale(packed, id, c / PackedI4::kBlock / s.group_blocks);
  }
}

// What to sort by: ids, those out of range behind all others.
__global__ void keys_kernel(Indices ids, int32_t* keys, int64_t count, int64_t limit, FaultReport fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t id = checked(ids, i, limit, fault);
    keys[i] = static_cast<int32_t>(id < 0 ? limit : id);
  }
}

// A block adds the gradients of one id, in their order, and a thread a column: no atomics, the same bits on
// every run.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(const T* dy, Sortable ids, T* dweight, int64_t count, int64_t width, int64_t limit) {
  for (int64_t first = blockIdx.x; first < count; first += gridDim.x) {
    const int32_t id = ids.number[first];
    if (id >= limit || (first > 0 && ids.number[first - 1] == id)) continue;
    int64_t last = first + 1, beyond = count;  // the first that is not this id lies from `last` on
    while (last < beyond) {
      const int64_t middle = last + (beyond - last) / 2;
      if (ids.number[middle] == id)
        last = middle + 1;
      else
        beyond = middle;
    }
    constexpr int kAtOnce = 8;  // rows on their way while others are added
    for (int64_t c = threadIdx.x; c < width; c += blockDim.x) {
      T sum = dweight[id * width + c];
      for (int64_t i = first; i < last; i += kAtOnce) {
        T rows[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) rows[k] = i + k < last ? dy[ids.from[i + k] * width + c] : T(0);
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
          if (i + k < last) sum += rows[k];
      }
      dweight[id * width + c] = sum;
    }
  }
}

// Along the last axis; index has k columns, the source n.
template <class Unit>
__global__ void gather_kernel(const Unit* x, Indices index, Unit* out, int64_t count, int64_t k, int64_t n,
                              FaultReport fault) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t id = checked(index, i, n, fault);
    out[i] = id < 0 ? Unit(0) : x[i / k * n + id];
  }
}

// A thread owns a row and adds in order.
template <class T>
__global__ void scatter_add_kernel(T* out, Indices index, const T* source, int64_t rows, int64_t k, int64_t n,
                                   FaultReport fault) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (r >= rows) return;
  for (int64_t j = 0; j < k; ++j) {
    const int64_t id = checked(index, r * k + j, n, fault);
    if (id >= 0) out[r * n + id] += source[r * k + j];
  }
}

Status check_gather(const Tensor& x, const Tensor& index, const Tensor& y) {
  CHECK(x.rank >= 1 && same_shape(index, y) && index.rank == x.rank && x.dtype == y.dtype, "shapes differ");
  for (int32_t i = 0; i + 1 < x.rank; ++i) CHECK(index.shape[i] == x.shape[i], "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(y), "needs contiguous tensors");
  return check_indices(index);
}

}  // namespace

Status embedding_forward(const Context&, Tensor ids, Tensor weight, Tensor out) {
  CHECK(weight.rank == 2 && weight.strides[1] == 1, "weight must be a matrix with dense rows");
  const int64_t n = numel(ids), width = weight.shape[1];
  CHECK(out.dtype == weight.dtype && is_contiguous(out) && numel(out) == n * width,
        "out has the wrong shape");
  if (const Status status = check_indices(ids)) return status;
  if (n * width == 0) return nullptr;
  return by_size(dtype_size(weight.dtype), [&](auto unit) {
    using Unit = decltype(unit);
    return launch(rows_kernel<Unit>, grid_for(ceil_div(n * width, kThreads)), kThreads, 0, Indices(ids),
                  data<const Unit>(weight), weight.strides[0], data<Unit>(out), n, width, weight.shape[0],
                  fault(Fault::embedding_forward));
  });
}

Status embedding_backward(const Context&, Tensor dy, Tensor ids, Tensor dweight) {
  CHECK(dweight.rank == 2 && is_contiguous(dweight) && is_contiguous(dy), "needs contiguous tensors");
  CHECK(dy.dtype == dweight.dtype && numel(dy) == numel(ids) * dweight.shape[1], "shapes differ");
  if (const Status status = check_indices(ids)) return status;
  const int64_t n = numel(ids), width = dweight.shape[1], limit = dweight.shape[0];
  if (n * width == 0) return nullptr;
  constexpr int64_t kMost = int64_t{1} << 31;
  CHECK(n < kMost && limit < kMost, "more than 2^31 ids or rows");
  auto* space = static_cast<int32_t*>(workspace(0, sort_ints(n) * sizeof(int32_t)));
  CHECK(space != nullptr, kOutOfMemory);
  if (const Status status = launch(keys_kernel, grid_for(ceil_div(n, kThreads)), kThreads, 0, Indices(ids),
                                   space, n, limit, fault(Fault::embedding_backward)))
    return status;
  Sortable sorted;
  if (const Status status = sort(space, n, limit, &sorted)) return status;
  return dispatch_float(dy.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(add_rows_kernel<T>, grid_for(n), kThreads, 0, data<const T>(dy), sorted, data<T>(dweight),
                  n, width, limit);
  });
}

Status embedding_i8(const Context&, Tensor ids, Tensor weight, Tensor scale, Tensor out) {
  if (const Status status = check_embedding_i8(ids, weight, scale, out)) return status;
  const int64_t n = numel(ids), width = out.shape[out.rank - 1], rows = numel(scale);
  const PackedI8 shape(rows, width);
  const bool packed = weight.rank == 1;
  CHECK(!packed || numel(weight) == shape.total_bytes, "packed has the wrong size");
  if (const Status status = check_indices(ids)) return status;
  if (n * width == 0) return nullptr;
  return launch(rows_i8_kernel, grid_for(ceil_div(n * width, kThreads)), kThreads, 0, Indices(ids),
                data<const int8_t>(weight), packed ? shape.row_bytes : width, data<const float>(scale),
                data<float>(out), n, width, rows, fault(Fault::embedding_i8));
}

Status embedding_i4(const Context&, Tensor ids, Tensor packed, Tensor out, int64_t rows, int64_t group) {
  if (const Status status = check_embedding_i4(ids, packed, out, rows, group)) return status;
  if (const Status status = check_indices(ids)) return status;
  const int64_t n = numel(ids), width = out.shape[out.rank - 1];
  if (n * width == 0) return nullptr;
  return launch(rows_i4_kernel, grid_for(ceil_div(n * width, kThreads)), kThreads, 0, Indices(ids),
                data<const uint8_t>(packed), PackedI4(rows, width, group), data<float>(out), n, width, rows,
                fault(Fault::embedding_i4));
}

Status gather(const Context&, Tensor x, Tensor index, Tensor out) {
  if (const Status status = check_gather(x, index, out)) return status;
  const int64_t count = numel(out);
  if (count == 0) return nullptr;
  return by_size(dtype_size(x.dtype), [&](auto unit) {
    using Unit = decltype(unit);
    return launch(gather_kernel<Unit>, grid_for(ceil_div(count, kThreads)), kThreads, 0, data<const Unit>(x),
                  Indices(index), data<Unit>(out), count, index.shape[index.rank - 1], x.shape[x.rank - 1],
                  fault(Fault::gather));
  });
}

Status scatter_add(const Context&, Tensor out, Tensor index, Tensor source) {
  if (const Status status = check_gather(out, index, source)) return status;
  const int64_t k = index.shape[index.rank - 1], rows = k > 0 ? numel(index) / k : 0;
  if (rows == 0) return nullptr;
  return dispatch_number(out.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(scatter_add_kernel<T>, dim3(static_cast<unsigned>(ceil_div(rows, kThreads))), kThreads, 0,
                  data<T>(out), Indices(index), data<const T>(source), rows, k, out.shape[out.rank - 1],
                  fault(Fault::scatter_add));
  });
}

}  // namespace cuda
}  // namespace roots
