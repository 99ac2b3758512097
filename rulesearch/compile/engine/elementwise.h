// Updates that multiply weights one by one:
//
//     M <- M + A o D,   D = M o (rho 1^T + P Q^T) + U V^T + sum (p q^T) o E
//
// A holds the rate of each weight, E is a product of powers of weights. Such an update has no
// low rank, so nothing is deferred. Rows are taken in blocks that stay in cache from the first
// of their sums to the last.
#pragma once
#include <vector>

#include "deferred.h"
#include "numbers.h"
#include "vectors.h"

namespace rulesearch {

template <class T>
struct Elementwise {
  const Vectors<T>& s;
  const T share;  // of an example in the update
  std::vector<Deferred<T>>& M;
  std::vector<Deferred<T>>& G;

  Elementwise(const Vectors<T>& vectors, T of_example, std::vector<Deferred<T>>& matrices,
              std::vector<Deferred<T>>& adjoints)
      : s(vectors), share(of_example), M(matrices), G(adjoints) {}

  void forward(const Op& op, const T* rows) {
    for (int from = 0; from < op.n; from += BLOCK) {
      sums(op, rows, from);
      for (int i = 0; i < height; ++i) {
        const int64_t at = i * (int64_t)op.m;
        T* w = row(M, op.matrix, from + i);
        const T *A = rate(op, from + i), *g = growth.data() + at, *d = shift.data() + at;
        for (int j = 0; j < op.m; ++j) w[j] += (A ? A[j] : T(1)) * (g[j] * w[j] + d[j]);
      }
    }
  }

  // `rows` is what whole rows grow by. `reverse` brings M back to before the update; without it,
  // M is there already.
  void backward(const Op& op, const T* rows, bool reverse) {
    pull.resize(op.n * (int64_t)op.m);
    for (int from = 0; from < op.n; from += BLOCK) {
      sums(op, rows, from);  // in reverse no E reads this matrix, so that W after the update does
      for (int i = 0; i < height; ++i) row_backward(op, from + i, i, reverse);
      adjoints_of_left(op, from);
    }
    for (int k = op.first; k < op.first + op.count; ++k) {
      const Entry& entry = s.p.entries[k];
      if (!entry.wants_vector) continue;
      multiply_transposed(pull.data(), op.n, op.m, op.m, s.value(entry.scalar), stride(op.n),
                          s.adjoint(entry.vector), stride(op.m), s.examples);
    }
  }

 private:
  static constexpr int BLOCK = 16;  // rows

  int height = 0;                // of the block
  Numbers<T> growth, shift;  // of its weights: D = growth o M + shift
  Numbers<T> pull;           // share A o G, the adjoint of D

  T* row(std::vector<Deferred<T>>& matrices, int k, int i) const {
    return matrices[k].base + i * (int64_t)matrices[k].m;
  }
  const T* rate(const Op& op, int i) const { return op.rate < 0 ? nullptr : row(M, op.rate, i); }
  const T* left(const Entry& k, const Op& op, int e) const {
    return s.value(k.scalar) + e * stride(op.n);
  }
  const T* right(const Entry& k, const Op& op, int e) const {
    return s.value(k.vector) + e * stride(op.m);
  }

  void sums(const Op& op, const T* rows, int from) {
    height = std::min(BLOCK, op.n - from);
    growth.resize(height * (int64_t)op.m);
    shift.assign(height * (int64_t)op.m, 0);
    for (int k = op.first; k < op.first + op.count; ++k) {
      const Entry& entry = s.p.entries[k];
      add_outers<T>(shift.data(), height, op.m, op.m, nullptr, s.value(entry.scalar) + from,
                    stride(op.n), s.value(entry.vector), stride(op.m), s.examples);
    }
    for (int i = 0; i < height; ++i) {
      T *g = growth.data() + i * (int64_t)op.m, *d = shift.data() + i * (int64_t)op.m;
      for (int j = 0; j < op.m; ++j) { g[j] = rows[from + i]; d[j] *= share; }
      if (op.mask_count || op.other_count) add_masked(op, from + i, g, d);
    }
  }

  void add_masked(const Op& op, int i, T* g, T* d) const {
    const T* w = row(M, op.matrix, i);
    for (int e = 0; e < s.examples; ++e) {
      for (int k = op.masks; k < op.masks + op.mask_count; ++k) {
        const T c = share * left(s.p.entries[k], op, e)[i];
        const T* q = right(s.p.entries[k], op, e);
        for (int j = 0; j < op.m; ++j) g[j] += c * q[j];
      }
      for (int k = op.others; k < op.others + op.other_count; ++k) {
        const T c = share * left(s.p.entries[k], op, e)[i];
        const T* q = right(s.p.entries[k], op, e);
        for (int j = 0; j < op.m; ++j) d[j] += c * q[j] * core(op, s.p.entries[k], w, i, j, -1);
      }
    }
  }

