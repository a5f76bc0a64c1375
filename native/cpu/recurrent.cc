// The element-wise half of LSTM and GRU cells, fused, forward and backward. The matrix products before them
// are linear(). B batch, H units. Gate order as in PyTorch: i, f, g, o and r, z, n.
#include "core/elementwise.h"
#include "cpu/declare.h"
#include "cpu/layout.h"
#include "cpu/simd.h"

namespace roots {
namespace ROOTS_ISA {
namespace {

template <class V>
ROOTS_INLINE V sigmoid(V x) {
  return formula::sigmoid_formula::forward(x);
}
template <class V>
ROOTS_INLINE V tanh(V x) {
  return formula::tanh_formula::forward(x);
}

bool matrix(const Tensor& t, int64_t rows, int64_t columns, DType dtype) {
  return t.rank == 2 && t.shape[0] == rows && t.shape[1] == columns && t.dtype == dtype && is_contiguous(t);
}

// body(row, j, n): n <= width units of one row from j on.
template <class T, class Body>
ROOTS_INLINE void each(const Context& context, int64_t rows, int64_t units, const Body& body) {
  const int64_t per_chunk = units > 0 ? (kChunkElements / 8) / units + 1 : 1;
  context.parallel_for((rows + per_chunk - 1) / per_chunk, [&](int64_t chunk) {
    for (int64_t b = chunk * per_chunk; b < rows && b < (chunk + 1) * per_chunk; ++b)
      for (int64_t j = 0; j < units; j += Vec<T>::kWidth)
        body(b, j, units - j < Vec<T>::kWidth ? units - j : Vec<T>::kWidth);
  });
}

// Element j of gate g of row b in a (B, gates H) matrix.
template <class T>
struct Gates {
  T* data;
  int64_t units;
  int count;
  ROOTS_INLINE Vec<T> get(int64_t b, int g, int64_t j, int64_t n) const {
    return Vec<T>::load_partial(data + (b * count + g) * units + j, n);
  }
  ROOTS_INLINE void set(int64_t b, int g, int64_t j, int64_t n, Vec<T> x) const {
    x.store_partial(data + (b * count + g) * units + j, n);
  }
};

template <class F>
Status by_type(DType dtype, const F& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  return "needs float32 or float64";
}

}  // namespace

// pre (B, 4H) -> gates (B, 4H) activated, c' = f c + i g, h = o tanh(c')
Status lstm_cell_forward(const Context& context, Tensor pre, Tensor c, Tensor gates, Tensor c_out,
                         Tensor h_out) {
  const int64_t B = c.shape[0], H = c.shape[1];
  CHECK(c.rank == 2 && matrix(c, B, H, pre.dtype) && matrix(pre, B, 4 * H, pre.dtype) &&
            matrix(gates, B, 4 * H, pre.dtype) && matrix(c_out, B, H, pre.dtype) &&
            matrix(h_out, B, H, pre.dtype),
        "shapes differ");
  return by_type(pre.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    const Gates<T> p{data<T>(pre), H, 4}, a{data<T>(gates), H, 4}, cell{data<T>(c), H, 1},
        next{data<T>(c_out), H, 1}, h{data<T>(h_out), H, 1};
    each<T>(context, B, H, [&](int64_t b, int64_t j, int64_t n) {
      const auto i = sigmoid(p.get(b, 0, j, n)), f = sigmoid(p.get(b, 1, j, n)), g = tanh(p.get(b, 2, j, n)),
                 o = sigmoid(p.get(b, 3, j, n));
      const auto cn = fma(f, cell.get(b, 0, j, n), i * g);
      a.set(b, 0, j, n, i);
      a.set(b, 1, j, n, f);
      a.set(b, 2, j, n, g);
      a.set(b, 3, j, n, o);
      next.set(b, 0, j, n, cn);
      h.set(b, 0, j, n, o * tanh(cn));
    });
    return nullptr;
  });
}

Status lstm_cell_backward(const Context& context, Tensor dh, Tensor dc_out, Tensor gates, Tensor c,
                          Tensor c_out, Tensor dpre, Tensor dc) {
  const int64_t B = c.shape[0], H = c.shape[1];
  CHECK(c.rank == 2 && matrix(c, B, H, dh.dtype) && matrix(dh, B, H, dh.dtype) &&
            matrix(dc_out, B, H, dh.dtype) && matrix(gates, B, 4 * H, dh.dtype) &&
            matrix(c_out, B, H, dh.dtype) && matrix(dpre, B, 4 * H, dh.dtype) && matrix(dc, B, H, dh.dtype),
        "shapes differ");
  return by_type(dh.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    using V = Vec<T>;
    const Gates<T> a{data<T>(gates), H, 4}, d{data<T>(dpre), H, 4}, cell{data<T>(c), H, 1},
        next{data<T>(c_out), H, 1}, gh{data<T>(dh), H, 1}, gc{data<T>(dc_out), H, 1}, out{data<T>(dc), H, 1};
    const V one(T(1));
    each<T>(context, B, H, [&](int64_t b, int64_t j, int64_t n) {
      const V i = a.get(b, 0, j, n), f = a.get(b, 1, j, n), g = a.get(b, 2, j, n), o = a.get(b, 3, j, n);
      const V t = tanh(next.get(b, 0, j, n)), dy = gh.get(b, 0, j, n);
      const V dcell = fma(dy * o, one - t * t, gc.get(b, 0, j, n));
      d.set(b, 0, j, n, dcell * g * i * (one - i));
      d.set(b, 1, j, n, dcell * cell.get(b, 0, j, n) * f * (one - f));
      d.set(b, 2, j, n, dcell * i * (one - g * g));
      d.set(b, 3, j, n, dy * t * o * (one - o));
      out.set(b, 0, j, n, dcell * f);
    });
    return nullptr;
  });
}

