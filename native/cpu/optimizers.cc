// One optimizer step in place, a kernel per rule, and the global gradient norm they share. Rules that are the
// same for every element take all parameters of a group at once: models have many small ones, and a call for
// each would leave most threads without work.
//
// scale (2) = { norm, factor } comes from clip_scale: every gradient is multiplied by the factor while it is
// read. A factor that is NaN says that a gradient or the loss is not finite: then nothing is changed, not
// even the moments.
#include "core/optimizer.h"
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

ROOTS_INLINE double root(double x) { return sqrt(Vec<double>(x)).v[0]; }

// What gradients are multiplied with; NaN: leave everything as it is.
ROOTS_INLINE double factor(const OptionalTensor& scale) { return scale.data ? data<double>(scale)[1] : 1.0; }

template <class T>
ROOTS_INLINE T* data_of(const TensorList& list, int64_t t) {
  return list.count ? data<T>(list.items[t]) : nullptr;
}

ROOTS_INLINE int64_t chunks_of(int64_t n) { return (n + kChunkElements - 1) / kChunkElements; }

// body(t, from, to) for pieces of all tensors of type T.
template <class T, class Body>
ROOTS_INLINE void each_piece(const Context& context, const TensorList& list, const Body& body) {
  constexpr DType type = sizeof(T) == 4 ? DType::f32 : DType::f64;
  const auto chunks = [&](int64_t t) {
    return list.items[t].dtype == type ? chunks_of(numel(list.items[t])) : 0;
  };
  int64_t total = 0;
  for (int64_t t = 0; t < list.count; ++t) total += chunks(t);
  context.parallel_for(total, [&](int64_t chunk) {
    int64_t t = 0;
    for (int64_t own; chunk >= (own = chunks(t)); ++t) chunk -= own;
    const int64_t n = numel(list.items[t]), from = chunk * kChunkElements;
    body(t, from, n - from < kChunkElements ? n : from + kChunkElements);
  });
}

// body(i, k): the k <= width elements from i on.
template <class T, class Body>
ROOTS_INLINE void each_vector(const Context& context, int64_t n, const Body& body) {
  constexpr int64_t W = Vec<T>::kWidth;
  context.parallel_for((n + kChunkElements - 1) / kChunkElements, [&](int64_t chunk) {
    const int64_t end = (chunk + 1) * kChunkElements < n ? (chunk + 1) * kChunkElements : n;
    for (int64_t i = chunk * kChunkElements; i < end; i += W) body(i, end - i < W ? end - i : W);
  });
}

template <class T>
ROOTS_INLINE Vec<T> load(const Tensor& t, int64_t i, int64_t k) {
  return Vec<T>::load_partial(data<T>(t) + i, k);
}
template <class T>
ROOTS_INLINE void store(const Tensor& t, int64_t i, int64_t k, Vec<T> x) {
  x.store_partial(data<T>(t) + i, k);
}

struct AdamStep {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;
  int64_t step;
};

template <class T>
void adam_typed(const Context& context, const TensorList& params, const TensorList& grads,
                const TensorList& ms, const TensorList& vs, const TensorList& vmaxes, double scale,
                const AdamStep& s) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const V decay(static_cast<T>(s.decoupled ? 1 - s.lr * s.weight_decay : 1)),
      l2(static_cast<T>(s.decoupled ? 0 : s.weight_decay));
  const V b1(static_cast<T>(s.beta1)), b2(static_cast<T>(s.beta2)), f(static_cast<T>(scale));
  const V c1(static_cast<T>(1 - s.beta1)), c2(static_cast<T>(1 - s.beta2)), e(static_cast<T>(s.eps));
  // the second correction is a factor: a division less, where arithmetic and not memory is the limit
  const V rate(static_cast<T>(s.lr / (1 - power(s.beta1, s.step)))),
      correction(static_cast<T>(1 / root(1 - power(s.beta2, s.step))));
  each_piece<T>(context, params, [&](int64_t t, int64_t from, int64_t to) {
    T *param = data_of<T>(params, t), *grad = data_of<T>(grads, t), *m = data_of<T>(ms, t),
      *v = data_of<T>(vs, t), *vmax = data_of<T>(vmaxes, t);
    for (int64_t i = from; i < to; i += W) {
      const int64_t k = to - i < W ? to - i : W;
      const V p = V::load_partial(param + i, k);
      const V g = fma(l2, p, V::load_partial(grad + i, k) * f);
      const V mi = fma(c1, g, b1 * V::load_partial(m + i, k));
      V vi = fma(c2 * g, g, b2 * V::load_partial(v + i, k));
      mi.store_partial(m + i, k);
      vi.store_partial(v + i, k);
      if (vmax) {
        vi = max(vi, V::load_partial(vmax + i, k));
        vi.store_partial(vmax + i, k);
      }
      (p * decay - rate * mi / fma(sqrt(vi), correction, e)).store_partial(param + i, k);
    }
  });
}

