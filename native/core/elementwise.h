// Unary and binary formulas, written once. V is a vector of the compiled instruction set (or a plain number
// on a GPU); the functions it needs (exp, log, sqrt, fma, select, abs, max, min) are found beside V by its
// namespace (exp_below: exp for arguments that are not positive; exp_wide: exp, perhaps less exact).
// V::Element is the element type; V::kHasErf says that native_erf(V) exists.
//
// A new unary function: a struct here with forward(x) and derivative(x), and UNARY(name) in kernels.def.
#pragma once

#include "core/portable.h"

#define ROOTS_FORMULA \
  template <class V>  \
  static ROOTS_PORTABLE V

namespace roots {
namespace formula {

struct helpers {
  // 1 / (1 + e^-x). Far below zero the exponential is infinite and the quotient 0, as it should be.
  ROOTS_FORMULA sigmoid(V x) {
    const V one(1);
    return one / (one + exp_wide(-x));
  }

  // tanh x = 1 - 2 / (e^2x + 1); near 0, where that cancels, the odd Taylor polynomial.
  ROOTS_FORMULA tanh(V x) {
    const V a = abs(x);
    const V e = exp(-(a + a));
    const V one(1);
    V large = (one - e) / (one + e);
    large = pick(x < V(0), -large, large, x);
    const V z = x * x;
    V p(-929569.0 / 638512875.0);
    p = fma(p, z, V(21844.0 / 6081075.0));
    p = fma(p, z, V(-1382.0 / 155925.0));
    p = fma(p, z, V(62.0 / 2835.0));
    p = fma(p, z, V(-17.0 / 315.0));
    p = fma(p, z, V(2.0 / 15.0));
    p = fma(p, z, V(-1.0 / 3.0));
    const V small = fma(x * z, p, x);
    return pick(a < V(0.2), small, large, x);
  }

  // Horner's rule: c[0] + c[1] x + ... + c[N - 1] x^(N - 1).
  template <class V, int N>
  static ROOTS_PORTABLE V polynomial(V x, const double (&c)[N]) {
    V p(c[N - 1]);
    for (int i = N - 2; i >= 0; --i) p = fma(p, x, V(c[i]));
    return p;
  }

  ROOTS_FORMULA erf(V x) {
    if constexpr (V::kHasErf)
      return native_erf(x);
    else if constexpr (sizeof(typename V::Element) == 4)
      return erf_float(x);
    else
      return erf_double(x);
  }

  // erf x = x + x p(x^2) up to 1 and 1 - e^-q(|x|) beyond, p and q minimax polynomials fitted to 1.2e-9 and
  // 2e-11 of erf; 1.8 units in the last place with their rounding, measured (1.4 with FMA). erf(4) rounds
  // to 1.
  ROOTS_FORMULA erf_float(V x) {
    constexpr double p[] = {0.12837916612625122,   -0.3761262595653534,  0.11283600330352783,
                            -0.026854444295167923, 0.005189535673707724, -0.0008020842215046287,
                            7.889122935011983e-05};
    constexpr double q[] = {-0.0001880370546132326,  1.1295783519744873,    0.6332198977470398,
                            0.1084185540676117,      -0.025208240374922752, 0.004204556345939636,
                            -0.00044133528717793524, 2.1686762920580804e-05};
    V a = abs(x);
    a = pick(a > V(4), V(4), a, x);
    V large = V(1) - exp_below(-polynomial(a, q));
    large = pick(x < V(0), -large, large, x);
    const V small = fma(x, polynomial(a * a, p), x);
    return pick(x != x, x, pick(a < V(1), small, large, x), x);
  }

  // erf x = (2 / sqrt(pi)) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!, all terms of one sign, so nothing cancels.
  // The number of terms that reach the precision grows with |x|; beyond 6 erf rounds to 1.
  ROOTS_FORMULA erf_double(V x) {
    V a = abs(x);
    a = pick(a > V(6), V(6), a, x);
    const V z = a * a;
    V term = a, sum = a;
    for (int n = 1; n < 110; ++n) {
      term = term * z * V(2.0 / (2 * n + 1));
      sum = sum + term;
    }
    V r = V(1.12837916709551257390) * exp(-z) * sum;
    // 1 and not a little less, of which the tail of GELU would be a multiple
    r = pick(a < V(6), r, V(1), x);
    r = pick(r > V(1), V(1), r, x);
    r = pick(x < V(0), -r, r, x);
    return pick(x != x, x, r, x);
  }

  // d/dx erf(x) = 2/sqrt(pi) e^(-x^2)
  ROOTS_FORMULA erf_derivative(V x) {
    return V(1.12837916709551257390) * exp(-(x * x));
  }

  // ln(1 + y) for 0 <= y <= 1 without losing small y: ln(u) * y / (u - 1) with u = 1 + y.
  ROOTS_FORMULA log1p(V y) {
    const V u = V(1) + y;
    const V d = u - V(1);
    const V r = log(u) * (y / d);
    return pick(d == V(0), y, r, y);
  }

