// The operations of a tape on vectors and scalars, and their adjoints: all but the matrices.
#pragma once
#include "functions.h"
#include "panels.h"
#include "program.h"

namespace rulesearch {

template <class T>
struct Vectors {
  const Program& p;
  int examples;
  const T* theta;
  T* y = nullptr;      // the frame of a step
  T* bar = nullptr;    // its adjoint
  T* theta_bar = nullptr;

  T* value(int32_t offset) const { return y + (int64_t)offset * examples; }
  T* adjoint(int32_t offset) const { return bar + (int64_t)offset * examples; }

  void forward(const Op& op) const {
    const int64_t all = examples * stride(op.n);
    T* __restrict out = value(op.out);
    const T *a = value(op.a), *b = value(op.b);
    switch (op.kind) {
      case MULTIPLY: for (int64_t i = 0; i < all; ++i) out[i] = a[i] * b[i]; break;
      case SUBTRACT: for (int64_t i = 0; i < all; ++i) out[i] = a[i] - b[i]; break;
      case DOT:
        for (int e = 0; e < examples; ++e) {
          const int64_t at = e * stride(op.n);
          out[e] = op.b < 0 ? sum(a + at, op.n) : dot(a + at, b + at, op.n);
        }
        break;
      case COEFFICIENT: coefficient(op, out); break;
      case COMBINE: combine(op, out); break;
      case APPLY:
        if (op.function == SOFTMAX)
          for (int e = 0; e < examples; ++e)
            apply(SOFTMAX, a + e * stride(op.n), out + e * stride(op.n), op.n, T(p.beta));
        else
          apply(op.function, a, out, (int)all, T(p.beta));
        break;
    }
  }

  void backward(const Op& op) const {
    const int64_t all = examples * stride(op.n);
    const T *out = value(op.out), *a = value(op.a), *b = value(op.b), *g = adjoint(op.out);
    T *ga = adjoint(op.a), *gb = adjoint(op.b);
    switch (op.kind) {
      case MULTIPLY:
        if (op.wants_a) for (int64_t i = 0; i < all; ++i) ga[i] += g[i] * b[i];
        if (op.wants_b) for (int64_t i = 0; i < all; ++i) gb[i] += g[i] * a[i];
        break;
      case SUBTRACT:
        if (op.wants_a) for (int64_t i = 0; i < all; ++i) ga[i] += g[i];
        if (op.wants_b) for (int64_t i = 0; i < all; ++i) gb[i] -= g[i];
        break;
      case DOT:
        for (int e = 0; e < examples; ++e) {
          const int64_t at = e * stride(op.n);
          if (op.wants_a && op.b < 0) for (int i = 0; i < op.n; ++i) ga[at + i] += g[e];
          else if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[at + i] += g[e] * b[at + i];
          if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[at + i] += g[e] * a[at + i];
        }
        break;
      case COEFFICIENT: coefficient_backward(op, g); break;
      case COMBINE: combine_backward(op, g); break;
      case APPLY:
        if (!op.wants_a) break;
        if (op.function == SOFTMAX)
          for (int e = 0; e < examples; ++e) {
            const int64_t at = e * stride(op.n);
            apply_adjoint(SOFTMAX, a + at, out + at, g + at, ga + at, op.n, T(p.beta));
          }
        else
          apply_adjoint(op.function, a, out, g, ga, (int)all, T(p.beta));
        break;
    }
  }

 private:
  T number(const Entry& e) const { return T(e.number) * (e.term < 0 ? T(1) : theta[e.term]); }

  void coefficient(const Op& op, T* out) const {
    for (int e = 0; e < examples; ++e) out[e] = 0;
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      const T k = number(entry);
      for (int e = 0; e < examples; ++e)
        out[e] += entry.scalar < 0 ? k : k * value(entry.scalar)[e];
    }
  }

  void coefficient_backward(const Op& op, const T* g) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      const T k = number(entry);
      T total = 0;
      for (int e = 0; e < examples; ++e) {
        total += entry.scalar < 0 ? g[e] : g[e] * value(entry.scalar)[e];
        if (entry.wants_scalar) adjoint(entry.scalar)[e] += g[e] * k;
      }
      if (entry.term >= 0) theta_bar[entry.term] += T(entry.number) * total;
    }
  }

  void combine(const Op& op, T* __restrict out) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      for (int e = 0; e < examples; ++e) {
        const T k = value(entry.scalar)[e];
        const T* v = value(entry.vector) + e * stride(op.n);
        T* __restrict o = out + e * stride(op.n);
        if (i == op.first)
          for (int j = 0; j < op.n; ++j) o[j] = k * v[j];
        else
          for (int j = 0; j < op.n; ++j) o[j] += k * v[j];
      }
    }
  }

  void combine_backward(const Op& op, const T* g) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      for (int e = 0; e < examples; ++e) {
        const int64_t at = e * stride(op.n);
        const T k = value(entry.scalar)[e];
        const T* v = value(entry.vector) + at;
        if (entry.wants_scalar) adjoint(entry.scalar)[e] += dot(g + at, v, op.n);
        if (entry.wants_vector) {
          T* gv = adjoint(entry.vector) + at;
          for (int j = 0; j < op.n; ++j) gv[j] += k * g[at + j];
        }
      }
    }
  }

  static T sum(const T* a, int n) {
    T s = 0;
#pragma omp simd reduction(+ : s)
    for (int i = 0; i < n; ++i) s += a[i];
    return s;
  }
};

}  // namespace rulesearch