struct SgdStep {
  double lr, momentum, weight_decay;
  bool nesterov;
};

template <class T>
void sgd_typed(const Context& context, const TensorList& params, const TensorList& grads,
               const TensorList& buffers, double scale, const SgdStep& s) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const V rate(static_cast<T>(s.lr)), mu(static_cast<T>(s.momentum)), l2(static_cast<T>(s.weight_decay)),
      f(static_cast<T>(scale));
  each_piece<T>(context, params, [&](int64_t t, int64_t from, int64_t to) {
    T *param = data_of<T>(params, t), *grad = data_of<T>(grads, t), *buffer = data_of<T>(buffers, t);
    for (int64_t i = from; i < to; i += W) {
      const int64_t k = to - i < W ? to - i : W;
      const V p = V::load_partial(param + i, k);
      V g = fma(l2, p, V::load_partial(grad + i, k) * f);
      if (buffer) {
        const V b = fma(mu, V::load_partial(buffer + i, k), g);
        b.store_partial(buffer + i, k);
        g = s.nesterov ? fma(mu, b, g) : b;
      }
      (p - rate * g).store_partial(param + i, k);
    }
  });
}

struct LionStep {
  double lr, beta1, beta2, weight_decay;
};

template <class T>
void lion_typed(const Context& context, const TensorList& params, const TensorList& grads,
                const TensorList& ms, double scale, const LionStep& s) {
  using V = Vec<T>;
  constexpr int64_t W = V::kWidth;
  const V b1(static_cast<T>(s.beta1)), c1(static_cast<T>(1 - s.beta1)), b2(static_cast<T>(s.beta2)),
      c2(static_cast<T>(1 - s.beta2)), rate(static_cast<T>(s.lr)),
      decay(static_cast<T>(1 - s.lr * s.weight_decay)), f(static_cast<T>(scale)), zero(T(0));
  each_piece<T>(context, params, [&](int64_t t, int64_t from, int64_t to) {
    T *param = data_of<T>(params, t), *grad = data_of<T>(grads, t), *m = data_of<T>(ms, t);
    for (int64_t i = from; i < to; i += W) {
      const int64_t k = to - i < W ? to - i : W;
      const V g = V::load_partial(grad + i, k) * f, mi = V::load_partial(m + i, k);
      const V u = fma(c1, g, b1 * mi);
      const V sign = select<T>(u > zero, rate, select<T>(u < zero, -rate, zero));
      (V::load_partial(param + i, k) * decay - sign).store_partial(param + i, k);
      fma(c2, g, b2 * mi).store_partial(m + i, k);
    }
  });
}

template <class T>
double squares(const T* p, int64_t from, int64_t to) {
  using V = Vec<double>;
  constexpr int64_t W = V::kWidth;
  typedef T Narrow __attribute__((vector_size(W * sizeof(T))));
  V sum[4] = {};  // side by side, or each addition would wait for the one before
  int64_t i = from;
  for (; i + 4 * W <= to; i += 4 * W)
    unrolled<4>([&](auto j) ROOTS_INLINED {
      Narrow x;
      __builtin_memcpy(&x, p + i + j * W, sizeof x);
      const V value(__builtin_convertvector(x, V::Raw));
      sum[j] = fma(value, value, sum[j]);
    });
  double rest = 0;
  for (; i < to; ++i) rest += static_cast<double>(p[i]) * static_cast<double>(p[i]);
  return horizontal_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest;
}

// Sum of squares in double: partial sums per chunk, added in order. False: out of memory.
template <class T>
bool total_squares(const Context& context, const T* x, int64_t n, double* total) {
  const int64_t chunks = (n + kChunkElements - 1) / kChunkElements;
  auto* partial = static_cast<double*>(
      context.workspace(context.host, 1, static_cast<size_t>(chunks + 1) * sizeof(double)));
  if (!partial) return false;
  context.parallel_for(chunks, [&](int64_t chunk) {
    const int64_t from = chunk * kChunkElements, to = from + kChunkElements < n ? from + kChunkElements : n;
    partial[chunk] = squares(x, from, to);
  });
  *total = 0;
  for (int64_t i = 0; i < chunks; ++i) *total += partial[i];
  return true;
}

