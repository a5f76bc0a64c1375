// What one attention call computes: sizes, scale, and which keys a query may see.
#pragma once

#include "core/check.h"
#include "core/kernels.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr Status kOutOfMemory = "out of memory";

struct Problem {
  int64_t B, H, Hkv, Tq, Tk, D, Dv;
  double scale;
  bool causal;
  int64_t window;
  const int64_t* starts;
  const int64_t* lengths;

  ROOTS_INLINE int64_t first_key(int64_t b, int64_t i) const {
    int64_t first = starts ? starts[b] : 0;
    if (window > 0 && i + Tk - Tq - window + 1 > first) first = i + Tk - Tq - window + 1;
    return first < 0 ? 0 : first;
  }
  ROOTS_INLINE int64_t last_key(int64_t b, int64_t i) const {  // one past
    int64_t last = lengths ? lengths[b] : Tk;
    if (causal && i + Tk - Tq + 1 < last) last = i + Tk - Tq + 1;
    return last > Tk ? Tk : last < 0 ? 0 : last;
  }
};

// Everything but dtypes.
Status check_shapes(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
                    const OptionalTensor& lengths, const OptionalTensor& starts, const Tensor& out,
                    const Tensor& lse, Problem* p) {
  CHECK(q.rank == 4 && k.rank == 4 && v.rank == 4 && out.rank == 4 && lse.rank == 3, "needs rank 4");
  p->B = q.shape[0];
  p->H = q.shape[1];
  p->Tq = q.shape[2];
  p->D = q.shape[3];
  p->Hkv = k.shape[1];
  p->Tk = k.shape[2];
  p->Dv = v.shape[3];
  CHECK(k.shape[0] == p->B && v.shape[0] == p->B && k.shape[3] == p->D, "k does not match q");
  CHECK(v.shape[1] == p->Hkv && v.shape[2] == p->Tk, "v does not match k");
  CHECK(p->Hkv > 0 && p->H % p->Hkv == 0, "query heads must be a multiple of key heads");
  CHECK(out.shape[0] == p->B && out.shape[1] == p->H && out.shape[2] == p->Tq && out.shape[3] == p->Dv,
        "out has the wrong shape");
  CHECK(lse.shape[0] == p->B && lse.shape[1] == p->H && lse.shape[2] == p->Tq && is_contiguous(lse),
        "lse has the wrong shape");
  CHECK(q.strides[3] == 1 && k.strides[3] == 1 && v.strides[3] == 1 && out.strides[3] == 1,
        "rows must be dense");
  if (mask.data) {
    CHECK(mask.rank == 4, "mask must have rank 4");
    CHECK(mask.shape[0] == p->B && mask.shape[1] == p->H && mask.shape[2] == p->Tq && mask.shape[3] == p->Tk,
          "mask has the wrong shape");
  }
  const OptionalTensor* const limits[] = {&lengths, &starts};
  for (const OptionalTensor* t : limits)
    if (t->data)
      CHECK(t->rank == 1 && t->shape[0] == p->B && t->dtype == DType::i64 && is_contiguous(*t),
            "lengths and starts are int64, one per batch");
  p->starts = static_cast<const int64_t*>(starts.data);
  p->lengths = static_cast<const int64_t*>(lengths.data);
  return nullptr;
}

template <class T>
ROOTS_INLINE T* head(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return data<T>(t) + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
}

// One attention call with its operands, float or double.
template <class T>
struct Operands {
  Problem p;
  Tensor q, k, v;
  OptionalTensor mask;

  // scores are rewritten as scale S + mask before the softmax; otherwise the scale is part of its exponent
  ROOTS_INLINE bool rewrites() const { return mask.data || !(p.scale > 0); }
  // factor of a stored score in the exponent of 2
  ROOTS_INLINE T exponent() const {
    return static_cast<T>((rewrites() ? 1 : p.scale) * 1.44269504088896340736);
  }
};

// Finishes scores [j0, j0 + n) of one query, of which `padded` are stored: scale and mask where needed, and
// -infinity for keys that it may not see.
template <class T>
ROOTS_INLINE void finish_scores(const Operands<T>& x, int64_t b, int64_t h, int64_t i, int64_t j0, int64_t n,
                                int64_t padded, T* row) {
  using V = Vec<T>;
  if (x.rewrites()) {
    const V scale(static_cast<T>(x.p.scale));
    for (int64_t j = 0; j < padded; j += V::kWidth) (V::load(row + j) * scale).store(row + j);
    if (x.mask.data) {
      const T* add = head<T>(x.mask, b, h, i) + j0 * x.mask.strides[3];
      for (int64_t j = 0; j < n; ++j) row[j] += add[j * x.mask.strides[3]];
    }
  }
  const int64_t first = x.p.first_key(b, i) - j0;
  int64_t last = x.p.last_key(b, i) - j0;
  last = last < 0 ? 0 : last < n ? last : n;
  const V forbidden(T(-__builtin_inf())), index = iota<T>();
  for (int64_t j = 0; j < first && j < padded; j += V::kWidth)
    select<T>(index < V(static_cast<T>(first - j)), forbidden, V::load(row + j)).store(row + j);
  for (int64_t j = last / V::kWidth * V::kWidth; j < padded; j += V::kWidth)
    select<T>(index < V(static_cast<T>(last - j)), V::load(row + j), forbidden).store(row + j);
}

// A block of memory cut into arrays that start on cache lines.
class Carver {
 public:
  explicit Carver(void* memory = nullptr) : memory_(reinterpret_cast<uintptr_t>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* out = reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return out;
  }
  size_t used() const { return used_; }

 private:
  uintptr_t memory_;
  size_t used_ = 0;
};

// Rows of `n` elements, `stride` apart, to rows of `ld` with zeros behind.
template <class T>
ROOTS_INLINE void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t n, T* to, int64_t ld) {
  constexpr int64_t W = Vec<T>::kWidth;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < ld; d += W) {
      const int64_t left = n - d;
      Vec<T>::load_partial(from + r * stride + d, left < 0 ? 0 : left < W ? left : W).store(to + r * ld + d);
    }
}

}  // namespace
}  // namespace ROOTS_ISA
}  // namespace roots
