// Updates that multiply weights one by one: M <- M o (1 + rho 1^T + P Q^T) + U V^T + sum (p q^T) o E.
//
// E is a product of powers of weights. Such an update has no low rank, so nothing is deferred:
// each row of the matrix is taken in turn, whole.
#pragma once
#include <vector>

#include "deferred.h"
#include "vectors.h"

namespace rulesearch {

template <class T>
struct Elementwise {
  const Vectors<T>& s;
  const Op& op;
  const T* rho;  // what every row grows by
  T share;       // of an example in the update
  std::vector<Deferred<T>>& M;
  std::vector<Deferred<T>>& G;
  std::vector<T> growth, shift;

  Elementwise(const Vectors<T>& vectors, const Op& update, const T* rows, T part,
              std::vector<Deferred<T>>& matrices, std::vector<Deferred<T>>& adjoints)
      : s(vectors), op(update), rho(rows), share(part), M(matrices), G(adjoints),
        growth(update.m), shift(update.m) {}

  void forward() {
    for (int i = 0; i < op.n; ++i) {
      T* w = row(M, op.matrix, i);
      weigh(i, w);
      for (int j = 0; j < op.m; ++j) w[j] = w[j] * (1 + growth[j]) + shift[j];
    }
  }

  // `reverse` brings M back to before the update; without it, M is there already.
  void backward(bool reverse) {
    for (int i = 0; i < op.n; ++i) {
      T* w = row(M, op.matrix, i);
      T* g = row(G, op.matrix, i);
      weigh(i, w);  // in reverse no E reads this matrix, so that w after the update does
      if (reverse)
        for (int j = 0; j < op.m; ++j) w[j] = (w[j] - shift[j]) / (1 + growth[j]);
      rows_backward(i, dot(g, w, op.m));
      products(op.first, op.count, i, [&](const Entry&, int j) { return g[j]; });
      products(op.masks, op.mask_count, i, [&](const Entry&, int j) { return g[j] * w[j]; });
      products(op.others, op.other_count, i,
               [&](const Entry& k, int j) { return g[j] * core(k, w, i, j, -1); });
      for (int k = op.others; k < op.others + op.other_count; ++k) cores_backward(k, w, g, i);
      for (int j = 0; j < op.m; ++j) g[j] *= 1 + growth[j];
    }
  }

 private:
  T* row(std::vector<Deferred<T>>& matrices, int k, int i) const {
    return matrices[k].base + (int64_t)i * op.m;
  }
  const T* left(const Entry& k, int e) const { return s.value(k.scalar) + e * stride(op.n); }
  const T* right(const Entry& k, int e) const { return s.value(k.vector) + e * stride(op.m); }

  // growth and shift of row i, whose weights before the update are w
  void weigh(int i, const T* w) {
    for (int j = 0; j < op.m; ++j) { growth[j] = rho[i]; shift[j] = 0; }
    for (int e = 0; e < s.examples; ++e) {
      for (int k = op.masks; k < op.masks + op.mask_count; ++k) {
        const T c = share * left(s.p.entries[k], e)[i];
        const T* q = right(s.p.entries[k], e);
        for (int j = 0; j < op.m; ++j) growth[j] += c * q[j];
      }
      for (int k = op.first; k < op.first + op.count; ++k) {
        const T c = share * left(s.p.entries[k], e)[i];
        const T* q = right(s.p.entries[k], e);
        for (int j = 0; j < op.m; ++j) shift[j] += c * q[j];
      }
      for (int k = op.others; k < op.others + op.other_count; ++k) {
        const T c = share * left(s.p.entries[k], e)[i];
        const T* q = right(s.p.entries[k], e);
        for (int j = 0; j < op.m; ++j) shift[j] += c * q[j] * core(s.p.entries[k], w, i, j, -1);
      }
    }
  }

  // the product of powers of weights at (i, j), or its derivative in the one numbered so
  T core(const Entry& k, const T* w, int i, int j, int derivative) const {
    T value = 1;
    for (int f = k.core; f < k.core + k.core_count; ++f) {
      const CoreFactor& factor = s.p.cores[f];
      const T x = factor.matrix == op.matrix ? w[j] : row(M, factor.matrix, i)[j];
      int power = factor.power;
      if (f == derivative) value *= T(power--);
      for (int r = 0; r < power; ++r) value *= x;
    }
    return value;
  }

  void rows_backward(int i, T overlap) const {
    for (int e = 0; e < s.examples; ++e) {
      if (op.scale >= 0) s.adjoint(op.scale)[e] += share * overlap;
      for (int k = op.rows; k < op.rows + op.row_count; ++k)
        s.adjoint(s.p.entries[k].scalar)[e * stride(op.n) + i] += share * overlap;
    }
  }

  // adjoints of the vectors of products whose weights are weighted(product, column)
  template <class F>
  void products(int first, int count, int i, F weighted) const {
    for (int k = first; k < first + count; ++k) {
      const Entry& entry = s.p.entries[k];
      for (int e = 0; e < s.examples; ++e) {
        const T c = share * left(entry, e)[i];
        const T* q = right(entry, e);
        T* q_bar = s.adjoint(entry.vector) + e * stride(op.m);
        T total = 0;
        for (int j = 0; j < op.m; ++j) {
          const T value = weighted(entry, j);
          total += value * q[j];
          q_bar[j] += c * value;
        }
        s.adjoint(entry.scalar)[e * stride(op.n) + i] += share * total;
      }
    }
  }

  // adjoints of the weights in a core; that of M itself goes through its growth
  void cores_backward(int k, const T* w, const T* g, int i) {
    const Entry& entry = s.p.entries[k];
    for (int f = entry.core; f < entry.core + entry.core_count; ++f) {
      const int matrix = s.p.cores[f].matrix;
      if (!G[matrix].base) continue;
      for (int e = 0; e < s.examples; ++e) {
        const T c = share * left(entry, e)[i];
        const T* q = right(entry, e);
        for (int j = 0; j < op.m; ++j) {
          const T slope = c * q[j] * core(entry, w, i, j, f);
          if (matrix == op.matrix) growth[j] += slope;
          else row(G, matrix, i)[j] += g[j] * slope;
        }
      }
    }
  }
};

}  // namespace rulesearch