// Adafactor for one (rows, columns) matrix; see the kernel below.
template <class T>
void adafactor_matrix(const Context& context, const T* grad, T* row, T* column, T* update, int64_t rows,
                      int64_t columns, double scale, double beta2, double eps) {
  const double keep = beta2, fresh = 1 - beta2;
  context.parallel_for((rows + 15) / 16, [&](int64_t chunk) {
    for (int64_t i = chunk * 16; i < rows && i < chunk * 16 + 16; ++i) {
      double total = 0;
      for (int64_t j = 0; j < columns; ++j) {
        const double g = static_cast<double>(grad[i * columns + j]) * scale;
        total += g * g + eps;
      }
      row[i] =
          static_cast<T>(keep * static_cast<double>(row[i]) + fresh * total / static_cast<double>(columns));
    }
  });
  context.parallel_for((columns + 63) / 64, [&](int64_t chunk) {
    const int64_t from = chunk * 64, width = columns - from < 64 ? columns - from : 64;
    double total[64] = {};
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) {
        const double g = static_cast<double>(grad[i * columns + from + j]) * scale;
        total[j] += g * g + eps;
      }
    for (int64_t j = 0; j < width; ++j)
      column[from + j] = static_cast<T>(keep * static_cast<double>(column[from + j]) +
                                        fresh * total[j] / static_cast<double>(rows));
  });
  double mean = 0;
  for (int64_t i = 0; i < rows; ++i) mean += static_cast<double>(row[i]);
  mean /= static_cast<double>(rows);
  context.parallel_for((rows + 15) / 16, [&](int64_t chunk) {
    for (int64_t i = chunk * 16; i < rows && i < chunk * 16 + 16; ++i) {
      const double r = root(mean / static_cast<double>(row[i]));
      for (int64_t j = 0; j < columns; ++j)
        update[i * columns + j] = static_cast<T>(static_cast<double>(grad[i * columns + j]) * scale * r /
                                                 root(static_cast<double>(column[j])));
    }
  });
}

}  // namespace

// out[first + i] = sum of xs[i]^2 in double: partial sums per piece, added in order.
Status sum_squares(const Context& context, TensorList xs, Tensor out, int64_t first) {
  if (const Status status = check_sum_squares(xs, out, first)) return status;
  int64_t pieces = 0;
  for (int64_t t = 0; t < xs.count; ++t) pieces += chunks_of(numel(xs.items[t]));
  auto* partial = static_cast<double*>(
      context.workspace(context.host, 1, static_cast<size_t>(pieces + 1) * sizeof(double)));
  CHECK(partial != nullptr, "out of memory");
  const auto add = [&](auto zero) {
    using T = decltype(zero);
    each_piece<T>(context, xs, [&](int64_t t, int64_t from, int64_t to) {
      int64_t before = 0;
      for (int64_t i = 0; i < t; ++i) before += chunks_of(numel(xs.items[i]));
      partial[before + from / kChunkElements] = squares(data<T>(xs.items[t]), from, to);
    });
  };
  add(float{});
  add(double{});
  const double* own = partial;
  for (int64_t t = 0; t < xs.count; ++t) {
    double total = 0;
    for (int64_t i = 0; i < chunks_of(numel(xs.items[t])); ++i) total += *own++;
    data<double>(out)[first + t] = total;
  }
  return nullptr;
}

// out = { norm, factor } with norm = inverse * sqrt(sum of squares) and factor = inverse * min(1, max_norm /
// (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_; max_norm 0 does not clip. factor is NaN when the norm or
// the loss is not finite. inverse undoes a loss scale or averages accumulated gradients.
Status clip_scale(const Context&, Tensor sums, OptionalTensor loss, Tensor out, double max_norm,
                  double inverse) {
  if (const Status status = check_clip_scale(sums, loss, out)) return status;
  double total = 0;
  const int64_t n = numel(sums);
  for (int64_t i = 0; i < n; ++i) total += data<double>(sums)[i];
  const double norm = inverse * root(total);
  double f = max_norm > 0 && norm > 0 ? max_norm / (norm + 1e-6) : 1;
  f = (f > 1 ? 1 : f) * inverse;
  bool finite = norm - norm == 0;
  if (loss.data) {
    const double value =
        loss.dtype == DType::f32 ? static_cast<double>(*data<float>(loss)) : *data<double>(loss);
    finite = finite && value - value == 0;
  }
  data<double>(out)[0] = norm;
  data<double>(out)[1] = finite ? f : __builtin_nan("");
  return nullptr;
}

