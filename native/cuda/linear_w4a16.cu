// Weight-only int4: y = activation(x W^T + b), scales shared by groups along K; formats in
// native/cpu/linear_w4a16.cc. A few rows (decoding): a warp per output reads its weights once for all of
// them. More rows: the weights are widened into a workspace for the float32 product.
#include "cuda/declare.cuh"
#include "cuda/gemm/simt.cuh"
#include "cuda/reduce.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kFewRows = 8, kThreads = 256;
constexpr int64_t kBlock = 32, kBytes = kBlock / 2;

ROOTS_DEVICE int nibble(const uint8_t* row, int64_t k) {
  const int byte = row[k / kBlock * kBytes + k % kBytes];
  return (k % kBlock < kBytes ? byte & 15 : byte >> 4) - 8;
}

ROOTS_DEVICE int quantized(float x) {
  x = x > 7.0f ? 7.0f : x < -8.0f ? -8.0f : x;
  return __float2int_rn(x);
}

// A warp per group: lanes share its elements.
ROOTS_DEVICE float group_error(const float* w, int64_t n, float scale) {
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) {
    const float e = w[i] - static_cast<float>(quantized(w[i] / scale)) * scale;
    sum += e * e;
  }
  return warp_reduce<Sum>(sum);
}

__global__ void quantize_kernel(const float* w, int8_t* q, float* scale, int64_t N, int64_t K, int64_t group,
                                int64_t groups, int64_t steps, double max_shrink) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t job = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
       job < N * groups; job += warps) {
    const int64_t at = job / groups * K + job % groups * group;
    const int64_t left = K - job % groups * group, n = left < group ? left : group;
    float top = 0;
    for (int64_t i = lane; i < n; i += kWarp) top = Max::combine(top, fabsf(w[at + i]));
    top = warp_reduce<Max>(top);
    float best = top > 0 ? top / 7.5f : 1.0f;
    if (best < 1.2e-38f) best = 1.2e-38f;
    if (top > 0 && steps > 0) {
      float least = group_error(w + at, n, best);
      for (int64_t k = 1; k <= steps; ++k) {
        const float candidate =
            top / 7.5f *
            static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps));
        const float error = group_error(w + at, n, candidate);
        if (error < least) {
          least = error;
          best = candidate;
        }
      }
    }
    if (lane == 0) scale[job] = best;
    for (int64_t i = lane; i < n; i += kWarp) q[at + i] = static_cast<int8_t>(quantized(w[at + i] / best));
  }
}

__global__ void pack_kernel(int8_t* q, uint8_t* packed, int64_t N, int64_t K, int64_t bytes, bool unpack) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x, count = N * (unpack ? K : bytes);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    if (unpack) {
      q[i] = static_cast<int8_t>(nibble(packed + i / K * bytes, i % K));
      continue;
    }
    const int8_t* row = q + i / bytes * K;
    const int64_t k = i % bytes / kBytes * kBlock + i % bytes % kBytes;
    const int low = k < K ? row[k] : 0, high = k + kBytes < K ? row[k + kBytes] : 0;
    packed[i] = static_cast<uint8_t>(((low + 8) & 15) | (((high + 8) & 15) << 4));
  }
}

__global__ void widen_kernel(const uint8_t* packed, const float* scale, float* out, int64_t N, int64_t K,
                             int64_t bytes, int64_t group, int64_t groups) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N * K; i += step) {
    const int64_t row = i / K, k = i % K;
    out[i] = static_cast<float>(nibble(packed + row * bytes, k)) * scale[row * groups + k / group];
  }
}

__global__ void few_rows_kernel(const float* x, const uint8_t* packed, const float* scale, int64_t bytes,
                                int64_t M, int64_t N, int64_t K, int64_t group, int64_t groups,
                                Epilogue<float> epilogue) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kWarp);
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp; n < N;
       n += warps) {
    float sum[kFewRows] = {};
    for (int64_t i = lane; i < bytes; i += kWarp) {
      const int byte = packed[n * bytes + i];
      const int64_t k = i / kBytes * kBlock + i % kBytes;
      const float factor = scale[n * groups + (k < K ? k : K - 1) / group];
      const float low = static_cast<float>((byte & 15) - 8) * factor;
      const float high = static_cast<float>((byte >> 4) - 8) * factor;
#pragma unroll
      for (int m = 0; m < kFewRows; ++m) {
        if (m >= M) continue;
        if (k < K) sum[m] = fma_of(low, x[m * K + k], sum[m]);
        if (k + kBytes < K) sum[m] = fma_of(high, x[m * K + k + kBytes], sum[m]);
      }
    }
#pragma unroll
    for (int m = 0; m < kFewRows; ++m) {
      const float total = warp_reduce<Sum>(sum[m]);
      if (lane == 0 && m < M) epilogue.store(0, m, n, N, total);
    }
  }
}

}  // namespace

