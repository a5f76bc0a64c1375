// One optimizer step in place, a kernel per rule, and the global gradient norm they share; formulas in
// native/cpu/optimizers.cc. scale (2) = { norm, factor } stays on the device: a factor that is NaN leaves
// everything as it is, and nobody waits for it.
#include "core/optimizer.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/reduce.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 32768;  // elements of one partial sum of squares

// What gradients are multiplied with.
ROOTS_DEVICE double factor_of(const double* scale) { return scale ? scale[1] : 1.0; }

// The tensors of one parameter, and of as many as fit a kernel's parameters (4 KiB): one launch for all.
template <class T>
struct Slice {
  T *param, *grad, *state[3];
  int64_t n;
};
constexpr int kSlices = 64;
template <class T>
struct Slices {
  Slice<T> at[kSlices];
  int32_t first[kSlices + 1];  // piece of each
  int32_t count;
};
constexpr int64_t kSlicePiece = 4 * kThreads;  // elements of a piece

// rule(slice, i, factor) for every element of every slice, unless the factor is NaN. A block per piece.
template <class T, class Rule>
__global__ void slices_kernel(Slices<T> slices, Rule rule, const double* scale) {
  const double factor = factor_of(scale);
  if (factor != factor) return;
  for (int32_t piece = static_cast<int32_t>(blockIdx.x); piece < slices.first[slices.count];
       piece += static_cast<int32_t>(gridDim.x)) {
    int low = 0, high = slices.count;  // first[low] <= piece < first[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (slices.first[middle] <= piece)
        low = middle;
      else
        high = middle;
    }
    const Slice<T>& slice = slices.at[low];
    const int64_t from = static_cast<int64_t>(piece - slices.first[low]) * kSlicePiece;
    const int64_t to = from + kSlicePiece < slice.n ? from + kSlicePiece : slice.n;
    for (int64_t i = from + threadIdx.x; i < to; i += kThreads) rule(slice, i, factor);
  }
}

template <class T, class Rule>
Status each_slice(const TensorList& params, const TensorList& grads, const TensorList* const (&states)[3],
                  const OptionalTensor& scale, const Rule& rule) {
  constexpr DType type = sizeof(T) == 4 ? DType::f32 : DType::f64;
  Slices<T> slices{};
  const auto flush = [&]() -> Status {
    const int32_t pieces = slices.first[slices.count];
    if (pieces == 0) return nullptr;
    const Status status = launch(slices_kernel<T, Rule>, grid_for(pieces), kThreads, 0, slices, rule,
                                 data<const double>(scale));
    slices.count = 0;
    return status;
  };
  for (int64_t t = 0; t < params.count; ++t) {
    if (params.items[t].dtype != type) continue;
    if (slices.count == kSlices)
      if (const Status status = flush()) return status;
    Slice<T>& slice = slices.at[slices.count];
    slice.param = data<T>(params.items[t]);
    slice.grad = data<T>(grads.items[t]);
    for (int i = 0; i < 3; ++i)
      slice.state[i] = states[i] && states[i]->count ? data<T>(states[i]->items[t]) : nullptr;
    slice.n = numel(params.items[t]);
    const int64_t next = slices.first[slices.count] + ceil_div(slice.n, kSlicePiece);
    CHECK(next < (int64_t{1} << 31), "too many elements for one step");
    slices.first[++slices.count] = static_cast<int32_t>(next);
  }
  return flush();
}

// rule(i, factor) for every element, unless the factor is NaN.
template <class Rule>
__global__ void step_kernel(Rule rule, const double* scale, int64_t n) {
  const double factor = factor_of(scale);
  if (factor != factor) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    rule(i, factor);
}
template <class Rule>
Status each(const Rule& rule, const OptionalTensor& scale, int64_t n) {
  if (n == 0) return nullptr;
  return launch(step_kernel<Rule>, grid_for(ceil_div(n, kThreads)), kThreads, 0, rule,
                data<const double>(scale), n);
}

