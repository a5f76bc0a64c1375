// matmul (batched, any strides) and linear (y = activation(x W^T + b)), over gemm/gemm.h.
#include "cpu/declare.h"
#include "cpu/gemm/gemm.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

struct Serial {
  static constexpr bool value = true;
};
struct Parallel {
  static constexpr bool value = false;
};

template <class T>
Status matmul_typed(const Context& context, const Tensor& a, const Tensor& b, const Tensor& out) {
  const int32_t r = out.rank;
  const int64_t M = out.shape[r - 2], N = out.shape[r - 1], K = a.shape[r - 1];
  int64_t batches = 1;
  for (int32_t i = 0; i < r - 2; ++i) batches *= out.shape[i];
  auto one = [&](int64_t batch, auto serial) {
    int64_t rest = batch, ao = 0, bo = 0;
    for (int32_t i = r - 3; i >= 0; --i) {
      const int64_t index = rest % out.shape[i];
      rest /= out.shape[i];
      ao += index * a.strides[i];
      bo += index * b.strides[i];
    }
    const Matrix<T> am{data<T>(a) + ao, a.strides[r - 2], a.strides[r - 1]};
    const Matrix<T> bm{data<T>(b) + bo, b.strides[r - 2], b.strides[r - 1]};
    return gemm<T, decltype(serial)::value>(context, M, N, K, am, bm, data<T>(out) + batch * M * N, N);
  };
  // Many small products: one per chunk. Few large ones: each in parallel. Depends on shapes alone.
  if (batches > 1 && M * N * K < (int64_t{1} << 24)) {
    // one slot per failure would need atomics; the only failure is memory, the same for all
    Status* failure = static_cast<Status*>(context.workspace(context.host, 2, sizeof(Status)));
    CHECK(failure != nullptr, "out of memory");
    *failure = nullptr;
    const int64_t work = M * N * K > 0 ? M * N * K : 1;
    const int64_t per_chunk = work > 4000000 ? 1 : 4000000 / work;
    context.parallel_for(ceil_div(batches, per_chunk), [&](int64_t chunk) {
      const int64_t end = (chunk + 1) * per_chunk < batches ? (chunk + 1) * per_chunk : batches;
      for (int64_t i = chunk * per_chunk; i < end; ++i) {
        const Status status = one(i, Serial{});
        if (status) __atomic_store_n(failure, status, __ATOMIC_RELAXED);
      }
    });
    return *failure;
  }
  for (int64_t i = 0; i < batches; ++i) {
    const Status status = one(i, Parallel{});
    if (status) return status;
  }
  return nullptr;
}

template <class T>
Status linear_typed(const Context& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                    const Tensor& out, const Tensor& pre, Activation activation) {
  const Matrix<T> a{data<T>(x), x.strides[0], x.strides[1]};
  const Matrix<T> b{data<T>(weight), weight.strides[1], weight.strides[0]};  // (K, N) view of (N, K)
  Epilogue<T> epilogue;
  epilogue.bias = static_cast<const T*>(bias.data);
  epilogue.pre = static_cast<T*>(pre.data);
  epilogue.activation = activation;
  return gemm<T, false>(context, x.shape[0], weight.shape[0], x.shape[1], a, b, data<T>(out), weight.shape[0],
                        epilogue);
}

}  // namespace

Status matmul(const Context& context, Tensor a, Tensor b, Tensor out) {
  const int32_t r = out.rank;
  CHECK(r >= 2 && a.rank == r && b.rank == r, "ranks differ");
  CHECK(a.shape[r - 1] == b.shape[r - 2], "inner dimensions differ");
  CHECK(a.shape[r - 2] == out.shape[r - 2] && b.shape[r - 1] == out.shape[r - 1], "shapes differ");
  for (int32_t i = 0; i < r - 2; ++i)
    CHECK(a.shape[i] == out.shape[i] && b.shape[i] == out.shape[i], "batch axes differ");
  CHECK(is_contiguous(out), "out must be contiguous");
  CHECK(a.dtype == b.dtype && a.dtype == out.dtype, "dtypes differ");
  if (a.dtype == DType::f32) return matmul_typed<float>(context, a, b, out);
  if (a.dtype == DType::f64) return matmul_typed<double>(context, a, b, out);
  return "needs float32 or float64";
}

Status linear(const Context& context, Tensor x, Tensor weight, OptionalTensor bias, Tensor out,
              OptionalTensor pre, int64_t activation) {
  CHECK(x.rank == 2 && weight.rank == 2 && out.rank == 2, "needs matrices");
  CHECK(x.shape[1] == weight.shape[1], "inner dimensions differ");
  CHECK(out.shape[0] == x.shape[0] && out.shape[1] == weight.shape[0] && is_contiguous(out),
        "out has the wrong shape");
  CHECK(x.dtype == weight.dtype && x.dtype == out.dtype, "dtypes differ");
  CHECK(!bias.data || (bias.rank == 1 && bias.dtype == x.dtype && is_contiguous(bias) &&
                       bias.shape[0] == weight.shape[0]),
        "bias must be contiguous, one per output");
  CHECK(!pre.data || (pre.dtype == x.dtype && same_shape(pre, out) && is_contiguous(pre)),
        "pre must be like out");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  if (x.dtype == DType::f32)
    return linear_typed<float>(context, x, weight, bias, out, pre, static_cast<Activation>(activation));
  if (x.dtype == DType::f64)
    return linear_typed<double>(context, x, weight, bias, out, pre, static_cast<Activation>(activation));
  return "needs float32 or float64";
}

}  // namespace ROOTS_ISA
}  // namespace roots
