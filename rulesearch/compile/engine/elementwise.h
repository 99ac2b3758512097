// Updates that multiply weights one by one:
//
//     M <- M + A o D,   D = M o (rho 1^T + P Q^T) + U V^T + sum (p q^T) o E
//
// A holds the rate of each weight, E is a product of powers of weights. Such an update has no
// low rank, so nothing is deferred. Rows are taken in blocks that stay in cache from the first
// of their sums to the last; threads share the blocks.
#pragma once
#include <type_traits>
#include <vector>

#include "deferred.h"
#include "numbers.h"
#include "team.h"
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
    by_blocks(op, true, [&](Block& block) {
      sums(op, rows, block);
      for (int i = 0; i < block.height; ++i)
        if (is_masked(op)) row_forward(op, block, i, block.growth(op, i));
        else row_forward(op, block, i, Same{rows[block.from + i]});
    });
  }

  // `rows` is what whole rows grow by. `reverse` brings M back to before the update; without it,
  // M is there already.
  void backward(const Op& op, const T* rows, bool reverse) {
    pull.resize(op.n * (int64_t)op.m);
    overlap.resize(op.n);
    const bool alone = !is_masked(op);  // rows add to nothing in common
    by_blocks(op, alone, [&](Block& block) {
      sums(op, rows, block);  // in reverse no E reads this matrix, so that W after the update does
      for (int i = 0; i < block.height; ++i)
        if (is_masked(op)) masked_row_backward(op, block, i, reverse);
        else row_backward(op, block, i, reverse, Same{rows[block.from + i]});
    });
    rows_backward(op);
    for (int k = op.first; k < op.first + op.count; ++k) {
      const Entry& entry = s.p.entries[k];
      const T *u = s.value(entry.scalar), *v = s.value(entry.vector);
      T *u_bar = s.adjoint(entry.scalar), *v_bar = s.adjoint(entry.vector);
      const int64_t sn = stride(op.n), sm = stride(op.m);
      if (entry.wants_scalar)
        multiply(pull.data(), op.n, op.m, op.m, v, sm, u_bar, sn, s.examples);
      if (entry.wants_vector)
        multiply_transposed(pull.data(), op.n, op.m, op.m, u, sn, v_bar, sm, s.examples);
    }
  }

 private:
  static constexpr int BLOCK = 48;  // rows

  struct Block {  // of rows: D = growth o M + shift
    int from = 0, height = 0;
    Numbers<T> growths, shifts;
    T* growth(const Op& op, int i) { return growths.data() + i * (int64_t)op.m; }
    T* shift(const Op& op, int i) { return shifts.data() + i * (int64_t)op.m; }
  };

  struct Same {  // what all weights of a row grow by
    T value;
    T operator[](int) const { return value; }
  };

  Numbers<T> pull;     // share A o G, the adjoint of D
  Numbers<T> overlap;  // sum_j pull_ij M_ij

  template <class F>
  void by_blocks(const Op& op, bool shared, const F& work) const {
    const int64_t products = int64_t(op.n) * op.m * (1 + op.count * s.examples);
    split(shared ? products : 0, op.n, kWide, [&](int64_t begin, int64_t end) {
      static thread_local Block block;  // whose memory is found again in the next step
      const int rows = int(end - begin), blocks = std::max(1, (rows + BLOCK - 1) / BLOCK);
      const int units = (rows + kWide * blocks - 1) / (kWide * blocks);
      const int height = units * kWide;  // all about as high
      for (block.from = int(begin); block.from < end; block.from += height) {
        block.height = std::min(height, int(end) - block.from);
        work(block);
      }
    });
  }

  T* row(std::vector<Deferred<T>>& matrices, int k, int i) const {
    return matrices[k].base + i * (int64_t)matrices[k].m;
  }
  static bool is_masked(const Op& op) { return op.mask_count || op.other_count; }
  const T* rate(const Op& op, int i) const { return op.rate < 0 ? nullptr : row(M, op.rate, i); }
  const T* left(const Entry& k, const Op& op, int e) const {
    return s.value(k.scalar) + e * stride(op.n);
  }
  const T* right(const Entry& k, const Op& op, int e) const {
    return s.value(k.vector) + e * stride(op.m);
  }

  void sums(const Op& op, const T* rows, Block& block) const {
    if (is_masked(op)) block.growths.resize(block.height * (int64_t)op.m);
    block.shifts.assign(block.height * (int64_t)op.m, 0);
    for (int k = op.first; k < op.first + op.count; ++k) {
      const Entry& entry = s.p.entries[k];
      add_outers<T>(block.shifts.data(), block.height, op.m, op.m, nullptr,
                    s.value(entry.scalar) + block.from, stride(op.n), s.value(entry.vector),
                    stride(op.m), s.examples);
    }
    for (int i = 0; i < block.height; ++i) {
      T* d = block.shift(op, i);
      for (int j = 0; share != 1 && j < op.m; ++j) d[j] *= share;
      if (!is_masked(op)) continue;
      T* g = block.growth(op, i);
      std::fill_n(g, op.m, rows[block.from + i]);
      add_masked(op, block.from + i, g, d);
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

  template <class Growth>
  void row_forward(const Op& op, Block& block, int at, Growth grows) {
    T* w = row(M, op.matrix, block.from + at);
    const T *A = rate(op, block.from + at), *d = block.shift(op, at);
    for (int j = 0; j < op.m; ++j) w[j] += (A ? A[j] : T(1)) * (grows[j] * w[j] + d[j]);
  }

  // For row number `at` of the block: M before the update, the adjoint of the rates, the pull and
  // its overlap. Then G before the update, which masks still have to see where there are some.
  template <class Growth>
  void row_backward(const Op& op, Block& block, int at, bool reverse, Growth grows) {
    const int i = block.from + at;
    T *w = row(M, op.matrix, i), *g = row(G, op.matrix, i), *h = pull.data() + i * (int64_t)op.m;
    const T *A = rate(op, i), *d = block.shift(op, at);
    T* A_bar = A && G[op.rate].base ? row(G, op.rate, i) : nullptr;
    const auto all = [&](auto each_rate) {
      for (int j = 0; reverse && j < op.m; ++j)
        w[j] = (w[j] - each_rate[j] * d[j]) / (1 + each_rate[j] * grows[j]);
      for (int j = 0; A_bar && j < op.m; ++j) A_bar[j] += g[j] * (grows[j] * w[j] + d[j]);
      for (int j = 0; j < op.m; ++j) h[j] = share * each_rate[j] * g[j];
      if constexpr (std::is_same_v<Growth, Same>)
        for (int j = 0; j < op.m; ++j) g[j] *= 1 + each_rate[j] * grows[j];
    };
    if (A) all(A);
    else all(Same{1});
    overlap[i] = dot(h, w, op.m);
  }

  void masked_row_backward(const Op& op, Block& block, int at, bool reverse) {
    const int i = block.from + at;
    T* grows = block.growth(op, at);
    row_backward(op, block, at, reverse, grows);
    T *w = row(M, op.matrix, i), *g = row(G, op.matrix, i), *h = pull.data() + i * (int64_t)op.m;
    products(op, op.masks, op.mask_count, i, [&](const Entry&, int j) { return h[j] * w[j]; });
    products(op, op.others, op.other_count, i,
             [&](const Entry& k, int j) { return h[j] * core(op, k, w, i, j, -1); });
    for (int k = op.others; k < op.others + op.other_count; ++k)
      cores_backward(op, s.p.entries[k], w, h, i, grows);
    const T* A = rate(op, i);
    for (int j = 0; j < op.m; ++j) g[j] *= 1 + (A ? A[j] : T(1)) * grows[j];
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

  void rows_backward(const Op& op) const {
    for (int e = 0; e < s.examples; ++e) {
      if (op.scale >= 0)
        for (int i = 0; i < op.n; ++i) s.adjoint(op.scale)[e] += overlap[i];
      for (int k = op.rows; k < op.rows + op.row_count; ++k) {
        T* p_bar = s.adjoint(s.p.entries[k].scalar) + e * stride(op.n);
        for (int i = 0; i < op.n; ++i) p_bar[i] += overlap[i];
      }
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
