// The operations of a tape on vectors and scalars, and their adjoints: all but the matrices.
#pragma once
#include "functions.h"
#include "panels.h"
#include "program.h"
#include "team.h"

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
    if (op.kind == COEFFICIENT) coefficient(op, value(op.out));
    else by_examples(op, [&](int begin, int end) { forward(op, begin, end); });
  }

  void backward(const Op& op) const {
    if (op.kind == COEFFICIENT) coefficient_backward(op, adjoint(op.out));
    else by_examples(op, [&](int begin, int end) { backward(op, begin, end); });
  }

 private:
  // Many examples are split over the team. A part begins where vector registers do: what the
  // compiler makes of the last few numbers may differ in a bit from what it makes of the others.
  template <class F>
  void by_examples(const Op& op, const F& do_part) const {
    const int64_t cost = op.kind == APPLY ? 64 : op.kind == COMBINE ? 4 * op.count : 4;
    split(cost * examples * op.n, examples, op.n == 1 ? 16 : 1, do_part);
  }

  void forward(const Op& op, int begin, int end) const {
    const int64_t size = stride(op.n), first = begin * size, last = end * size;
    T* __restrict out = value(op.out);
    const T *a = value(op.a), *b = value(op.b);
    switch (op.kind) {
      case MULTIPLY: for (int64_t i = first; i < last; ++i) out[i] = a[i] * b[i]; break;
      case SUBTRACT: for (int64_t i = first; i < last; ++i) out[i] = a[i] - b[i]; break;
      case DOT:
        for (int e = begin; e < end; ++e)
          out[e] = op.b < 0 ? sum(a + e * size, op.n) : dot(a + e * size, b + e * size, op.n);
        break;
      case COMBINE: combine(op, out, begin, end); break;
      case APPLY:
        if (op.function == SOFTMAX)
          for (int e = begin; e < end; ++e)
            apply(SOFTMAX, a + e * size, out + e * size, op.n, T(p.beta));
        else
          apply(op.function, a + first, out + first, int(last - first), T(p.beta));
        break;
    }
  }

  void backward(const Op& op, int begin, int end) const {
    const int64_t size = stride(op.n), first = begin * size, last = end * size;
    const T *out = value(op.out), *a = value(op.a), *b = value(op.b), *g = adjoint(op.out);
    T *ga = adjoint(op.a), *gb = adjoint(op.b);
    switch (op.kind) {
      case MULTIPLY:
        if (op.wants_a) for (int64_t i = first; i < last; ++i) ga[i] += g[i] * b[i];
        if (op.wants_b) for (int64_t i = first; i < last; ++i) gb[i] += g[i] * a[i];
        break;
      case SUBTRACT:
        if (op.wants_a) for (int64_t i = first; i < last; ++i) ga[i] += g[i];
        if (op.wants_b) for (int64_t i = first; i < last; ++i) gb[i] -= g[i];
        break;
      case DOT:
        for (int e = begin; e < end; ++e) {
          const int64_t at = e * size;
          if (op.wants_a && op.b < 0) for (int i = 0; i < op.n; ++i) ga[at + i] += g[e];
          else if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[at + i] += g[e] * b[at + i];
          if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[at + i] += g[e] * a[at + i];
        }
        break;
      case COMBINE: combine_backward(op, g, begin, end); break;
      case APPLY:
        if (!op.wants_a) break;
        if (op.function == SOFTMAX)
          for (int e = begin; e < end; ++e) {
            const int64_t at = e * size;
            apply_adjoint(SOFTMAX, a + at, out + at, g + at, ga + at, op.n, T(p.beta));
          }
        else
          apply_adjoint(op.function, a + first, out + first, g + first, ga + first,
                        int(last - first), T(p.beta));
        break;
    }
  }

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

  void combine(const Op& op, T* __restrict out, int begin, int end) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      for (int e = begin; e < end; ++e) {
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

  void combine_backward(const Op& op, const T* g, int begin, int end) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      for (int e = begin; e < end; ++e) {
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
