// The element-wise half of LSTM and GRU cells, fused, forward and backward; formulas in
// native/cpu/recurrent.cc. B batch, H units. Gate order as in PyTorch: i, f, g, o and r, z, n.
#include "core/elementwise.h"
#include "cuda/declare.cuh"
#include "cuda/launch.cuh"
#include "cuda/number.cuh"
#include "cuda/view.cuh"

namespace roots {
namespace cuda {
namespace {

template <class T>
ROOTS_DEVICE T sigmoid(T x) {
  return formula::sigmoid_formula::forward(Number<T>(x)).v;
}
template <class T>
ROOTS_DEVICE T tanh_of(T x) {
  return formula::tanh_formula::forward(Number<T>(x)).v;
}

// f(b, j) for every unit of every row.
template <class F>
__global__ void each_kernel(F f, int64_t rows, int64_t units) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * units; i += step)
    f(i / units, i % units);
}
template <class F>
Status each(const F& f, int64_t rows, int64_t units) {
  if (rows * units == 0) return nullptr;
  return launch(each_kernel<F>, grid_for(ceil_div(rows * units, 256)), 256, 0, f, rows, units);
}

template <class T>
struct LstmForward {
  const T *pre, *c;
  T *gates, *c_out, *h_out;
  int64_t H;
  ROOTS_DEVICE void operator()(int64_t b, int64_t j) const {
    const T* p = pre + b * 4 * H + j;
    const T i = sigmoid(p[0]), f = sigmoid(p[H]), g = tanh_of(p[2 * H]), o = sigmoid(p[3 * H]);
    const T next = fma_of(f, c[b * H + j], i * g);
    T* a = gates + b * 4 * H + j;
    a[0] = i;
    a[H] = f;
    a[2 * H] = g;
    a[3 * H] = o;
    c_out[b * H + j] = next;
    h_out[b * H + j] = o * tanh_of(next);
  }
};
template <class T>
struct LstmBackward {
  const T *dh, *dc_out, *gates, *c, *c_out;
  T *dpre, *dc;
  int64_t H;
  ROOTS_DEVICE void operator()(int64_t b, int64_t j) const {
    const T* a = gates + b * 4 * H + j;
    const T i = a[0], f = a[H], g = a[2 * H], o = a[3 * H];
    const T t = tanh_of(c_out[b * H + j]), dy = dh[b * H + j];
    const T dcell = fma_of(dy * o, T(1) - t * t, dc_out[b * H + j]);
    T* d = dpre + b * 4 * H + j;
    d[0] = dcell * g * i * (T(1) - i);
    d[H] = dcell * c[b * H + j] * f * (T(1) - f);
    d[2 * H] = dcell * i * (T(1) - g * g);
    d[3 * H] = dy * t * o * (T(1) - o);
    dc[b * H + j] = dcell * f;
  }
};
template <class T>
struct GruForward {
  const T *x, *hidden, *h;
  T *gates, *h_out;
  int64_t H;
  ROOTS_DEVICE void operator()(int64_t b, int64_t j) const {
    const T *p = x + b * 3 * H + j, *q = hidden + b * 3 * H + j;
    const T r = sigmoid(p[0] + q[0]), z = sigmoid(p[H] + q[H]), hn = q[2 * H];
    const T n = tanh_of(fma_of(r, hn, p[2 * H]));
    T* a = gates + b * 4 * H + j;
    a[0] = r;
    a[H] = z;
    a[2 * H] = n;
    a[3 * H] = hn;
    h_out[b * H + j] = fma_of(z, h[b * H + j] - n, n);
  }
};
template <class T>
struct GruBackward {
  const T *dy, *gates, *h;
  T *dx, *dhidden, *dh;
  int64_t H;
  ROOTS_DEVICE void operator()(int64_t b, int64_t j) const {
    const T* a = gates + b * 4 * H + j;
    const T r = a[0], z = a[H], n = a[2 * H], hn = a[3 * H], d = dy[b * H + j];
    const T dn = d * (T(1) - z) * (T(1) - n * n), dr = dn * hn * r * (T(1) - r);
    const T dz = d * (h[b * H + j] - n) * z * (T(1) - z);
    T *gx = dx + b * 3 * H + j, *gh = dhidden + b * 3 * H + j;
    gx[0] = gh[0] = dr;
    gx[H] = gh[H] = dz;
    gx[2 * H] = dn;
    gh[2 * H] = dn * r;
    dh[b * H + j] = d * z;
  }
};

bool matrix(const Tensor& t, int64_t rows, int64_t columns, DType dtype) {
  return t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns && t.dtype == dtype && is_contiguous(t);
}

}  // namespace