// Stochastic gradient descent, torch.optim.SGD: g += wd p;  b = mu b + g;
//   p -= lr (nesterov ? g + mu b : b)
// buffers: empty without momentum.
Status sgd(const Context& context, TensorList params, TensorList grads, TensorList buffers,
           OptionalTensor scale, double lr, double momentum, double weight_decay, int64_t nesterov) {
  if (const Status status = check_lists(params, {&grads}, {&buffers}, scale)) return status;
  const double f = factor(scale);
  if (f != f) return nullptr;
  const SgdStep s{lr, momentum, weight_decay, nesterov != 0};
  sgd_typed<float>(context, params, grads, buffers, f, s);
  sgd_typed<double>(context, params, grads, buffers, f, s);
  return nullptr;
}

// Adam (Kingma & Ba, arXiv 1412.6980) and, decoupled, AdamW (Loshchilov & Hutter, arXiv 1711.05101); order of
// operations as in torch.optim:  m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//   p = p - lr wd p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps);   vmax: AMSGrad
Status adam(const Context& context, TensorList params, TensorList grads, TensorList m, TensorList v,
            TensorList vmax, OptionalTensor scale, double lr, double beta1, double beta2, double eps,
            double weight_decay, int64_t decoupled, int64_t step) {
  if (const Status status = check_lists(params, {&grads, &m, &v}, {&vmax}, scale)) return status;
  CHECK(step >= 1, "steps count from 1");
  const double f = factor(scale);
  if (f != f) return nullptr;
  const AdamStep s{lr, beta1, beta2, eps, weight_decay, decoupled != 0, step};
  adam_typed<float>(context, params, grads, m, v, vmax, f, s);
  adam_typed<double>(context, params, grads, m, v, vmax, f, s);
  return nullptr;
}

// Lion (Chen et al., arXiv 2302.06675): p -= lr (sign(b1 m + (1 - b1) g) + wd p);  m = b2 m + (1 - b2) g
Status lion(const Context& context, TensorList params, TensorList grads, TensorList m, OptionalTensor scale,
            double lr, double beta1, double beta2, double weight_decay) {
  if (const Status status = check_lists(params, {&grads, &m}, {nullptr}, scale)) return status;
  const double f = factor(scale);
  if (f != f) return nullptr;
  const LionStep s{lr, beta1, beta2, weight_decay};
  lion_typed<float>(context, params, grads, m, f, s);
  lion_typed<double>(context, params, grads, m, f, s);
  return nullptr;
}

// Adafactor (Shazeer & Stern, arXiv 1804.04235) without a first moment, as transformers.Adafactor with a
// given lr:
//   matrices keep means of g^2 + eps per row and per column, v = row column / mean(row); vectors keep v.
//   u = g / sqrt(v);  u /= max(1, rms(u) / clip);  p = p - wd lr p - lr u
// row: (…, rows) and column: (…, columns) for matrices; for vectors row is v and column is absent.
Status adafactor(const Context& context, Tensor param, Tensor grad, Tensor row, OptionalTensor column,
                 OptionalTensor scale, double lr, double beta2, double eps, double clip,
                 double weight_decay) {
  if (const Status status = check_adafactor(param, grad, row, column, scale)) return status;
  const double f = factor(scale);
  if (f != f) return nullptr;
  const int64_t n = numel(param);
  if (n == 0) return nullptr;
  float* update =
      static_cast<float*>(context.workspace(context.host, 0, static_cast<size_t>(n) * sizeof(float)));
  CHECK(update != nullptr, "out of memory");
  if (column.data) {
    const int64_t rows = param.shape[param.rank - 2], columns = param.shape[param.rank - 1],
                  matrices = n / (rows * columns);
    for (int64_t i = 0; i < matrices; ++i)
      adafactor_matrix<float>(context, data<float>(grad) + i * rows * columns, data<float>(row) + i * rows,
                              data<float>(column) + i * columns, update + i * rows * columns, rows, columns,
                              f, beta2, eps);
  } else {
    using V = Vec<float>;
    const V keep(static_cast<float>(beta2)), fresh(static_cast<float>(1 - beta2)), e(static_cast<float>(eps)),
        fs(static_cast<float>(f));
    each_vector<float>(context, n, [&](int64_t i, int64_t k) {
      const V g = load<float>(grad, i, k) * fs;
      const V v = fma(fresh, fma(g, g, e), keep * load<float>(row, i, k));
      store<float>(row, i, k, v);
      (g / sqrt(v)).store_partial(update + i, k);
    });
  }
  double total = 0;
  CHECK(total_squares(context, update, n, &total), "out of memory");
  const double rms = root(total / static_cast<double>(n)) / clip;
  const Vec<float> rate(static_cast<float>(lr / (rms > 1 ? rms : 1))),
      decay(static_cast<float>(1 - lr * weight_decay));
  each_vector<float>(context, n, [&](int64_t i, int64_t k) {
    store<float>(param, i, k,
                 load<float>(param, i, k) * decay - rate * Vec<float>::load_partial(update + i, k));
  });
  return nullptr;
}

