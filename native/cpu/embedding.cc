// Rows and elements chosen by index: embedding tables (float, int8, int4), gather, scatter_add.
// Every index is range-checked before the first write; the kernel then has nothing left to refuse.
#include "core/product.h"
#include "cpu/declare.h"
#include "cpu/gemm/i8.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

ROOTS_INLINE int64_t index_at(const Tensor& ids, int64_t i) {
  return ids.dtype == DType::i32 ? data<int32_t>(ids)[i] : data<int64_t>(ids)[i];
}

ROOTS_INLINE Status check_ids(const Tensor& ids, int64_t limit) {
  CHECK(ids.dtype == DType::i32 || ids.dtype == DType::i64, "ids must be int32 or int64");
  CHECK(is_contiguous(ids), "ids must be contiguous");
  const int64_t n = numel(ids);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t id = index_at(ids, i);
    CHECK(id >= 0 && id < limit, "index out of range");
  }
  return nullptr;
}

template <class T>
Status scatter_rows(const Context& context, const Tensor& dy, const Tensor& ids, const Tensor& dweight) {
  const int64_t n = numel(ids), width = dweight.shape[1];
  // Each chunk owns some columns and adds the rows in order: no atomics, the same bits for any thread count.
  const int64_t columns = 64, chunks = (width + columns - 1) / columns;
  context.parallel_for(chunks, [&](int64_t chunk) {
    const int64_t first = chunk * columns, last = first + columns < width ? first + columns : width;
    for (int64_t i = 0; i < n; ++i) {
      T* to = data<T>(dweight) + index_at(ids, i) * width;
      const T* from = data<T>(dy) + i * width;
      for (int64_t c = first; c < last; ++c) to[c] += from[c];
    }
  });
  return nullptr;
}

// gather and scatter_add along the last axis; index and the other tensor agree on all other axes.
template <class F>
ROOTS_INLINE void each_index(const Tensor& index, int64_t source_length, const F& f) {
  const int64_t k = index.shape[index.rank - 1], n = numel(index);
  for (int64_t i = 0; i < n; ++i) f(i, (i / k) * source_length + index_at(index, i));
}

ROOTS_INLINE Status check_gather(const Tensor& x, const Tensor& index, const Tensor& y) {
  CHECK(x.rank >= 1 && same_shape(index, y) && index.rank == x.rank && x.dtype == y.dtype, "shapes differ");
  for (int32_t i = 0; i + 1 < x.rank; ++i) CHECK(index.shape[i] == x.shape[i], "shapes differ");
  CHECK(is_contiguous(x) && is_contiguous(y), "needs contiguous tensors");
  return check_ids(index, x.shape[x.rank - 1]);
}

}  // namespace

Status embedding_forward(const Context& context, Tensor ids, Tensor weight, Tensor out) {
  CHECK(weight.rank == 2 && weight.strides[1] == 1, "weight must be a matrix with dense rows");
  const int64_t n = numel(ids), width = weight.shape[1], size = dtype_size(weight.dtype);
  CHECK(out.dtype == weight.dtype && is_contiguous(out) && numel(out) == n * width,
        "out has the wrong shape");
  const Status status = check_ids(ids, weight.shape[0]);
  if (status) return status;
  const int64_t per_chunk = kChunkElements / (width > 0 ? width : 1) + 1;
  context.parallel_for((n + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < n ? (chunk + 1) * per_chunk : n;
    for (int64_t i = chunk * per_chunk; i < end; ++i)
      __builtin_memcpy(data<char>(out) + i * width * size,
                       data<char>(weight) + index_at(ids, i) * weight.strides[0] * size,
                       static_cast<size_t>(width * size));
  });
  return nullptr;
}

// dweight must be zero on entry; rows are added.
Status embedding_backward(const Context& context, Tensor dy, Tensor ids, Tensor dweight) {
  CHECK(dweight.rank == 2 && is_contiguous(dweight) && is_contiguous(dy), "needs contiguous tensors");
  CHECK(dy.dtype == dweight.dtype && numel(dy) == numel(ids) * dweight.shape[1], "shapes differ");
  const Status status = check_ids(ids, dweight.shape[0]);
  if (status) return status;
  if (dy.dtype == DType::f32) return scatter_rows<float>(context, dy, ids, dweight);
  if (dy.dtype == DType::f64) return scatter_rows<double>(context, dy, ids, dweight);
  return "needs float32 or float64";
}

