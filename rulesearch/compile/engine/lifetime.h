// One lifetime: the tape run forward for a step, and its adjoint run backward.
//
// Vectors live in a frame, one a step; weights W and feedback B stay outside. Backward walks
// the tape in reverse. It begins at the updates, where it rebuilds W before the step from W
// after it and the frame's low-rank factors. Adjoints of matrix-vector products are outer
// products; they are gathered as (left, right) pairs and added to a matrix in one pass.
#pragma once
#include <cstring>
#include <vector>

#include "functions.h"
#include "passes.h"
#include "program.h"

namespace rulesearch {

template <class T>
struct Lifetime {
  const Program& p;
  const T* theta;
  std::vector<T*> M;           // W of each connection, then B of each
  T* y = nullptr;              // this step's frame
  T* bar = nullptr;            // its adjoint
  T* theta_bar = nullptr;
  std::vector<T*> M_bar;       // adjoints of matrices; null where not wanted
  std::vector<std::vector<const T*>> left, right;  // rank-one adjoints, gathered in a step
  std::vector<T> growth_row, shift_row;
  std::vector<const T*> u, v;
  std::vector<T*> ub, vb;

  Lifetime(const Program& program, const T* coefficients)
      : p(program), theta(coefficients), M(program.n_matrices), M_bar(program.n_matrices),
        left(program.n_matrices), right(program.n_matrices) {
    int widest = 1;
    for (int k = 0; k < p.n_matrices; ++k) widest = widest > p.columns[k] ? widest : p.columns[k];
    growth_row.resize(widest);
    shift_row.resize(widest);
  }

  // -- forward --

  void fill(const T* x, const T* target) {
    std::memcpy(y + p.x, x, sizeof(T) * p.x_size);
    std::memcpy(y + p.target, target, sizeof(T) * p.target_size);
    for (int i = 0; i < p.ones_size; ++i) y[p.ones + i] = 1;
  }

  void forward() {
    for (int k = 0; k < p.n_ops; ++k) {
      const Op& op = p.ops[k];
      T* out = y + op.out;
      const T *a = y + op.a, *b = y + op.b;
      switch (op.kind) {
        case MATVEC:
          std::memset(out, 0, sizeof(T) * op.n);
          matvec(M[op.matrix], a, out, op.n, op.m);
          break;
        case MATVEC_T:
          std::memset(out, 0, sizeof(T) * op.n);
          matvec_transposed(M[op.matrix], a, out, op.m, op.n);
          break;
        case MULTIPLY: for (int i = 0; i < op.n; ++i) out[i] = a[i] * b[i]; break;
        case SUBTRACT: for (int i = 0; i < op.n; ++i) out[i] = a[i] - b[i]; break;
        case DOT: *out = dot(a, op.b < 0 ? y + p.ones : b, op.n); break;
        case COEFFICIENT: *out = coefficient(op); break;
        case COMBINE: combine(op, out); break;
        case APPLY: apply(op.function, a, out, op.n, T(p.beta)); break;
        case UPDATE: update(op, M[op.matrix]); break;
      }
    }
  }

  T coefficient(const Op& op) const {
    T s = 0;
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& e = p.entries[i];
      s += T(e.number) * (e.term < 0 ? T(1) : theta[e.term]) * (e.scalar < 0 ? T(1) : y[e.scalar]);
    }
    return s;
  }