// x, hidden (B, 3H): the products with their biases. r = s(xr + hr), z = s(xz + hz), n = tanh(xn + r hn), h'
// = (1 - z) n + z h. gates (B, 4H) receives r, z, n and hn.
Status gru_cell_forward(const Context& context, Tensor x, Tensor hidden, Tensor h, Tensor gates,
                        Tensor h_out) {
  const int64_t B = h.shape[0], H = h.shape[1];
  CHECK(h.rank == 2 && matrix(h, B, H, x.dtype) && matrix(x, B, 3 * H, x.dtype) &&
            matrix(hidden, B, 3 * H, x.dtype) && matrix(gates, B, 4 * H, x.dtype) &&
            matrix(h_out, B, H, x.dtype),
        "shapes differ");
  return by_type(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    using V = Vec<T>;
    const Gates<T> xs{data<T>(x), H, 3}, hs{data<T>(hidden), H, 3}, a{data<T>(gates), H, 4},
        state{data<T>(h), H, 1}, out{data<T>(h_out), H, 1};
    each<T>(context, B, H, [&](int64_t b, int64_t j, int64_t n) {
      const V r = sigmoid(xs.get(b, 0, j, n) + hs.get(b, 0, j, n)),
              z = sigmoid(xs.get(b, 1, j, n) + hs.get(b, 1, j, n));
      const V hn = hs.get(b, 2, j, n), c = tanh(fma(r, hn, xs.get(b, 2, j, n)));
      a.set(b, 0, j, n, r);
      a.set(b, 1, j, n, z);
      a.set(b, 2, j, n, c);
      a.set(b, 3, j, n, hn);
      out.set(b, 0, j, n, fma(z, state.get(b, 0, j, n) - c, c));
    });
    return nullptr;
  });
}

Status gru_cell_backward(const Context& context, Tensor dy, Tensor gates, Tensor h, Tensor dx, Tensor dhidden,
                         Tensor dh) {
  const int64_t B = h.shape[0], H = h.shape[1];
  CHECK(h.rank == 2 && matrix(h, B, H, dy.dtype) && matrix(dy, B, H, dy.dtype) &&
            matrix(gates, B, 4 * H, dy.dtype) && matrix(dx, B, 3 * H, dy.dtype) &&
            matrix(dhidden, B, 3 * H, dy.dtype) && matrix(dh, B, H, dy.dtype),
        "shapes differ");
  return by_type(dy.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    using V = Vec<T>;
    const Gates<T> a{data<T>(gates), H, 4}, state{data<T>(h), H, 1}, grad{data<T>(dy), H, 1},
        gx{data<T>(dx), H, 3}, gh{data<T>(dhidden), H, 3}, out{data<T>(dh), H, 1};
    const V one(T(1));
    each<T>(context, B, H, [&](int64_t b, int64_t j, int64_t n) {
      const V r = a.get(b, 0, j, n), z = a.get(b, 1, j, n), c = a.get(b, 2, j, n), hn = a.get(b, 3, j, n),
              d = grad.get(b, 0, j, n);
      const V dc = d * (one - z) * (one - c * c), dr = dc * hn * r * (one - r);
      const V dz = d * (state.get(b, 0, j, n) - c) * z * (one - z);
      gx.set(b, 0, j, n, dr);
      gx.set(b, 1, j, n, dz);
      gx.set(b, 2, j, n, dc);
      gh.set(b, 0, j, n, dr);
      gh.set(b, 1, j, n, dz);
      gh.set(b, 2, j, n, dc * r);
      out.set(b, 0, j, n, d * z);
    });
    return nullptr;
  });
}

}  // namespace ROOTS_ISA
}  // namespace roots