template <class T>
struct Sgd {
  T lr, momentum, weight_decay;
  bool nesterov;
  ROOTS_DEVICE void operator()(const Slice<T>& s, int64_t i, double factor) const {
    T* buffer = s.state[0];
    const T p = s.param[i];
    T g = fma_of(weight_decay, p, s.grad[i] * static_cast<T>(factor));
    if (buffer) {
      const T b = fma_of(momentum, buffer[i], g);
      buffer[i] = b;
      g = nesterov ? fma_of(momentum, b, g) : b;
    }
    s.param[i] = p - lr * g;
  }
};

// state: m, v, and with AMSGrad the largest v
template <class T>
struct Adam {
  T decay, l2, b1, b2, c1, c2, eps, rate, correction;
  ROOTS_DEVICE void operator()(const Slice<T>& s, int64_t i, double factor) const {
    T* vmax = s.state[2];
    const T p = s.param[i];
    const T g = fma_of(l2, p, s.grad[i] * static_cast<T>(factor));
    const T mi = fma_of(c1, g, b1 * s.state[0][i]);
    T vi = fma_of(c2 * g, g, b2 * s.state[1][i]);
    s.state[0][i] = mi;
    s.state[1][i] = vi;
    if (vmax) {
      vi = Max::combine(vi, vmax[i]);
      vmax[i] = vi;
    }
    s.param[i] = p * decay - rate * mi / (sqrt_of(vi) / correction + eps);
  }
};

template <class T>
struct Lion {
  T b1, c1, b2, c2, rate, decay;
  ROOTS_DEVICE void operator()(const Slice<T>& s, int64_t i, double factor) const {
    const T g = s.grad[i] * static_cast<T>(factor), mi = s.state[0][i];
    const T u = fma_of(c1, g, b1 * mi);
    s.param[i] = s.param[i] * decay - (u > T(0) ? rate : u < T(0) ? -rate : T(0));
    s.state[0][i] = fma_of(c2, g, b2 * mi);
  }
};

template <class T>
__global__ void squares_kernel(const T* x, int64_t n, double* parts) {
  __shared__ double space[kWarp];
  for (int64_t piece = blockIdx.x; piece * kPiece < n; piece += gridDim.x) {
    const int64_t end = (piece + 1) * kPiece < n ? (piece + 1) * kPiece : n;
    double total = 0;
    for (int64_t i = piece * kPiece + threadIdx.x; i < end; i += blockDim.x) {
      const double value = static_cast<double>(x[i]);
      total += value * value;
    }
    total = block_reduce<Sum>(total, 0.0, space);
    if (threadIdx.x == 0) parts[piece] = total;
  }
}
__global__ void total_kernel(const double* parts, int64_t count, double* out) {
  __shared__ double space[kWarp];
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) total += parts[i];
  total = block_reduce<Sum>(total, 0.0, space);
  if (threadIdx.x == 0) *out = total;
}

// *out = sum of x^2 in double.
template <class T>
Status total_squares(const T* x, int64_t n, double* out) {
  const int64_t pieces = ceil_div(n, kPiece);
  auto* parts = static_cast<double*>(workspace(1, static_cast<size_t>(pieces + 1) * sizeof(double)));
  CHECK(parts != nullptr, kOutOfMemory);
  if (pieces > 0)
    if (const Status status = launch(squares_kernel<T>, grid_for(pieces), kThreads, 0, x, n, parts))
      return status;
  return launch(total_kernel, 1, kThreads, 0, static_cast<const double*>(parts), pieces, out);
}

__global__ void clip_scale_kernel(const double* sums, int64_t n, const void* loss, bool loss_is_double,
                                  double* out, double max_norm, double inverse) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += sums[i];
  const double norm = inverse * ::sqrt(total);
  double f = max_norm > 0 && norm > 0 ? max_norm / (norm + 1e-6) : 1;
  f = (f > 1 ? 1 : f) * inverse;
  bool finite = norm - norm == 0;
  if (loss) {
    const double value = loss_is_double ? *static_cast<const double*>(loss)
                                        : static_cast<double>(*static_cast<const float*>(loss));
    finite = finite && value - value == 0;
  }
  out[0] = norm;
  out[1] = finite ? f : __builtin_nan("");
}