  void combine(const Op& op, T* __restrict out) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const T k = y[p.entries[i].scalar];
      const T* v = y + p.entries[i].vector;
      if (i == op.first)
        for (int j = 0; j < op.n; ++j) out[j] = k * v[j];
      else
        for (int j = 0; j < op.n; ++j) out[j] += k * v[j];
    }
  }

  void gather_outers(const Op& op) {
    u.clear(); v.clear(); ub.clear(); vb.clear();
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& e = p.entries[i];
      u.push_back(y + e.scalar); v.push_back(y + e.vector);
      ub.push_back(bar + e.scalar); vb.push_back(bar + e.vector);
    }
  }

  bool is_plain(const Op& op) const { return op.mask_count == 0 && op.other_count == 0; }
  T scale(const Op& op) const { return op.scale < 0 ? T(0) : y[op.scale]; }

  void update(const Op& op, T* W) {
    gather_outers(op);
    if (is_plain(op)) {
      add_outers(W, 1 + scale(op), u.data(), v.data(), op.count, op.n, op.m);
      return;
    }
    for (int i = 0; i < op.n; ++i) {
      T* w = W + (int64_t)i * op.m;
      row_of_update(op, i, w);
      for (int j = 0; j < op.m; ++j) w[j] = w[j] * (1 + growth_row[j]) + shift_row[j];
    }
  }

  // growth_row = s + P Q^T, shift_row = U V^T + sum (p q^T) o E, of row i; w is W's row before
  void row_of_update(const Op& op, int i, const T* w) {
    T *__restrict growth = growth_row.data(), *__restrict shift = shift_row.data();
    const T s = scale(op);
    for (int j = 0; j < op.m; ++j) { growth[j] = s; shift[j] = 0; }
    for (int k = op.masks; k < op.masks + op.mask_count; ++k) {
      const T c = y[p.entries[k].scalar + i];
      const T* q = y + p.entries[k].vector;
      for (int j = 0; j < op.m; ++j) growth[j] += c * q[j];
    }
    for (size_t k = 0; k < u.size(); ++k) {
      const T c = u[k][i];
      for (int j = 0; j < op.m; ++j) shift[j] += c * v[k][j];
    }
    for (int k = op.others; k < op.others + op.other_count; ++k) {
      const Entry& e = p.entries[k];
      const T c = y[e.scalar + i];
      const T* q = y + e.vector;
      for (int j = 0; j < op.m; ++j) shift[j] += c * q[j] * core(e, op, w, i, j, -1);
    }
  }

  // the elementwise product of powers of weights at (i, j), or its derivative in one of them
  T core(const Entry& e, const Op& op, const T* w, int i, int j, int derivative) const {
    T value = 1;
    for (int k = e.core; k < e.core + e.core_count; ++k) {
      const CoreFactor& f = p.cores[k];
      const T x = f.matrix == op.matrix ? w[j] : M[f.matrix][(int64_t)i * op.m + j];
      int power = f.power;
      if (k == derivative) value *= T(power--);
      for (int r = 0; r < power; ++r) value *= x;
    }
    return value;
  }

  // -- backward --

  void backward(bool rebuild) {
    std::memset(bar, 0, sizeof(T) * p.frame);
    for (int k = 0; k < p.n_matrices; ++k) { left[k].clear(); right[k].clear(); }
    for (int k = p.n_ops - 1; k >= 0; --k) {
      const Op& op = p.ops[k];
      const T *out = y + op.out, *a = y + op.a, *b = y + op.b;
      const T* g = bar + op.out;
      T *ga = bar + op.a, *gb = bar + op.b;
      switch (op.kind) {
        case MATVEC:
          if (op.wants_a) matvec_transposed(M[op.matrix], g, ga, op.n, op.m);
          if (op.wants_matrix && M_bar[op.matrix]) pair(op.matrix, g, a);
          break;
        case MATVEC_T:
          if (op.wants_a) matvec(M[op.matrix], g, ga, op.m, op.n);
          if (op.wants_matrix && M_bar[op.matrix]) pair(op.matrix, a, g);
          break;
        case MULTIPLY:
          if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[i] += g[i] * b[i];
          if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[i] += g[i] * a[i];
          break;
        case SUBTRACT:
          if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[i] += g[i];
          if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[i] -= g[i];
          break;
        case DOT:
          if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[i] += *g * (op.b < 0 ? T(1) : b[i]);
          if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[i] += *g * a[i];
          break;
        case COEFFICIENT: coefficient_backward(op, *g); break;
        case COMBINE: combine_backward(op, g); break;
        case APPLY:
          if (op.wants_a) apply_adjoint(op.function, a, out, g, ga, op.n, T(p.beta));
          break;
        case UPDATE: update_backward(op, rebuild); break;
      }
    }
    for (int k = 0; k < p.n_ops; ++k)  // adjoints of W move back over the update itself
      if (p.ops[k].kind == UPDATE) weight_backward(p.ops[k]);
    for (int k = p.n_plastic; k < p.n_matrices; ++k)
      if (M_bar[k])
        add_outers(M_bar[k], T(1), left[k].data(), right[k].data(), (int)left[k].size(),
                   p.rows[k], p.columns[k]);
  }

  void pair(int matrix, const T* l, const T* r) { left[matrix].push_back(l); right[matrix].push_back(r); }

  void coefficient_backward(const Op& op, T g) {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& e = p.entries[i];
      const T number = T(e.number), th = e.term < 0 ? T(1) : theta[e.term];
      const T s = e.scalar < 0 ? T(1) : y[e.scalar];
      if (e.term >= 0) theta_bar[e.term] += g * number * s;
      if (e.wants_scalar) bar[e.scalar] += g * number * th;
    }
  }

  void combine_backward(const Op& op, const T* g) {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& e = p.entries[i];
      const T k = y[e.scalar];
      const T* v = y + e.vector;
      if (e.wants_scalar) bar[e.scalar] += dot(g, v, op.n);
      if (e.wants_vector) {
        T* gv = bar + e.vector;
        for (int j = 0; j < op.n; ++j) gv[j] += k * g[j];
      }
    }
  }

  void update_backward(const Op& op, bool rebuild) {
    T* W = M[op.matrix];
    T* G = M_bar[op.matrix];
    gather_outers(op);
    T* s_bar = op.scale < 0 ? nullptr : bar + op.scale;
    if (is_plain(op)) {
      const T inverse = rebuild ? 1 / (1 + scale(op)) : T(1), sign = rebuild ? T(-1) : T(0);
      reverse_update(W, G, sign, inverse, u.data(), v.data(), ub.data(), vb.data(), s_bar,
                     op.count, op.n, op.m);
      return;
    }
    for (int i = 0; i < op.n; ++i) {
      T* w = W + (int64_t)i * op.m;
      const T* g = G + (int64_t)i * op.m;
      if (rebuild) {  // no other term reads W here: the program is invertible
        row_of_update(op, i, w);
        for (int j = 0; j < op.m; ++j) w[j] = (w[j] - shift_row[j]) / (1 + growth_row[j]);
      }
      if (s_bar) *s_bar += dot(g, w, op.m);
      for (size_t k = 0; k < u.size(); ++k) {
        ub[k][i] += dot(g, v[k], op.m);
        for (int j = 0; j < op.m; ++j) vb[k][j] += u[k][i] * g[j];
      }
      for (int k = op.masks; k < op.masks + op.mask_count; ++k) {
        const Entry& e = p.entries[k];
        product_backward(e, i, op.m, [&](int j) { return g[j] * w[j]; });
      }
      for (int k = op.others; k < op.others + op.other_count; ++k) {
        const Entry& e = p.entries[k];
        product_backward(e, i, op.m, [&](int j) { return g[j] * core(e, op, w, i, j, -1); });
        others_backward(e, op, w, g, i);
      }
    }
  }

  template <class F>
  void product_backward(const Entry& e, int i, int m, F weighted) {
    const T c = y[e.scalar + i];
    const T* q = y + e.vector;
    T* qb = bar + e.vector;
    T s = 0;
    for (int j = 0; j < m; ++j) { const T value = weighted(j); s += value * q[j]; qb[j] += c * value; }
    bar[e.scalar + i] += s;
  }

  // the adjoints of feedback weights in a core; that of W itself is in weight_backward
  void others_backward(const Entry& e, const Op& op, const T* w, const T* g, int i) {
    const T c = y[e.scalar + i];
    const T* q = y + e.vector;
    for (int k = e.core; k < e.core + e.core_count; ++k) {
      const int matrix = p.cores[k].matrix;
      if (matrix == op.matrix || !M_bar[matrix]) continue;
      T* gm = M_bar[matrix] + (int64_t)i * op.m;
      for (int j = 0; j < op.m; ++j) gm[j] += g[j] * c * q[j] * core(e, op, w, i, j, k);
    }
  }

  // W_bar <- W_bar o (1 + growth + d others / dW) + the gathered pairs
  void weight_backward(const Op& op) {
    const int k = op.matrix;
    T* G = M_bar[k];
    T growth = 1 + scale(op);
    if (!is_plain(op)) {
      gather_outers(op);
      for (int i = 0; i < op.n; ++i) {
        T* g = G + (int64_t)i * op.m;
        const T* w = M[k] + (int64_t)i * op.m;
        row_of_update(op, i, w);
        T* __restrict factor = growth_row.data();
        for (int r = op.others; r < op.others + op.other_count; ++r) {
          const Entry& e = p.entries[r];
          for (int f = e.core; f < e.core + e.core_count; ++f)
            if (p.cores[f].matrix == k)
              for (int j = 0; j < op.m; ++j)
                factor[j] += y[e.scalar + i] * y[e.vector + j] * core(e, op, w, i, j, f);
        }
        for (int j = 0; j < op.m; ++j) g[j] *= 1 + factor[j];
      }
      growth = 1;
    }
    add_outers(G, growth, left[k].data(), right[k].data(), (int)left[k].size(), op.n, op.m);
  }

  void replay_updates() {  // W after this step from W before it, from the frame alone
    for (int k = 0; k < p.n_ops; ++k)
      if (p.ops[k].kind == UPDATE) update(p.ops[k], M[p.ops[k].matrix]);
  }
};

}  // namespace rulesearch
