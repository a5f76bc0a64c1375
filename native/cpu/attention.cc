// Scaled dot-product attention, forward and backward, without materialising the (T, T) matrix of all heads:
// each chunk of work holds the scores of 64 queries of one head.
//   S = scale Q K^T + mask,  P = softmax(S),  O = P V        (Vaswani et al. 2017)
// Backward with P recomputed from the saved log-sum-exp and delta = rowsum(dO * O) (FlashAttention, arXiv
// 2205.14135).
//
// Shapes: q, out (B, H, Tq, D|Dv); k, v (B, Hkv, Tk, D|Dv); query head h reads key head h / (H / Hkv); lse
// (B, H, Tq). Which keys query i of batch b may see: starts[b] <= j < lengths[b]; causal: j <= i + Tk - Tq;
// window w > 0: j > i + Tk - Tq - w. A query that may see none gives zeros and lse = -infinity.
#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

constexpr Status kOutOfMemory = "out of memory";
constexpr int64_t kLeastWork = int64_t{1} << 17;  // multiply-adds per chunk
constexpr int64_t kMaxQueries = 64;               // per chunk: S of 64 x 4096 floats is 1 MiB

// Queries per block: fewer where that spares much of a causal triangle.
ROOTS_INLINE int64_t queries_per_block(int64_t queries) {
  return queries <= 128 ? kMaxQueries / 2 : kMaxQueries;
}

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