// Adafactor. A block per row, then per column, then the update, its root mean square, and the step.
struct Factored {
  const float* grad;
  float *row, *column, *update;
  int64_t rows, columns;
  double beta2, eps;
};

__global__ void adafactor_rows_kernel(Factored a, const double* scale, int64_t matrices) {
  __shared__ double space[kWarp];
  const double factor = factor_of(scale);
  if (factor != factor) return;
  for (int64_t r = blockIdx.x; r < matrices * a.rows; r += gridDim.x) {
    double total = 0;
    for (int64_t j = threadIdx.x; j < a.columns; j += blockDim.x) {
      const double g = static_cast<double>(a.grad[r * a.columns + j]) * factor;
      total += g * g + a.eps;
    }
    total = block_reduce<Sum>(total, 0.0, space);
    if (threadIdx.x == 0)
      a.row[r] = static_cast<float>(a.beta2 * static_cast<double>(a.row[r]) +
                                    (1 - a.beta2) * total / static_cast<double>(a.columns));
  }
}
__global__ void adafactor_columns_kernel(Factored a, const double* scale, int64_t matrices) {
  const double factor = factor_of(scale);
  if (factor != factor) return;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; c < matrices * a.columns;
       c += step) {
    const float* g0 = a.grad + c / a.columns * a.rows * a.columns + c % a.columns;
    double total = 0;
    for (int64_t i = 0; i < a.rows; ++i) {
      const double g = static_cast<double>(g0[i * a.columns]) * factor;
      total += g * g + a.eps;
    }
    a.column[c] = static_cast<float>(a.beta2 * static_cast<double>(a.column[c]) +
                                     (1 - a.beta2) * total / static_cast<double>(a.rows));
  }
}
// A block per matrix for the mean of its rows, then its elements.
__global__ void adafactor_update_kernel(Factored a, const double* scale, int64_t matrices) {
  __shared__ double space[kWarp];
  const double factor = factor_of(scale);
  if (factor != factor) return;
  for (int64_t r = blockIdx.x; r < matrices * a.rows; r += gridDim.x) {
    const int64_t matrix = r / a.rows;
    double mean = 0;
    for (int64_t i = threadIdx.x; i < a.rows; i += blockDim.x)
      mean += static_cast<double>(a.row[matrix * a.rows + i]);
    mean = block_reduce<Sum>(mean, 0.0, space) / static_cast<double>(a.rows);
    const double ratio = ::sqrt(mean / static_cast<double>(a.row[r]));
    for (int64_t j = threadIdx.x; j < a.columns; j += blockDim.x)
      a.update[r * a.columns + j] =
          static_cast<float>(static_cast<double>(a.grad[r * a.columns + j]) * factor * ratio /
                             ::sqrt(static_cast<double>(a.column[matrix * a.columns + j])));
  }
}
struct AdafactorVector {
  const float* grad;
  float *v, *update;
  float keep, fresh, eps;
  ROOTS_DEVICE void operator()(int64_t i, double factor) const {
    const float g = grad[i] * static_cast<float>(factor);
    v[i] = fma_of(fresh, fma_of(g, g, eps), keep * v[i]);
    update[i] = g / sqrt_of(v[i]);
  }
};
struct AdafactorStep {
  float* param;
  const float* update;
  const double* squares;
  double lr, clip;
  float decay;
  int64_t n;
  ROOTS_DEVICE void operator()(int64_t i, double) const {
    const double rms = ::sqrt(*squares / static_cast<double>(n)) / clip;
    param[i] = param[i] * decay - static_cast<float>(lr / (rms > 1 ? rms : 1)) * update[i];
  }
};