Status quantize_weight_i4(const Context&, Tensor w, Tensor q, Tensor scale, int64_t group, int64_t steps,
                          double max_shrink) {
  CHECK(w.rank == 2 && w.dtype == DType::f32 && is_contiguous(w), "w must be a contiguous float32 matrix");
  CHECK(q.dtype == DType::i8 && same_shape(w, q) && is_contiguous(q), "q must be int8, like w");
  CHECK(group > 0, "group must be positive");
  const int64_t N = w.shape[0], K = w.shape[1], groups = ceil_div(K, group);
  CHECK(scale.dtype == DType::f32 && scale.rank == 2 && scale.shape[0] == N && scale.shape[1] == groups &&
            is_contiguous(scale),
        "scale must be (N, groups)");
  if (N * K == 0) return nullptr;
  return launch(quantize_kernel, grid_for(ceil_div(N * groups, kThreads / kWarp)), kThreads, 0,
                data<const float>(w), data<int8_t>(q), data<float>(scale), N, K, group, groups, steps,
                max_shrink);
}

Status linear_i4_pack(const Context&, Tensor q, Tensor packed, int64_t unpack) {
  CHECK(q.rank == 2 && q.dtype == DType::i8 && is_contiguous(q), "q must be a contiguous int8 matrix");
  const int64_t N = q.shape[0], K = q.shape[1], bytes = ceil_div(K, kBlock) * kBytes;
  CHECK(packed.rank == 2 && packed.dtype == DType::u8 && is_contiguous(packed) && packed.shape[0] == N &&
            packed.shape[1] == bytes,
        "packed must be uint8 (N, bytes of whole blocks)");
  if (N * K == 0) return nullptr;
  return launch(pack_kernel, grid_for(ceil_div(N * K, kThreads)), kThreads, 0, data<int8_t>(q),
                data<uint8_t>(packed), N, K, bytes, unpack != 0);
}

Status linear_w4a16(const Context&, Tensor x, Tensor packed, Tensor scale, OptionalTensor bias, Tensor out,
                    int64_t group, int64_t activation) {
  CHECK(x.rank == 2 && out.rank == 2 && x.shape[0] == out.shape[0], "needs matrices");
  CHECK(x.dtype == DType::f32 && out.dtype == DType::f32 && scale.dtype == DType::f32, "needs float32");
  CHECK(is_contiguous(x) && is_contiguous(out) && is_contiguous(scale), "needs contiguous tensors");
  CHECK(group > 0 && group % kBlock == 0, "group must be a multiple of 32");
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1], bytes = ceil_div(K, kBlock) * kBytes,
                groups = ceil_div(K, group);
  CHECK(packed.dtype == DType::u8 && packed.rank == 2 && packed.shape[0] == N && packed.shape[1] == bytes &&
            is_contiguous(packed),
        "packed has the wrong size");
  CHECK(scale.rank == 2 && scale.shape[0] == N && scale.shape[1] == groups, "one scale per output and group");
  CHECK(!bias.data || (bias.dtype == DType::f32 && numel(bias) == N && is_contiguous(bias)),
        "one bias per output");
  CHECK(activation >= 0 && activation < kNumActivations, "unknown activation");
  if (M == 0 || N == 0) return nullptr;
  Epilogue<float> epilogue;
  epilogue.out = data<float>(out);
  epilogue.bias = data<float>(bias);
  epilogue.activation = static_cast<Activation>(activation);
  if (M <= kFewRows)
    return launch(few_rows_kernel, grid_for(ceil_div(N, kThreads / kWarp)), kThreads, 0, data<const float>(x),
                  data<const uint8_t>(packed), data<const float>(scale), bytes, M, N, K, group, groups,
                  epilogue);
  auto* wide = static_cast<float*>(workspace(0, static_cast<size_t>(N * K + 1) * sizeof(float)));
  CHECK(wide != nullptr, kOutOfMemory);
  if (N * K > 0)
    if (const Status status =
            launch(widen_kernel, grid_for(ceil_div(N * K, kThreads)), kThreads, 0,
                   data<const uint8_t>(packed), data<const float>(scale), wide, N, K, bytes, group, groups))
      return status;
  return simt::gemm<float, float>(M, N, K, {data<float>(x), K, 1}, {wide, K, 1}, Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