  // Row i of the matrix, which is number `at` of the block.
  void row_backward(const Op& op, int i, int at, bool reverse) {
    T *w = row(M, op.matrix, i), *g = row(G, op.matrix, i), *h = pull.data() + i * (int64_t)op.m;
    T *grows = growth.data() + at * (int64_t)op.m, *d = shift.data() + at * (int64_t)op.m;
    const T* A = rate(op, i);
    if (A) {
      T* A_bar = G[op.rate].base ? row(G, op.rate, i) : nullptr;
      for (int j = 0; reverse && j < op.m; ++j)
        w[j] = (w[j] - A[j] * d[j]) / (1 + A[j] * grows[j]);
      for (int j = 0; A_bar && j < op.m; ++j) A_bar[j] += g[j] * (grows[j] * w[j] + d[j]);
      for (int j = 0; j < op.m; ++j) h[j] = share * A[j] * g[j];
    } else {
      for (int j = 0; reverse && j < op.m; ++j) w[j] = (w[j] - d[j]) / (1 + grows[j]);
      for (int j = 0; j < op.m; ++j) h[j] = share * g[j];
    }
    rows_backward(op, i, dot(h, w, op.m));
    products(op, op.masks, op.mask_count, i, [&](const Entry&, int j) { return h[j] * w[j]; });
    products(op, op.others, op.other_count, i,
             [&](const Entry& k, int j) { return h[j] * core(op, k, w, i, j, -1); });
    for (int k = op.others; k < op.others + op.other_count; ++k)
      cores_backward(op, s.p.entries[k], w, h, i, grows);
    for (int j = 0; j < op.m; ++j) g[j] *= 1 + (A ? A[j] : T(1)) * grows[j];
  }

  // u_e += (share A o G) v_e, for the rows of the block
  void adjoints_of_left(const Op& op, int from) {
    for (int k = op.first; k < op.first + op.count; ++k) {
      const Entry& entry = s.p.entries[k];
      if (!entry.wants_scalar) continue;
      multiply(pull.data() + from * (int64_t)op.m, height, op.m, op.m, s.value(entry.vector),
               stride(op.m), s.adjoint(entry.scalar) + from, stride(op.n), s.examples);
    }
  }

  // the product of powers of weights at (i, j), or its derivative in the one numbered so
  T core(const Op& op, const Entry& k, const T* w, int i, int j, int derivative) const {
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

  void rows_backward(const Op& op, int i, T overlap) const {
    for (int e = 0; e < s.examples; ++e) {
      if (op.scale >= 0) s.adjoint(op.scale)[e] += overlap;
      for (int k = op.rows; k < op.rows + op.row_count; ++k)
        s.adjoint(s.p.entries[k].scalar)[e * stride(op.n) + i] += overlap;
    }
  }

  // adjoints of the vectors of products whose weights are weighted(product, column)
  template <class F>
  void products(const Op& op, int first, int count, int i, F weighted) const {
    for (int k = first; k < first + count; ++k) {
      const Entry& entry = s.p.entries[k];
      for (int e = 0; e < s.examples; ++e) {
        const T p = left(entry, op, e)[i];
        const T* q = right(entry, op, e);
        T* q_bar = s.adjoint(entry.vector) + e * stride(op.m);
        T total = 0;
        for (int j = 0; j < op.m; ++j) {
          const T value = weighted(entry, j);
          total += value * q[j];
          q_bar[j] += p * value;
        }
        s.adjoint(entry.scalar)[e * stride(op.n) + i] += total;
      }
    }
  }

  // adjoints of the weights in a core; that of M itself goes through its growth
  void cores_backward(const Op& op, const Entry& entry, const T* w, const T* h, int i, T* grows) {
    for (int f = entry.core; f < entry.core + entry.core_count; ++f) {
      const int matrix = s.p.cores[f].matrix;
      if (!G[matrix].base) continue;
      for (int e = 0; e < s.examples; ++e) {
        const T p = left(entry, op, e)[i];
        const T* q = right(entry, op, e);
        for (int j = 0; j < op.m; ++j) {
          const T slope = p * q[j] * core(op, entry, w, i, j, f);
          if (matrix == op.matrix) grows[j] += share * slope;
          else row(G, matrix, i)[j] += h[j] * slope;
        }
      }
    }
  }
};

}  // namespace rulesearch