// A block per 256 elements, a thread per element.
struct Adam8 {
  float* param;
  const float* grad;
  int8_t* m;
  uint8_t* v;
  float* scales;
  float b1, b2, eps, rate, correction, decay;
};
__global__ void adamw_8bit_kernel(Adam8 a, const double* scale, int64_t n, int64_t blocks) {
  __shared__ float space[kWarp];
  const double factor = factor_of(scale);
  if (factor != factor) return;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t i = block * kScaleBlock + threadIdx.x;
    const bool inside = i < n;
    float* s = a.scales + 2 * block;
    const float ms = s[0] / (127.0f * 127.0f), vs = s[1] / (255.0f * 255.0f * 255.0f * 255.0f);
    float mi = 0, vi = 0;
    if (inside) {
      const float q = static_cast<float>(a.m[i]), u = static_cast<float>(a.v[i]) * static_cast<float>(a.v[i]);
      const float g = a.grad[i] * static_cast<float>(factor);
      mi = a.b1 * (ms * q * fabsf(q)) + (1 - a.b1) * g;
      vi = a.b2 * (vs * u * u) + (1 - a.b2) * g * g;
    }
    const float top_m = block_reduce<Max>(fabsf(mi), 0.0f, space), top_v = block_reduce<Max>(vi, 0.0f, space);
    if (threadIdx.x == 0) {
      s[0] = top_m;
      s[1] = top_v;
    }
    if (!inside) continue;
    a.param[i] = a.param[i] * a.decay - a.rate * mi / (sqrtf(vi) / a.correction + a.eps);
    const float im = top_m > 0 ? 1.0f / top_m : 0.0f, iv = top_v > 0 ? 1.0f / top_v : 0.0f;
    const int first = static_cast<int>(sqrtf(fabsf(mi) * im) * 127.0f + 0.5f);
    const int second = static_cast<int>(sqrtf(sqrtf(vi * iv)) * 255.0f + 0.5f);
    a.m[i] = static_cast<int8_t>(mi < 0 ? -first : first);
    a.v[i] = static_cast<uint8_t>(second == 0 && vi > 0 ? 1 : second);
  }
}

}  // namespace

Status sum_squares(const Context&, TensorList xs, Tensor out, int64_t first) {
  if (const Status status = check_sum_squares(xs, out, first)) return status;
  for (int64_t t = 0; t < xs.count; ++t) {
    const Tensor& x = xs.items[t];
    const Status status = dispatch_float(x.dtype, [&](auto type) {
      using T = decltype(type);
      return total_squares(data<const T>(x), numel(x), data<double>(out) + first + t);
    });
    if (status) return status;
  }
  return nullptr;
}

Status clip_scale(const Context&, Tensor sums, OptionalTensor loss, Tensor out, double max_norm,
                  double inverse) {
  if (const Status status = check_clip_scale(sums, loss, out)) return status;
  return launch(clip_scale_kernel, 1, 1, 0, data<const double>(sums), numel(sums),
                static_cast<const void*>(loss.data), loss.dtype == DType::f64, data<double>(out), max_norm,
                inverse);
}

Status sgd(const Context&, TensorList params, TensorList grads, TensorList buffers, OptionalTensor scale,
           double lr, double momentum, double weight_decay, int64_t nesterov) {
  if (const Status status = check_lists(params, {&grads}, {&buffers}, scale)) return status;
  const auto step = [&](auto type) {
    using T = decltype(type);
    return each_slice<T>(
        params, grads, {&buffers, nullptr, nullptr}, scale,
        Sgd<T>{static_cast<T>(lr), static_cast<T>(momentum), static_cast<T>(weight_decay), nesterov != 0});
  };
  if (const Status status = step(float{})) return status;
  return step(double{});
}

Status adam(const Context&, TensorList params, TensorList grads, TensorList m, TensorList v, TensorList vmax,
            OptionalTensor scale, double lr, double beta1, double beta2, double eps, double weight_decay,
            int64_t decoupled, int64_t step) {
  if (const Status status = check_lists(params, {&grads, &m, &v}, {&vmax}, scale)) return status;
  CHECK(step >= 1, "steps count from 1");
  const auto update = [&](auto type) {
    using T = decltype(type);
    return each_slice<T>(params, grads, {&m, &v, &vmax}, scale,
                         Adam<T>{static_cast<T>(decoupled ? 1 - lr * weight_decay : 1),
                                 static_cast<T>(decoupled ? 0 : weight_decay), static_cast<T>(beta1),
                                 static_cast<T>(beta2), static_cast<T>(1 - beta1), static_cast<T>(1 - beta2),
                                 static_cast<T>(eps), static_cast<T>(lr / (1 - power(beta1, step))),
                                 static_cast<T>(::sqrt(1 - power(beta2, step)))});
  };
  if (const Status status = update(float{})) return status;
  return update(double{});
}