  template <class M, class V>
  static ROOTS_PORTABLE V pick(M mask, V a, V b, V) {
    return V(mask ? a.v : b.v);
  }
};

struct exp_formula {
  ROOTS_FORMULA forward(V x) {
    return exp(x);
  }
  ROOTS_FORMULA derivative(V x) {
    return exp(x);
  }
};
struct log_formula {
  ROOTS_FORMULA forward(V x) {
    return log(x);
  }
  ROOTS_FORMULA derivative(V x) {
    return V(1) / x;
  }
};
struct sqrt_formula {
  ROOTS_FORMULA forward(V x) {
    return sqrt(x);
  }
  ROOTS_FORMULA derivative(V x) {
    return V(0.5) / sqrt(x);
  }
};
struct rsqrt_formula {
  ROOTS_FORMULA forward(V x) {
    return V(1) / sqrt(x);
  }
  ROOTS_FORMULA derivative(V x) {
    return V(-0.5) / (x * sqrt(x));
  }
};
struct reciprocal_formula {
  ROOTS_FORMULA forward(V x) {
    return V(1) / x;
  }
  ROOTS_FORMULA derivative(V x) {
    return V(-1) / (x * x);
  }
};
struct square_formula {
  ROOTS_FORMULA forward(V x) {
    return x * x;
  }
  ROOTS_FORMULA derivative(V x) {
    return x + x;
  }
};
struct abs_formula {
  ROOTS_FORMULA forward(V x) {
    return abs(x);
  }
  // 0 at 0
  ROOTS_FORMULA derivative(V x) {
    return helpers::pick(x > V(0), V(1),
                         helpers::pick(x < V(0), V(-1), helpers::pick(x == V(0), V(0), x, x), x), x);
  }
};
struct identity_formula {
  ROOTS_FORMULA forward(V x) {
    return x;
  }
  ROOTS_FORMULA derivative(V) {
    return V(1);
  }
};
struct neg_formula {
  ROOTS_FORMULA forward(V x) {
    return -x;
  }
  ROOTS_FORMULA derivative(V) {
    return V(-1);
  }
};
struct tanh_formula {
  ROOTS_FORMULA forward(V x) {
    return helpers::tanh(x);
  }
  ROOTS_FORMULA derivative(V x) {
    const V t = helpers::tanh(x);
    return V(1) - t * t;
  }
};
struct sigmoid_formula {
  ROOTS_FORMULA forward(V x) {
    return helpers::sigmoid(x);
  }
  ROOTS_FORMULA derivative(V x) {
    const V s = helpers::sigmoid(x);
    return s * (V(1) - s);
  }
};
struct erf_formula {
  ROOTS_FORMULA forward(V x) {
    return helpers::erf(x);
  }
  ROOTS_FORMULA derivative(V x) {
    return helpers::erf_derivative(x);
  }
};
// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)
struct softplus_formula {
  ROOTS_FORMULA forward(V x) {
    return max(x, V(0)) + helpers::log1p(exp(-abs(x)));
  }
  ROOTS_FORMULA derivative(V x) {
    return helpers::sigmoid(x);
  }
};
struct relu_formula {
  ROOTS_FORMULA forward(V x) {
    return max(x, V(0));
  }
  ROOTS_FORMULA derivative(V x) {
    return helpers::pick(x > V(0), V(1), V(0), x);
  }
};
struct silu_formula {
  ROOTS_FORMULA forward(V x) {
    return x * helpers::sigmoid(x);
  }
  ROOTS_FORMULA derivative(V x) {
    const V s = helpers::sigmoid(x);
    return s * fma(x, V(1) - s, V(1));
  }
};
// x/2 (1 + erf(x / sqrt 2)); Hendrycks & Gimpel, arXiv 1606.08415
struct gelu_erf_formula {
  ROOTS_FORMULA forward(V x) {
    return V(0.5) * x * (V(1) + helpers::erf(x * V(0.70710678118654752440)));
  }
  ROOTS_FORMULA derivative(V x) {
    const V cdf = V(0.5) * (V(1) + helpers::erf(x * V(0.70710678118654752440)));
    const V pdf = V(0.39894228040143267794) * exp(V(-0.5) * x * x);
    return fma(x, pdf, cdf);
  }
};
// The tanh approximation of GPT-2: x/2 (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
struct gelu_tanh_formula {
  ROOTS_FORMULA two_u(V x) {
    const V z = x * x;
    return x * fma(z, V(2 * 0.79788456080286535588 * 0.044715), V(2 * 0.79788456080286535588));
  }
  ROOTS_FORMULA forward(V x) {
    return x * helpers::sigmoid(two_u(x));
  }
  ROOTS_FORMULA derivative(V x) {
    const V s = helpers::sigmoid(two_u(x));
    const V slope = fma(x * x, V(6 * 0.79788456080286535588 * 0.044715), V(2 * 0.79788456080286535588));
    return s * fma(x * (V(1) - s), slope, V(1));
  }
};

struct add_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return a + b;
  }
};
struct sub_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return a - b;
  }
};
struct mul_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return a * b;
  }
};
struct div_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return a / b;
  }
};
struct maximum_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return max(a, b);
  }
};
struct minimum_formula {
  ROOTS_FORMULA apply(V a, V b) {
    return min(a, b);
  }
};

#define ROOTS_COMPARISON(name, op)                           \
  struct name##_formula {                                    \
    template <class V>                                       \
    static ROOTS_PORTABLE typename V::Mask apply(V a, V b) { \
      return a op b;                                         \
    }                                                        \
  };
ROOTS_COMPARISON(equal, ==)
ROOTS_COMPARISON(not_equal, !=)
ROOTS_COMPARISON(less, <)
ROOTS_COMPARISON(less_equal, <=)
ROOTS_COMPARISON(greater, >)
ROOTS_COMPARISON(greater_equal, >=)
#undef ROOTS_COMPARISON

}  // namespace formula
}  // namespace roots