Status check(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& mask,
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
  CHECK(q.dtype == k.dtype && q.dtype == v.dtype && q.dtype == out.dtype && q.dtype == lse.dtype,
        "dtypes differ");
  CHECK(q.strides[3] == 1 && k.strides[3] == 1 && v.strides[3] == 1 && out.strides[3] == 1,
        "rows must be dense");
  if (mask.data) {
    CHECK(mask.rank == 4 && mask.dtype == q.dtype, "mask must have rank 4 and the dtype of q");
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

// Scores of queries [i0, i0 + rows) against keys [j0, j1), scale and mask applied, forbidden keys -infinity.
template <class T>
Status scores(const Context& context, const Problem& p, const Tensor& q, const Tensor& k,
              const OptionalTensor& mask, int64_t b, int64_t h, int64_t i0, int64_t rows, int64_t j0,
              int64_t j1, T* s, int64_t ld) {
  using V = Vec<T>;
  const int64_t group = p.H / p.Hkv, n = j1 - j0;
  const Matrix<T> a{head<T>(q, b, h, i0), q.strides[2], 1};
  const Matrix<T> bt{head<T>(k, b, h / group, j0), 1, k.strides[2]};
  const Status status = gemm<T, true>(context, rows, n, p.D, a, bt, s, ld);
  if (status) return status;
  const V scale(static_cast<T>(p.scale));
  for (int64_t r = 0; r < rows; ++r) {
    T* row = s + r * ld;
    for (int64_t j = 0; j < n; j += V::kWidth) {
      const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
      (V::load_partial(row + j, m) * scale).store_partial(row + j, m);
    }
    if (mask.data) {
      const T* add = data<T>(mask) + b * mask.strides[0] + h * mask.strides[1] + (i0 + r) * mask.strides[2];
      for (int64_t j = 0; j < n; ++j) row[j] += add[(j0 + j) * mask.strides[3]];
    }
    const int64_t first = p.first_key(b, i0 + r) - j0, last = p.last_key(b, i0 + r) - j0;
    for (int64_t j = 0; j < n && j < first; ++j) row[j] = T(-__builtin_inf());
    for (int64_t j = last > 0 ? last : 0; j < n; ++j) row[j] = T(-__builtin_inf());
  }
  return nullptr;
}

// The keys that any of the queries [i0, i0 + rows) may see.
ROOTS_INLINE void key_range(const Problem& p, int64_t b, int64_t i0, int64_t rows, int64_t* j0, int64_t* j1) {
  *j0 = p.first_key(b, i0);
  *j1 = p.last_key(b, i0 + rows - 1);
  if (*j0 > *j1) *j0 = *j1;
}

// Row length of the score buffer: whole cache lines, off multiples of 2 KiB.
ROOTS_INLINE int64_t leading(int64_t n) {
  const int64_t padded = (n + 15) / 16 * 16;
  return padded % 256 == 0 ? padded + 16 : padded;
}

template <class T>
Status forward(const Context& context, const Problem& p, const Tensor& q, const Tensor& k, const Tensor& v,
               const OptionalTensor& mask, const Tensor& out, const Tensor& lse) {
  using V = Vec<T>;
  const int64_t block_rows = queries_per_block(p.Tq), blocks = ceil_div(p.Tq, block_rows),
                group = p.H / p.Hkv, ld = leading(p.Tk);
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  CHECK(failure != nullptr, "out of memory");
  *failure = nullptr;
  const int64_t items = p.B * p.H * blocks;
  // Decoding has one query per head: several heads per chunk, or waking a thread would cost more than it
  // saves.
  const int64_t work = (p.Tq < block_rows ? p.Tq : block_rows) * p.Tk * (p.D + p.Dv) + 1;
  const int64_t per_chunk = work >= kLeastWork ? 1 : kLeastWork / work;
  auto one = [&](int64_t item) {
    // longest rows first, so that the last chunks are short
    const int64_t block = blocks - 1 - item / (p.B * p.H), bh = item % (p.B * p.H);
    const int64_t b = bh / p.H, h = bh % p.H, i0 = block * block_rows;
    const int64_t rows = p.Tq - i0 < block_rows ? p.Tq - i0 : block_rows;
    T* s = static_cast<T*>(context.scratch(context.host, 2, static_cast<size_t>(rows * ld) * sizeof(T)));
    if (!s) {
      __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    int64_t j0, j1;
    key_range(p, b, i0, rows, &j0, &j1);
    const int64_t n = j1 - j0;
    Status status = n > 0 ? scores<T>(context, p, q, k, mask, b, h, i0, rows, j0, j1, s, ld) : nullptr;
    T inverse[kMaxQueries];
    for (int64_t r = 0; r < rows; ++r) {
      T* row = s + r * ld;
      V best(T(-__builtin_inf()));
      for (int64_t j = 0; j < n; j += V::kWidth) {
        const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
        if (m == V::kWidth) {
          best = max(best, V::load(row + j));
        } else {
          for (int64_t e = 0; e < m; ++e) best = max(best, V(row[j + e]));
        }
      }
      const T top = horizontal_max(best);
      const bool none = top == T(-__builtin_inf());
      const V shift(none ? T(0) : top);
      V sum;
      for (int64_t j = 0; j < n; j += V::kWidth) {
        const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
        const V e = exp(V::load_partial(row + j, m) - shift);
        e.store_partial(row + j, m);
        sum = sum + V::load_partial(row + j, m);  // the lanes beyond m count nothing
      }
      const T total = horizontal_sum(sum);
      inverse[r] = none ? T(0) : T(1) / total;
      const V logarithm = log(V(total));
      data<T>(lse)[(b * p.H + h) * p.Tq + i0 + r] = none ? T(-__builtin_inf()) : top + logarithm.v[0];
    }
    T* o = head<T>(out, b, h, i0);
    if (!status) {
      const Matrix<T> weights{s, ld, 1};
      const Matrix<T> values{head<T>(v, b, h / group, j0), v.strides[2], 1};
      status = gemm<T, true>(context, rows, p.Dv, n, weights, values, o, out.strides[2]);
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < p.Dv; ++d)
        o[r * out.strides[2] + d] = inverse[r] == T(0) ? T(0) : o[r * out.strides[2] + d] * inverse[r];
    if (status) __atomic_store_n(failure, status, __ATOMIC_RELAXED);
  };
  context.parallel_for(ceil_div(items, per_chunk), [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * per_chunk < items ? (chunk + 1) * per_chunk : items;
    for (int64_t item = chunk * per_chunk; item < end; ++item) one(item);
  });
  return *failure;
}

// C += A B on the calling thread.
template <class T>
Status gemm_add(const Context& context, int64_t M, int64_t N, int64_t K, const Matrix<T>& a,
                const Matrix<T>& b, T* c, int64_t ldc) {
  Epilogue<T> epilogue;
  epilogue.accumulate = true;
  return gemm<T, true>(context, M, N, K, a, b, c, ldc, epilogue);
}

// One chunk per (batch, key head): dk and dv have one writer, so no atomics and a fixed order.
template <class T>
Status backward(const Context& context, const Problem& p, const Tensor& dout, const Tensor& q,
                const Tensor& k, const Tensor& v, const OptionalTensor& mask, const Tensor& out,
                const Tensor& lse, const Tensor& dq, const Tensor& dk, const Tensor& dv,
                const OptionalTensor& dmask) {
  using V = Vec<T>;
  const int64_t block_rows = queries_per_block(p.Tq), group = p.H / p.Hkv, ld = leading(p.Tk);
  Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
  CHECK(failure != nullptr, "out of memory");
  *failure = nullptr;
  context.parallel_for(p.B * p.Hkv, [&](int64_t chunk) {
    const int64_t b = chunk / p.Hkv, g = chunk % p.Hkv;
    for (int64_t j = 0; j < p.Tk; ++j) {
      for (int64_t d = 0; d < p.D; ++d) head<T>(dk, b, g, j)[d] = T(0);
      for (int64_t d = 0; d < p.Dv; ++d) head<T>(dv, b, g, j)[d] = T(0);
    }
    T* s =
        static_cast<T*>(context.scratch(context.host, 2, static_cast<size_t>(block_rows * ld) * sizeof(T)));
    T* ds =
        static_cast<T*>(context.scratch(context.host, 3, static_cast<size_t>(block_rows * ld) * sizeof(T)));
    if (!s || !ds) {
      __atomic_store_n(failure, kOutOfMemory, __ATOMIC_RELAXED);
      return;
    }
    Status status = nullptr;
    for (int64_t h = g * group; h < (g + 1) * group && !status; ++h) {
      for (int64_t i0 = 0; i0 < p.Tq && !status; i0 += block_rows) {
        const int64_t rows = p.Tq - i0 < block_rows ? p.Tq - i0 : block_rows;
        int64_t j0, j1;
        key_range(p, b, i0, rows, &j0, &j1);
        const int64_t n = j1 - j0;
        for (int64_t r = 0; r < rows && n == 0; ++r)
          for (int64_t d = 0; d < p.D; ++d) head<T>(dq, b, h, i0 + r)[d] = T(0);
        if (n == 0) continue;
        // P = exp(S - lse)
        status = scores<T>(context, p, q, k, mask, b, h, i0, rows, j0, j1, s, ld);
        if (status) break;
        for (int64_t r = 0; r < rows; ++r) {
          const T l = data<T>(lse)[(b * p.H + h) * p.Tq + i0 + r];
          const V shift(l == T(-__builtin_inf()) ? T(0) : l);
          T* row = s + r * ld;
          for (int64_t j = 0; j < n; j += V::kWidth) {
            const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
            exp(V::load_partial(row + j, m) - shift).store_partial(row + j, m);
          }
        }
        // dP = dO V^T; dS = P (dP - delta)
        const Matrix<T> doh{head<T>(dout, b, h, i0), dout.strides[2], 1};
        status = gemm<T, true>(context, rows, n, p.Dv, doh, Matrix<T>{head<T>(v, b, g, j0), 1, v.strides[2]},
                               ds, ld);
        if (status) break;
        for (int64_t r = 0; r < rows; ++r) {
          const T* o = head<T>(out, b, h, i0 + r);
          const T* d_o = head<T>(dout, b, h, i0 + r);
          V products;
          for (int64_t d = 0; d < p.Dv; d += V::kWidth) {
            const int64_t m = p.Dv - d < V::kWidth ? p.Dv - d : V::kWidth;
            products = fma(V::load_partial(o + d, m), V::load_partial(d_o + d, m), products);
          }
          const V shift(horizontal_sum(products));
          T* row = ds + r * ld;
          for (int64_t j = 0; j < n; j += V::kWidth) {
            const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
            (V::load_partial(s + r * ld + j, m) * (V::load_partial(row + j, m) - shift))
                .store_partial(row + j, m);
          }
          if (dmask.data) {
            T* to =
                data<T>(dmask) + b * dmask.strides[0] + h * dmask.strides[1] + (i0 + r) * dmask.strides[2];
            for (int64_t j = 0; j < p.Tk; ++j)
              to[j * dmask.strides[3]] = j >= j0 && j < j1 ? row[j - j0] : T(0);
          }
        }
        // dV += P^T dO; dS *= scale; dQ = dS K; dK += dS^T Q
        status = gemm_add<T>(context, n, p.Dv, rows, Matrix<T>{s, 1, ld}, doh, head<T>(dv, b, g, j0),
                             dv.strides[2]);
        if (status) break;
        const V scale(static_cast<T>(p.scale));
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t j = 0; j < n; j += V::kWidth) {
            const int64_t m = n - j < V::kWidth ? n - j : V::kWidth;
            (V::load_partial(ds + r * ld + j, m) * scale).store_partial(ds + r * ld + j, m);
          }
        status = gemm<T, true>(context, rows, p.D, n, Matrix<T>{ds, ld, 1},
                               Matrix<T>{head<T>(k, b, g, j0), k.strides[2], 1}, head<T>(dq, b, h, i0),
                               dq.strides[2]);
        if (status) break;
        status = gemm_add<T>(context, n, p.D, rows, Matrix<T>{ds, 1, ld},
                             Matrix<T>{head<T>(q, b, h, i0), q.strides[2], 1}, head<T>(dk, b, g, j0),
                             dk.strides[2]);
      }
    }
    if (status) __atomic_store_n(failure, status, __ATOMIC_RELAXED);
  });
  return *failure;
}

}  // namespace

Status attention_forward(const Context& context, Tensor q, Tensor k, Tensor v, OptionalTensor mask,
                         OptionalTensor lengths, OptionalTensor starts, Tensor out, Tensor lse, double scale,
                         int64_t causal, int64_t window) {
  Problem p;
  const Status status = check(q, k, v, mask, lengths, starts, out, lse, &p);
  if (status) return status;
  p.scale = scale;
  p.causal = causal != 0;
  p.window = window;
  if (q.dtype == DType::f32) return forward<float>(context, p, q, k, v, mask, out, lse);
  if (q.dtype == DType::f64) return forward<double>(context, p, q, k, v, mask, out, lse);
  return "needs float32 or float64";
}

Status attention_backward(const Context& context, Tensor dout, Tensor q, Tensor k, Tensor v,
                          OptionalTensor mask, OptionalTensor lengths, OptionalTensor starts, Tensor out,
                          Tensor lse, Tensor dq, Tensor dk, Tensor dv, OptionalTensor dmask, double scale,
                          int64_t causal, int64_t window) {
  Problem p;
  const Status status = check(q, k, v, mask, lengths, starts, out, lse, &p);
  if (status) return status;
  CHECK(same_shape(dout, out) && dout.strides[3] == 1 && dout.dtype == q.dtype, "dout must be like out");
  CHECK(same_shape(dq, q) && same_shape(dk, k) && same_shape(dv, v),
        "gradients must have the shapes of their inputs");
  CHECK(is_contiguous(dq) && is_contiguous(dk) && is_contiguous(dv), "gradients must be contiguous");
  CHECK(dq.dtype == q.dtype && dk.dtype == q.dtype && dv.dtype == q.dtype, "dtypes differ");
  CHECK(
      !dmask.data || (mask.data && same_shape(dmask, mask) && is_contiguous(dmask) && dmask.dtype == q.dtype),
      "dmask must be contiguous, like mask");
  p.scale = scale;
  p.causal = causal != 0;
  p.window = window;
  if (q.dtype == DType::f32)
    return backward<float>(context, p, dout, q, k, v, mask, out, lse, dq, dk, dv, dmask);
  if (q.dtype == DType::f64)
    return backward<double>(context, p, dout, q, k, v, mask, out, lse, dq, dk, dv, dmask);
  return "needs float32 or float64";
}

}  // namespace ROOTS_ISA
}  // namespace roots