Status lion(const Context&, TensorList params, TensorList grads, TensorList m, OptionalTensor scale,
            double lr, double beta1, double beta2, double weight_decay) {
  if (const Status status = check_lists(params, {&grads, &m}, {nullptr}, scale)) return status;
  const auto step = [&](auto type) {
    using T = decltype(type);
    return each_slice<T>(
        params, grads, {&m, nullptr, nullptr}, scale,
        Lion<T>{static_cast<T>(beta1), static_cast<T>(1 - beta1), static_cast<T>(beta2),
                static_cast<T>(1 - beta2), static_cast<T>(lr), static_cast<T>(1 - lr * weight_decay)});
  };
  if (const Status status = step(float{})) return status;
  return step(double{});
}

Status adafactor(const Context&, Tensor param, Tensor grad, Tensor row, OptionalTensor column,
                 OptionalTensor scale, double lr, double beta2, double eps, double clip,
                 double weight_decay) {
  if (const Status status = check_adafactor(param, grad, row, column, scale)) return status;
  const int64_t n = numel(param);
  if (n == 0) return nullptr;
  auto* update = static_cast<float*>(workspace(0, static_cast<size_t>(n) * sizeof(float)));
  auto* squares = static_cast<double*>(workspace(2, sizeof(double)));
  CHECK(update && squares, kOutOfMemory);
  const auto* factor = data<const double>(scale);
  if (column.data) {
    const int64_t rows = param.shape[param.rank - 2], columns = param.shape[param.rank - 1],
                  matrices = n / (rows * columns);
    const Factored a{
        data<const float>(grad), data<float>(row), data<float>(column), update, rows, columns, beta2, eps};
    Status status =
        launch(adafactor_rows_kernel, grid_for(matrices * rows), kThreads, 0, a, factor, matrices);
    if (!status)
      status = launch(adafactor_columns_kernel, grid_for(ceil_div(matrices * columns, kThreads)), kThreads, 0,
                      a, factor, matrices);
    if (!status)
      status = launch(adafactor_update_kernel, grid_for(matrices * rows), kThreads, 0, a, factor, matrices);
    if (status) return status;
  } else {
    const AdafactorVector a{
        data<const float>(grad),       data<float>(row),       update, static_cast<float>(beta2),
        static_cast<float>(1 - beta2), static_cast<float>(eps)};
    if (const Status status = each(a, scale, n)) return status;
  }
  if (const Status status = total_squares(static_cast<const float*>(update), n, squares)) return status;
  return each(AdafactorStep{data<float>(param), update, squares, lr, clip,
                            static_cast<float>(1 - lr * weight_decay), n},
              scale, n);
}

Status adamw_8bit(const Context&, Tensor param, Tensor grad, Tensor m, Tensor v, Tensor scales,
                  OptionalTensor scale, double lr, double beta1, double beta2, double eps,
                  double weight_decay, int64_t step) {
  if (const Status status = check_adamw_8bit(param, grad, m, v, scales, scale, step)) return status;
  const int64_t n = numel(param), blocks = ceil_div(n, kScaleBlock);
  if (n == 0) return nullptr;
  const Adam8 a{data<float>(param),
                data<const float>(grad),
                data<int8_t>(m),
                data<uint8_t>(v),
                data<float>(scales),
                static_cast<float>(beta1),
                static_cast<float>(beta2),
                static_cast<float>(eps),
                static_cast<float>(lr / (1 - power(beta1, step))),
                static_cast<float>(::sqrt(1 - power(beta2, step))),
                static_cast<float>(1 - lr * weight_decay)};
  return launch(adamw_8bit_kernel, grid_for(blocks), kScaleBlock, 0, a, data<const double>(scale), n, blocks);
}

}  // namespace cuda
}  // namespace roots