// out[i] = weight[ids[i]] * scale[ids[i]], weight int8 with one scale per row: a matrix, or packed as linear
// layers have it (gemm/i8.h).
Status embedding_i8(const Context& context, Tensor ids, Tensor weight, Tensor scale, Tensor out) {
  if (const Status status = check_embedding_i8(ids, weight, scale, out)) return status;
  const int64_t n = numel(ids), width = out.shape[out.rank - 1], rows = numel(scale);
  const PackedShape shape(rows, width);
  const bool packed = weight.rank == 1;
  CHECK(!packed || numel(weight) == shape.total_bytes(), "packed has the wrong size");
  const Status status = check_ids(ids, rows);
  if (status) return status;
  context.parallel_for((n + 63) / 64, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * 64 < n ? (chunk + 1) * 64 : n;
    for (int64_t i = chunk * 64; i < end; ++i) {
      const int64_t id = index_at(ids, i);
      const float s = data<float>(scale)[id];
      float* to = data<float>(out) + i * width;
      if (packed) {
        const int8_t* from = data<int8_t>(weight) + id / kPanel * shape.panel_bytes() + id % kPanel * kQuad;
        for (int64_t c = 0; c < width; ++c)
          to[c] = static_cast<float>(from[c / kQuad * kPanel * kQuad + c % kQuad]) * s;
      } else {
        const int8_t* from = data<int8_t>(weight) + id * width;
        for (int64_t c = 0; c < width; ++c) to[c] = static_cast<float>(from[c]) * s;
      }
    }
  });
  return nullptr;
}

// out[i] = row ids[i] of an int4 table (rows, width) in the layout of core/packed_i4.h.
Status embedding_i4(const Context& context, Tensor ids, Tensor packed, Tensor out, int64_t rows,
                    int64_t group) {
  if (const Status status = check_embedding_i4(ids, packed, out, rows, group)) return status;
  if (const Status status = check_ids(ids, rows)) return status;
  const int64_t n = numel(ids), width = out.shape[out.rank - 1];
  const PackedI4 s(rows, width, group);
  context.parallel_for((n + 63) / 64, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * 64 < n ? (chunk + 1) * 64 : n;
    for (int64_t i = chunk * 64; i < end; ++i) {
      const int64_t id = index_at(ids, i);
      float* to = data<float>(out) + i * width;
      for (int64_t b = 0; b < s.blocks; ++b, to += PackedI4::kBlock) {
        const float scale = s.scale(data<uint8_t>(packed), id, b / s.group_blocks);
        const uint8_t* block = data<uint8_t>(packed) + s.byte_at(id, b * PackedI4::kBlock);
        const int64_t left = width - b * PackedI4::kBlock;
        for (int64_t c = 0; c < PackedI4::kBlock && c < left; ++c)
          to[c] = static_cast<float>(PackedI4::nibble(block, c)) * scale;
      }
    }
  });
  return nullptr;
}

Status gather(const Context&, Tensor x, Tensor index, Tensor out) {
  const Status status = check_gather(x, index, out);
  if (status) return status;
  const int64_t length = x.shape[x.rank - 1];
  switch (dtype_size(x.dtype)) {
    case 8:
      each_index(index, length, [&](int64_t i, int64_t j) { data<uint64_t>(out)[i] = data<uint64_t>(x)[j]; });
      break;
    case 4:
      each_index(index, length, [&](int64_t i, int64_t j) { data<uint32_t>(out)[i] = data<uint32_t>(x)[j]; });
      break;
    case 2:
      each_index(index, length, [&](int64_t i, int64_t j) { data<uint16_t>(out)[i] = data<uint16_t>(x)[j]; });
      break;
    default:
      each_index(index, length, [&](int64_t i, int64_t j) { data<uint8_t>(out)[i] = data<uint8_t>(x)[j]; });
  }
  return nullptr;
}

// out[..., index[..., i]] += source[..., i], in order.
Status scatter_add(const Context&, Tensor out, Tensor index, Tensor source) {
  const Status status = check_gather(out, index, source);
  if (status) return status;
  const int64_t length = out.shape[out.rank - 1];
  if (out.dtype == DType::f32)
    each_index(index, length, [&](int64_t i, int64_t j) { data<float>(out)[j] += data<float>(source)[i]; });
  else if (out.dtype == DType::f64)
    each_index(index, length, [&](int64_t i, int64_t j) { data<double>(out)[j] += data<double>(source)[i]; });
  else
    return "needs float32 or float64";
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