// AdamW with both moments in 8 bits, a scale per 256 elements (idea: Dettmers et al., arXiv 2110.02861; the
// code here is a power law instead of a table): m = s (q / 127) |q / 127|,  v = s (q / 255)^4. Small values
// keep their relative precision, and a second moment above zero never rounds to zero.
Status adamw_8bit(const Context& context, Tensor param, Tensor grad, Tensor m, Tensor v, Tensor scales,
                  OptionalTensor scale, double lr, double beta1, double beta2, double eps,
                  double weight_decay, int64_t step) {
  if (const Status status = check_adamw_8bit(param, grad, m, v, scales, scale, step)) return status;
  const int64_t n = numel(param), blocks = (n + kScaleBlock - 1) / kScaleBlock;
  const double f = factor(scale);
  if (f != f) return nullptr;
  using V = Vec<float>;
  const float b1 = static_cast<float>(beta1), b2 = static_cast<float>(beta2), fs = static_cast<float>(f);
  const V rate(static_cast<float>(lr / (1 - power(beta1, step)))),
      correction(static_cast<float>(root(1 - power(beta2, step)))), e(static_cast<float>(eps)),
      decay(static_cast<float>(1 - lr * weight_decay));
  context.parallel_for((blocks + 63) / 64, [&](int64_t chunk) {
    for (int64_t block = chunk * 64; block < blocks && block < chunk * 64 + 64; ++block) {
      const int64_t from = block * kScaleBlock, count = n - from < kScaleBlock ? n - from : kScaleBlock;
      float mi[kScaleBlock] = {}, vi[kScaleBlock] = {};
      float* s = data<float>(scales) + 2 * block;
      int8_t* mq = data<int8_t>(m) + from;
      uint8_t* vq = data<uint8_t>(v) + from;
      const float* g0 = data<float>(grad) + from;
      const float ms = s[0] / (127.0f * 127.0f), vs = s[1] / (255.0f * 255.0f * 255.0f * 255.0f);
      float top_m = 0, top_v = 0;
      for (int64_t i = 0; i < count; ++i) {
        const float q = static_cast<float>(mq[i]), u = static_cast<float>(vq[i]) * static_cast<float>(vq[i]),
                    g = g0[i] * fs;
        mi[i] = b1 * (ms * q * (q < 0 ? -q : q)) + (1 - b1) * g;
        vi[i] = b2 * (vs * u * u) + (1 - b2) * g * g;
        const float a = mi[i] < 0 ? -mi[i] : mi[i];
        top_m = a > top_m ? a : top_m;
        top_v = vi[i] > top_v ? vi[i] : top_v;
      }
      s[0] = top_m;
      s[1] = top_v;
      const V im(top_m > 0 ? 1.0f / top_m : 0.0f), iv(top_v > 0 ? 1.0f / top_v : 0.0f);
      float* p = data<float>(param) + from;
      for (int64_t i = 0; i < count; i += V::kWidth) {
        const int64_t k = count - i < V::kWidth ? count - i : V::kWidth;
        const V mv = V::load(mi + i), vv = V::load(vi + i);
        (V::load_partial(p + i, k) * decay - rate * mv / (sqrt(vv) / correction + e)).store_partial(p + i, k);
        float cm[V::kWidth], cv[V::kWidth];
        (sqrt(abs(mv) * im) * V(127.0f)).store(cm);
        (sqrt(sqrt(vv * iv)) * V(255.0f)).store(cv);
        for (int64_t j = 0; j < k; ++j) {
          const int code = static_cast<int>(cm[j] + 0.5f);
          mq[i + j] = static_cast<int8_t>(mi[i + j] < 0 ? -code : code);
          const int second = static_cast<int>(cv[j] + 0.5f);
          vq[i + j] = static_cast<uint8_t>(second == 0 && vi[i + j] > 0 ? 1 : second);
        }
      }
    }
  });
  return nullptr;
}

}  // namespace ROOTS_ISA
}  // namespace roots
