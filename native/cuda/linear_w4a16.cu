// Weight-only int4: y = gate * activation(x W^T + b) + residual, scales shared by groups along K; the format
// is core/packed_i4.h, x stays float32. A few rows (decoding): a block of threads per panel of 16 outputs
// reads its weights once for all of them. More rows: the weights are widened into a workspace for the float32
// product.
#include "core/packed_i4.h"
#include "cuda/declare.cuh"
#include "cuda/gemm/simt.cuh"
#include "cuda/reduce.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kFewRows = 8, kThreads = 256;
constexpr int64_t kPanel = PackedI4::kPanel, kBlock = PackedI4::kBlock;

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
    float best = i4_scale(top > 0 ? top / 7.5f : 1.0f);
    if (top > 0 && steps > 0) {
      float least = group_error(w + at, n, best);
      for (int64_t k = 1; k <= steps; ++k) {
        const float candidate = i4_scale(
            top / 7.5f *
            static_cast<float>(1.0 - max_shrink * static_cast<double>(k) / static_cast<double>(steps)));
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

__global__ void pack_scales_kernel(float* scale, uint8_t* packed, int64_t N, PackedI4 s, bool unpack) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x, rows = s.panels * kPanel;
  const int64_t whole = s.groups + s.groups % 2;  // a line is that of two groups
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * whole; i += step) {
    const int64_t n = i / whole, g = i % whole;
    const bool inside = n < N && g < s.groups;
    float* mine = scale + n * s.groups + g;
    if (!unpack)
      *reinterpret_cast<uint16_t*>(packed + s.scale_at(n, g)) = f32_to_f16(inside ? *mine : 0.0f);
    else if (inside)
      *mine = s.scale(packed, n, g);
  }
}

// A thread per byte, so per two weights.
__global__ void pack_kernel(int8_t* q, uint8_t* packed, int64_t N, int64_t K, PackedI4 s, bool unpack) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x, bytes = s.blocks * kBlock / 2;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < s.panels * kPanel * bytes;
       i += step) {
    // of each 8 inputs, the first 4 are in the low nibbles
    const int64_t n = i / bytes, k = i % bytes / 4 * 8 + i % 4;
    const bool first = n < N && k < K, second = n < N && k + 4 < K;
    uint8_t& byte = packed[s.byte_at(n, k)];
    int8_t* row = q + n * K;
    if (!unpack) {
      const int low = first ? row[k] + 8 : 8, high = second ? row[k + 4] + 8 : 8;
      byte = static_cast<uint8_t>(low | high << 4);
    } else {
      if (first) row[k] = static_cast<int8_t>((byte & 15) - 8);
      if (second) row[k + 4] = static_cast<int8_t>((byte >> 4) - 8);
    }
  }
}

__global__ void widen_kernel(const uint8_t* packed, float* out, int64_t N, int64_t K, PackedI4 s) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < N * K; i += step) {
    const int64_t n = i / K, k = i % K;
    out[i] = static_cast<float>(s.value(packed, n, k)) * s.scale(packed, n, k / kBlock / s.group_blocks);
  }
}

// Eight warps share a panel. A lane reads 32-bit words, eight inputs of one output; a warp 128 bytes in a
// row: lanes 0 to 15 one piece of a block, lanes 16 to 31 the next.
__global__ void few_rows_kernel(const float* x, const uint8_t* packed, int64_t M, int64_t N, int64_t K,
                                PackedI4 s, Epilogue<float> epilogue) {
  __shared__ float partial[kThreads / kWarp][kFewRows][kPanel];
  const int64_t lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = lane % kPanel;
  for (int64_t panel = blockIdx.x; panel < s.panels; panel += gridDim.x) {
    const uint8_t* from = packed + panel * s.panel_bytes();
    float sum[kFewRows] = {};
    for (int64_t half = warp; half < s.blocks * 2; half += kThreads / kWarp) {
      const int64_t block = half / 2, piece = half % 2 * 2 + lane / kPanel, k0 = block * kBlock + piece * 8;
      const uint32_t word =
          *reinterpret_cast<const uint32_t*>(from + s.block_at(block) + piece * 64 + column * 4);
      const float factor = s.scale(from, column, block / s.group_blocks);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        // nibble 0 of byte i, then nibble 1 of byte i - 4
        const int bits = static_cast<int>(word >> (i % 4 * 8 + i / 4 * 4)) & 15;
        const float w = static_cast<float>(bits - 8) * factor;
        if (k0 + i >= K) continue;
#pragma unroll
        for (int m = 0; m < kFewRows; ++m)
          if (m < M) sum[m] = fma_of(w, x[m * K + k0 + i], sum[m]);
      }
    }
#pragma unroll
    for (int m = 0; m < kFewRows; ++m) {
      sum[m] += __shfl_xor_sync(kAllLanes, sum[m], static_cast<int>(kPanel));
      if (lane < kPanel) partial[warp][m][lane] = sum[m];
    }
    __syncthreads();
    const int64_t m = threadIdx.x / kPanel, n = panel * kPanel + threadIdx.x % kPanel;
    if (m < M && m < kFewRows && n < N) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kThreads / kWarp; ++w) total += partial[w][m][threadIdx.x % kPanel];
      epilogue.store(0, m, n, N, total);
    }
    __syncthreads();
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

Status linear_i4_pack(const Context&, Tensor q, Tensor scale, Tensor packed, int64_t group, int64_t unpack) {
  if (const Status status = check_i4_pack(q, scale, packed, group)) return status;
  const int64_t N = q.shape[0], K = q.shape[1];
  const PackedI4 s(N, K, group);
  if (N * K == 0) return nullptr;
  const Status status =
      launch(pack_scales_kernel, grid_for(ceil_div(s.panels * kPanel * (s.groups + 1), kThreads)), kThreads,
             0, data<float>(scale), data<uint8_t>(packed), N, s, unpack != 0);
  if (status) return status;
  return launch(pack_kernel, grid_for(ceil_div(s.panels * kPanel * s.blocks * kBlock / 2, kThreads)),
                kThreads, 0, data<int8_t>(q), data<uint8_t>(packed), N, K, s, unpack != 0);
}

Status linear_w4a16(const Context&, Tensor x, Tensor packed, OptionalTensor bias, OptionalTensor gate,
                    OptionalTensor residual, Tensor out, int64_t group, int64_t activation) {
  const LinearEnd end{bias, gate, residual, {}, activation};
  if (const Status status = check_linear_i4(x, packed, out, end, group)) return status;
  const int64_t M = x.shape[0], N = out.shape[1], K = x.shape[1];
  const PackedI4 s(N, K, group);
  if (M == 0 || N == 0) return nullptr;
  const auto epilogue = linear_epilogue<float>(end, out);
  if (M <= kFewRows)
    return launch(few_rows_kernel, grid_for(s.panels), kThreads, 0, data<const float>(x),
                  data<const uint8_t>(packed), M, N, K, s, epilogue);
  auto* wide = static_cast<float*>(workspace(0, static_cast<size_t>(N * K + 1) * sizeof(float)));
  CHECK(wide != nullptr, kOutOfMemory);
  if (N * K > 0)
    if (const Status status = launch(widen_kernel, grid_for(ceil_div(N * K, kThreads)), kThreads, 0,
                                     data<const uint8_t>(packed), wide, N, K, s))
      return status;
  return simt::gemm<float, float>(M, N, K, {data<float>(x), K, 1}, {wide, K, 1}, Batches(), epilogue);
}

}  // namespace cuda
}  // namespace roots
