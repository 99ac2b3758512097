// Elementwise functions and their derivatives, in loops that the compiler can vectorise.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__GLIBC__) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern "C" {  // the C library has these for whole vectors (libmvec)
#pragma omp declare simd notinbranch
float expf(float) noexcept;
#pragma omp declare simd notinbranch
float logf(float) noexcept;
#pragma omp declare simd notinbranch
double exp(double) noexcept;
#pragma omp declare simd notinbranch
double log(double) noexcept;
}
#endif

namespace rulesearch {

enum Function { TANH, EXP, ABS, SIGN, SOFTPLUS, RELU, SOFTMAX, IDENTITY,
                D_SOFTPLUS, D_TANH, D_RELU };

inline float exponential(float x) { return expf(x); }
inline double exponential(double x) { return exp(x); }
inline float logarithm(float x) { return logf(x); }
inline double logarithm(double x) { return log(x); }

// log(1 + t) and exp(x) - 1 without cancellation: what rounding of u took away is added to first
// order. No branch, so that whole vectors go through.
template <class T>
T log_one_plus(T t) {
  const T u = 1 + t;
  return logarithm(u) + (t - (u - 1)) / u;
}
template <class T>
T exp_minus_one(T x) {
  const T u = exponential(x);
  return (u - 1) + u * (x - logarithm(u + std::numeric_limits<T>::min()));  // of 0 no logarithm
}
template <class T>
T hyperbolic_tangent(T x) {
  const T t = exp_minus_one(T(-2) * std::fabs(x)), size = -t / (t + 2);
  return x < 0 ? -size : size;
}

template <class T>
void apply(int function, const T* a, T* out, int n, T beta) {
  switch (function) {
    case TANH:
#pragma omp simd
      for (int i = 0; i < n; ++i) out[i] = hyperbolic_tangent(a[i]);
      break;
    case EXP:
#pragma omp simd
      for (int i = 0; i < n; ++i) out[i] = exponential(a[i]);
      break;
    case ABS: for (int i = 0; i < n; ++i) out[i] = std::fabs(a[i]); break;
    case SIGN: for (int i = 0; i < n; ++i) out[i] = T((a[i] > 0) - (a[i] < 0)); break;
    case IDENTITY: std::memcpy(out, a, sizeof(T) * n); break;
    case RELU: for (int i = 0; i < n; ++i) out[i] = a[i] <= 0 ? T(0) : a[i]; break;  // of NaN NaN
    case SOFTPLUS:  // log(1 + exp(beta z)) / beta, without overflow
#pragma omp simd
      for (int i = 0; i < n; ++i) {
        const T z = beta * a[i];
        out[i] = ((z > 0 ? z : T(0)) + log_one_plus(exponential(-std::fabs(z)))) / beta;
      }
      break;
    case SOFTMAX: {
      T top = a[0], total = 0;
      for (int i = 1; i < n; ++i) top = a[i] > top ? a[i] : top;
#pragma omp simd
      for (int i = 0; i < n; ++i) out[i] = exponential(a[i] - top);
      for (int i = 0; i < n; ++i) total += out[i];
      for (int i = 0; i < n; ++i) out[i] /= total;
      break;
    }
    case D_SOFTPLUS:
#pragma omp simd
      for (int i = 0; i < n; ++i) out[i] = -exp_minus_one(-beta * a[i]);
      break;
    case D_TANH: for (int i = 0; i < n; ++i) out[i] = 1 - a[i] * a[i]; break;
    case D_RELU: for (int i = 0; i < n; ++i) out[i] = T(a[i] > 0); break;
  }
}

// a_bar += the adjoint of out = function(a), given g = out_bar
template <class T>
void apply_adjoint(int function, const T* a, const T* out, const T* g, T* a_bar, int n, T beta) {
  switch (function) {
    case TANH: for (int i = 0; i < n; ++i) a_bar[i] += g[i] * (1 - out[i] * out[i]); break;
    case EXP: for (int i = 0; i < n; ++i) a_bar[i] += g[i] * out[i]; break;
    case ABS: for (int i = 0; i < n; ++i) a_bar[i] += g[i] * T((a[i] > 0) - (a[i] < 0)); break;
    case SIGN: case D_RELU: break;
    case IDENTITY: for (int i = 0; i < n; ++i) a_bar[i] += g[i]; break;
    case RELU: for (int i = 0; i < n; ++i) a_bar[i] += a[i] <= 0 ? T(0) : g[i]; break;
    case SOFTPLUS:  // sigmoid(beta z) = 1 - exp(-beta y)
#pragma omp simd
      for (int i = 0; i < n; ++i) a_bar[i] -= g[i] * exp_minus_one(-beta * out[i]);
      break;
    case SOFTMAX: {
      T inner = 0;
      for (int i = 0; i < n; ++i) inner += g[i] * out[i];
      for (int i = 0; i < n; ++i) a_bar[i] += out[i] * (g[i] - inner);
      break;
    }
    case D_SOFTPLUS: for (int i = 0; i < n; ++i) a_bar[i] += g[i] * beta * (1 - out[i]); break;
    case D_TANH: for (int i = 0; i < n; ++i) a_bar[i] -= 2 * g[i] * a[i]; break;
  }
}

}  // namespace rulesearch