Status lstm_cell_forward(const Context&, Tensor pre, Tensor c, Tensor gates, Tensor c_out, Tensor h_out) {
  const int64_t B = c.shape[0], H = c.shape[1];
  CHECK(c.rank == 2 && matrix(c, B, H, pre.dtype) && matrix(pre, B, 4 * H, pre.dtype) &&
            matrix(gates, B, 4 * H, pre.dtype) && matrix(c_out, B, H, pre.dtype) &&
            matrix(h_out, B, H, pre.dtype),
        "shapes differ");
  return dispatch_float(pre.dtype, [&](auto t) {
    using T = decltype(t);
    return each(LstmForward<T>{data<T>(pre), data<T>(c), data<T>(gates), data<T>(c_out), data<T>(h_out), H},
                B, H);
  });
}

Status lstm_cell_backward(const Context&, Tensor dh, Tensor dc_out, Tensor gates, Tensor c, Tensor c_out,
                          Tensor dpre, Tensor dc) {
  const int64_t B = c.shape[0], H = c.shape[1];
  CHECK(c.rank == 2 && matrix(c, B, H, dh.dtype) && matrix(dh, B, H, dh.dtype) &&
            matrix(dc_out, B, H, dh.dtype) && matrix(gates, B, 4 * H, dh.dtype) &&
            matrix(c_out, B, H, dh.dtype) && matrix(dpre, B, 4 * H, dh.dtype) && matrix(dc, B, H, dh.dtype),
        "shapes differ");
  return dispatch_float(dh.dtype, [&](auto t) {
    using T = decltype(t);
    return each(LstmBackward<T>{data<T>(dh), data<T>(dc_out), data<T>(gates), data<T>(c), data<T>(c_out),
                                data<T>(dpre), data<T>(dc), H},
                B, H);
  });
}

Status gru_cell_forward(const Context&, Tensor x, Tensor hidden, Tensor h, Tensor gates, Tensor h_out) {
  const int64_t B = h.shape[0], H = h.shape[1];
  CHECK(h.rank == 2 && matrix(h, B, H, x.dtype) && matrix(x, B, 3 * H, x.dtype) &&
            matrix(hidden, B, 3 * H, x.dtype) && matrix(gates, B, 4 * H, x.dtype) &&
            matrix(h_out, B, H, x.dtype),
        "shapes differ");
  return dispatch_float(x.dtype, [&](auto t) {
    using T = decltype(t);
    return each(GruForward<T>{data<T>(x), data<T>(hidden), data<T>(h), data<T>(gates), data<T>(h_out), H}, B,
                H);
  });
}

Status gru_cell_backward(const Context&, Tensor dy, Tensor gates, Tensor h, Tensor dx, Tensor dhidden,
                         Tensor dh) {
  const int64_t B = h.shape[0], H = h.shape[1];
  CHECK(h.rank == 2 && matrix(h, B, H, dy.dtype) && matrix(dy, B, H, dy.dtype) &&
            matrix(gates, B, 4 * H, dy.dtype) && matrix(dx, B, 3 * H, dy.dtype) &&
            matrix(dhidden, B, 3 * H, dy.dtype) && matrix(dh, B, H, dy.dtype),
        "shapes differ");
  return dispatch_float(dy.dtype, [&](auto t) {
    using T = decltype(t);
    return each(GruBackward<T>{data<T>(dy), data<T>(gates), data<T>(h), data<T>(dx), data<T>(dhidden),
                               data<T>(dh), H},
                B, H);
  });
}

}  // namespace cuda
}  // namespace roots
