// One lifetime: the tape run forward for a chunk of steps, and its adjoint run backward.
//
// Backward begins a step at its updates: it pulls the adjoints G of the weights through them,
// then takes the update back, so that M holds the weights which the step saw. Matrices and
// adjoints are brought up to date once a chunk (deferred.h). What multiplies a matrix and is
// known for a whole chunk (the inputs; backward, the outer products of the updates) is
// multiplied at the chunk's beginning, in one pass.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "deferred.h"
#include "elementwise.h"
#include "numbers.h"
#include "schedule.h"
#include "team.h"
#include "vectors.h"

namespace rulesearch {

constexpr int CHUNK_PRODUCTS = 40;  // outer products of a matrix that a chunk may defer
constexpr int MANY_EXAMPLES = 16;   // from here a step alone makes a pass worth its cost
constexpr int64_t VECTOR_WORK = 8;  // multiplications that a number of a frame costs, or so

template <class T>
struct Lifetime {
  const Program& p;
  const int examples;
  const T share;  // of an example in the update
  int chunk;      // steps
  const Schedule schedule;
  Vectors<T> s;
  std::vector<Deferred<T>> M, G;         // W of each connection, then B of each; their adjoints
  std::vector<T*> columns, columns_bar;  // where M and G begin
  std::vector<const Op*> update_of;      // of each plastic matrix
  std::vector<bool> rebuilt;             // each plastic matrix that backward reads at every step
  std::vector<Numbers<T>> overlap;   // sum_j G_ij M_ij, where an update makes M grow
  Numbers<T> rho;
  Numbers<T> inputs;                 // of the chunk
  std::vector<Numbers<T>> known;     // matrices times inputs
  Numbers<T> frames, bar;

  struct Outers {  // of a chunk, backward: U, V and their products G V, G^T U
    Numbers<T> u, v, gv, gu;
  };
  std::vector<Outers> outers;
  Numbers<T> u_bar, v_bar, product;
  Elementwise<T> dense;

  Lifetime(const Program& program, int step_examples, T example_share, const T* theta, bool differentiate)
      : p(program), examples(step_examples), share(example_share), schedule(program),
        s{program, step_examples, theta},
        M(p.n_matrices), G(p.n_matrices), columns(p.n_matrices), columns_bar(p.n_matrices),
        update_of(p.n_plastic), rebuilt(p.n_plastic), overlap(p.n_plastic),
        known(p.n_ahead), outers(p.n_plastic), dense(s, share, M, G) {
    std::vector<int> uses(p.n_matrices, 0);
    bool low_rank = true;
    int widest = 1;
    for (int k = 0; k < p.n_ops; ++k) {
      const Op& op = p.ops[k];
      if (op.kind == MATVEC || op.kind == MATVEC_T) {
        ++uses[op.matrix];
        if (op.matrix < p.n_plastic && (op.kind == MATVEC_T || op.wants_a)) rebuilt[op.matrix] = true;
      }
      if (op.kind != UPDATE) continue;
      if (grows(op)) rebuilt[op.matrix] = true;
      update_of[op.matrix] = &op;
      low_rank = low_rank && is_low_rank(op);
      widest = std::max(widest, op.count);
    }
    if (!low_rank) rebuilt.assign(p.n_plastic, true);  // an update may read any
    for (int k = 0; k < p.n_matrices; ++k) widest = std::max(widest, uses[k]);
    const bool few = examples < MANY_EXAMPLES;
    chunk = low_rank && few ? std::max(1, CHUNK_PRODUCTS / (widest * examples)) : 1;
    room = few ? chunk * widest * examples : 0;
    s.columns = columns.data();
    s.columns_bar = columns_bar.data();
    inputs.resize(chunk > 1 ? chunk * examples * stride(p.x_size) : 0);
    for (int k = 0; k < p.n_ops; ++k)
      if (chunk > 1 && p.ops[k].ahead >= 0) known[p.ops[k].ahead].resize(chunk * examples * stride(p.ops[k].n));
    frames.assign((differentiate ? chunk : 1) * frame_size(), 0);
    bar.resize(differentiate ? frame_size() : 0);
    s.bar = bar.data();
    for (size_t at = p.ones * examples; at < frames.size(); at += frame_size())
      std::fill_n(frames.data() + at, p.ones_size * examples, T(1));
    rho.resize(stride(*std::max_element(p.rows, p.rows + p.n_matrices)));
  }

  int64_t frame_size() const { return (int64_t)p.frame * examples; }
  int64_t stored_size() const { return (int64_t)p.stored * examples; }

  void set_matrix(int k, T* matrix) {
    const bool deferred = k < p.n_plastic && is_low_rank(*update_of[k]);
    M[k].reset(matrix, p.rows[k], p.columns[k], deferred ? room : 0);
    columns[k] = matrix;
  }
  void set_adjoint(int k, T* matrix) {
    const bool deferred = k >= p.n_plastic || is_low_rank(*update_of[k]);
    G[k].reset(matrix, p.rows[k], p.columns[k], deferred ? room : 0);
    columns_bar[k] = matrix;
  }

  // -- forward --

  // Run steps begin to end, at most a chunk; keep what backward needs of each in `stored`.
  template <class Source>
  void forward(const Source& source, int64_t begin, int64_t end, T* stored) {
    if (chunk > 1) multiply_inputs(source, begin, end);
    for (int64_t t = begin; t < end; ++t) {
      s.y = frames.data();
      fill(source, t);
      for (const Stretch& stretch : schedule.stretches) {
        const Op& op = *stretch.first->first;
        if (op.kind == UPDATE) update(op);
        else if (is_of_matrix(op)) product_forward(op, t - begin);
        else s.forward(stretch);
      }
      if (stored) std::memcpy(stored + (t - begin) * stored_size(), s.y, sizeof(T) * stored_size());
    }
    for (int k = 0; k < p.n_plastic; ++k) M[k].flush();
  }

  // The updates of one step again, from what was stored.
  template <class Source>
  void replay(const Source& source, int64_t t, const T* stored) {
    rebuild(source, t, 0, stored);
    s.y = frames.data();
    for (int k = 0; k < p.n_plastic; ++k) update(*update_of[k]);
    for (int k = 0; k < p.n_plastic; ++k) M[k].flush();
  }

  // -- backward --

  // Pull G back over steps begin to end. With `reverse`, M holds the weights after them and is
  // brought to before them, where backward needs them (as it does not those of the first connection,
  // whose input has no adjoint); otherwise it is a single step and M the weights before it.
  template <class Source>
  void backward(const Source& source, int64_t begin, int64_t end, const T* stored, bool reverse) {
    split(VECTOR_WORK * frame_size() * (end - begin), end - begin, 1, [&](int64_t from, int64_t to) {
      for (int64_t step = from; step < to; ++step)
        rebuild(source, begin + step, step, stored + step * stored_size());
    });
    for (int k = 0; k < p.n_plastic; ++k)
      if (is_low_rank(*update_of[k])) begin_chunk(*update_of[k], end - begin);
    for (int64_t t = end - 1; t >= begin; --t) {
      s.y = frames.data() + (t - begin) * frame_size();
      split(frame_size() / 4, frame_size(), stride(2), [&](int64_t from, int64_t to) {
        std::fill(bar.data() + from, bar.data() + to, T(0));
      });
      for (auto at = schedule.stretches.rbegin(); at != schedule.stretches.rend(); ++at) {
        const Op& op = *at->first->first;
        if (op.kind == MATVEC) multiply_backward(op);
        else if (op.kind == MATVEC_T) multiply_transposed_backward(op);
        else if (op.kind == UPDATE) update_backward(op, t - begin, reverse);
        else s.backward(*at);
      }
      for (int e = 0; source.wants_input() && e < examples; ++e)
        std::memcpy(source.input_adjoint(t, e), s.adjoint(p.x) + e * stride(p.x_size),
                    sizeof(T) * p.x_size);
    }
    for (auto* matrices : {&M, &G})
      for (auto& matrix : *matrices) matrix.flush();
  }

 private:
  int room;  // for outer products that a matrix defers

  template <class Source>
  void multiply_inputs(const Source& source, int64_t begin, int64_t end) {
    const int64_t x_stride = stride(p.x_size);
    const int count = int(end - begin) * examples;
    for (int k = 0; k < count; ++k)
      std::memcpy(inputs.data() + k * x_stride, source.input(begin + k / examples, k % examples),
                  sizeof(T) * p.x_size);
    for (int k = 0; k < p.n_ops; ++k) {
      const Op& op = p.ops[k];
      if (op.ahead < 0) continue;
      auto& products = known[op.ahead];
      std::fill(products.begin(), products.end(), T(0));
      multiply(M[op.matrix].base, op.n, op.m, op.m, inputs.data(), x_stride, products.data(),
               stride(op.n), count);
    }
  }

  void product_forward(const Op& op, int64_t step) {
    T* out = s.value(op.out);
    const T* a = s.value(op.a);
    const int64_t so = stride(op.n), sa = stride(op.m);
    std::memset(out, 0, sizeof(T) * examples * so);
    Deferred<T>& matrix = M[op.matrix];
    if (op.ahead >= 0 && chunk > 1)
      matrix.multiply_ahead(known[op.ahead].data() + step * examples * so, a, sa, out, so, examples);
    else if (op.kind == MATVEC)
      matrix.multiply(a, sa, out, so, examples);
    else
      matrix.multiply_transposed(a, sa, out, so, examples);
  }

  void update(const Op& op) {
    s.row_growth(op, share, rho);
    if (!is_low_rank(op)) {
      dense.forward(op, rho.data());
      return;
    }
    Deferred<T>& matrix = M[op.matrix];
    if (grows(op)) matrix.scale_rows(plus_one(op.n));
    add_outers_of(op, matrix, share);
  }

  const T* plus_one(int n) {
    for (int i = 0; i < n; ++i) rho[i] += 1;
    return rho.data();
  }

  void add_outers_of(const Op& op, Deferred<T>& matrix, T factor) {
    for (int r = op.first; r < op.first + op.count; ++r)
      matrix.add(s.value(p.entries[r].scalar), stride(op.n), s.value(p.entries[r].vector),
                 stride(op.m), examples, factor);
  }

  template <class Source>
  void fill(const Source& source, int64_t t) const {
    split(int64_t(examples) * p.x_size, examples, 1, [&](int64_t first, int64_t last) {
      s.fill(source, t, first, last);
    });
  }

  // All vectors of a step, from what was stored; steps do not depend on each other, and neither do
  // examples, once all products with matrices are there.
  template <class Source>
  void rebuild(const Source& source, int64_t t, int64_t step, const T* stored) {
    Vectors<T> to = s;
    to.y = frames.data() + step * frame_size();
    split(stored_size(), stored_size(), stride(2), [&](int64_t from, int64_t end) {
      std::copy(stored + from, stored + end, to.y + from);
    });
    split(VECTOR_WORK * frame_size(), examples, 1, [&](int64_t first, int64_t last) {
      to.fill(source, t, first, last);
      for (const Stretch& stretch : schedule.stretches)
        if (!is_of_matrix(*stretch.first->first)) to.forward(stretch, first, last);
    });
  }

  // Multiply G with all outer products of the chunk. The growth of later steps stands between
  // G at the chunk's end and G at a step: it is put on U.
  void begin_chunk(const Op& op, int64_t steps) {
    Deferred<T>&matrix = M[op.matrix], &adjoint = G[op.matrix];
    if (grows(op)) {
      auto& rows = overlap[op.matrix];
      rows.resize(op.n);
      split(p.size(op.matrix), op.n, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
          rows[i] = dot(adjoint.base + i * op.m, matrix.base + i * op.m, op.m);
      });
    }
    if (!room) return;
    const int64_t sn = stride(op.n), sm = stride(op.m);
    const int width = op.count * examples, count = width * (int)steps;
    Outers& o = outers[op.matrix];
    o.u.resize(count * sn); o.gv.assign(count * sn, 0);
    o.v.resize(count * sm); o.gu.assign(count * sm, 0);
    Numbers<T> later(op.n, 1), grown(grows(op) ? count * sn : 0);
    for (int64_t t = steps - 1; t >= 0; --t) {
      s.y = frames.data() + t * frame_size();
      for (int k = 0; k < width; ++k) {
        const Entry& entry = p.entries[op.first + k / examples];
        const int e = k % examples;
        const T *u = s.value(entry.scalar) + e * sn, *v = s.value(entry.vector) + e * sm;
        const int64_t at = t * width + k;
        for (int i = 0; i < op.n; ++i) o.u[at * sn + i] = share * u[i];
        if (grows(op))
          for (int i = 0; i < op.n; ++i) grown[at * sn + i] = later[i] * share * u[i];
        for (int j = 0; j < op.m; ++j) o.v[at * sm + j] = share * v[j];
      }
      if (grows(op)) {
        s.row_growth(op, share, rho);
        for (int i = 0; i < op.n; ++i) later[i] *= 1 + rho[i];
      }
    }
    adjoint.multiply_all_but_zeros(o.v, o.gv, count);
    multiply_transposed(adjoint.base, op.n, op.m, op.m, (grows(op) ? grown : o.u).data(), sn,
                        o.gu.data(), sm, count);
  }

  void update_backward(const Op& op, int64_t step, bool reverse) {
    s.row_growth(op, share, rho);
    if (!is_low_rank(op)) {
      dense.backward(op, rho.data(), reverse);
      return;
    }
    Deferred<T>&matrix = M[op.matrix], &adjoint = G[op.matrix];
    outers_backward(op, step);
    if (reverse && rebuilt[op.matrix]) add_outers_of(op, matrix, -share);
    if (!grows(op)) return;
    auto& rows = overlap[op.matrix];
    if (reverse) {  // from G and M after the update to G after and M before it
      subtract_outers(op, rows);
      for (int i = 0; i < op.n; ++i) rows[i] /= 1 + rho[i];
    }
    T total = 0;
    for (int i = 0; i < op.n; ++i) total += rows[i];
    for (int e = 0; e < examples; ++e) {
      if (op.scale >= 0) s.adjoint(op.scale)[e] += share * total;
      for (int k = op.rows; k < op.rows + op.row_count; ++k) {
        T* p_bar = s.adjoint(p.entries[k].scalar) + e * stride(op.n);
        for (int i = 0; i < op.n; ++i) p_bar[i] += share * rows[i];
      }
    }
    adjoint.scale_rows(plus_one(op.n));
    for (int i = 0; i < op.n; ++i) {
      rows[i] *= rho[i];  // to G before the update, but for what the step's products add
      rho[i] = 1 / rho[i];
    }
    if (reverse) matrix.scale_rows(rho.data());
  }

  // rows_i -= sum_k u_k,i (G v_k)_i: what the update's outer products add to the overlap
  void subtract_outers(const Op& op, Numbers<T>& rows) const {
    for (int k = 0; k < op.count * examples; ++k) {
      const T* u = s.value(p.entries[op.first + k / examples].scalar) + k % examples * stride(op.n);
      const T* ub = u_bar.data() + k * stride(op.n);
      for (int i = 0; i < op.n; ++i) rows[i] -= u[i] * ub[i];
    }
  }

  // u_bar += G v, v_bar += G^T u
  void outers_backward(const Op& op, int64_t step) {
    const int64_t sn = stride(op.n), sm = stride(op.m);
    const int width = op.count * examples;
    Deferred<T>& adjoint = G[op.matrix];
    u_bar.assign(width * sn, 0);
    v_bar.assign(width * sm, 0);
    T part = 1;
    if (room) {
      const Outers& o = outers[op.matrix];
      const int64_t at = step * width;
      adjoint.multiply_ahead(o.gv.data() + at * sn, o.v.data() + at * sm, sm, u_bar.data(), sn, width);
      adjoint.multiply_transposed_ahead(o.gu.data() + at * sm, o.u.data() + at * sn, sn, v_bar.data(),
                                        sm, width);
    } else {
      part = share;
      for (int r = 0; r < op.count; ++r) {
        const Entry& entry = p.entries[op.first + r];
        adjoint.multiply(s.value(entry.vector), sm, u_bar.data() + r * examples * sn, sn, examples);
        adjoint.multiply_transposed(s.value(entry.scalar), sn, v_bar.data() + r * examples * sm, sm,
                                    examples);
      }
    }
    for (int r = 0; r < op.count; ++r) {
      const Entry& entry = p.entries[op.first + r];
      T *ub = s.adjoint(entry.scalar), *vb = s.adjoint(entry.vector);
      T *u = u_bar.data() + r * examples * sn, *v = v_bar.data() + r * examples * sm;
      for (int64_t i = 0; i < examples * sn; ++i) { u[i] *= part; ub[i] += u[i]; }
      for (int64_t j = 0; j < examples * sm; ++j) vb[j] += part * v[j];
    }
  }

  // out = M a
  void multiply_backward(const Op& op) {
    const int64_t sn = stride(op.n), sm = stride(op.m);
    const T *a = s.value(op.a), *out = s.value(op.out), *g = s.adjoint(op.out);
    if (op.wants_a) M[op.matrix].multiply_transposed(g, sn, s.adjoint(op.a), sm, examples);
    if (op.wants_matrix) add_pair(op.matrix, g, sn, a, sm, out, sn);
  }

  // out = M^T a
  void multiply_transposed_backward(const Op& op) {
    const int64_t sn = stride(op.n), sm = stride(op.m);
    const T *a = s.value(op.a), *g = s.adjoint(op.out);
    product.assign(examples * sm, 0);
    M[op.matrix].multiply(g, sn, product.data(), sm, examples);
    if (op.wants_a) {
      T* ga = s.adjoint(op.a);
      for (int64_t i = 0; i < examples * sm; ++i) ga[i] += product[i];
    }
    if (op.wants_matrix) add_pair(op.matrix, a, sm, g, sn, product.data(), sm);
  }

  // G += sum_e l_e r_e^T, and the overlap with it; `image` is M r
  void add_pair(int k, const T* l, int64_t l_stride, const T* r, int64_t r_stride, const T* image,
                int64_t image_stride) {
    if (!G[k].base) return;
    G[k].add(l, l_stride, r, r_stride, examples, T(1));
    if (k >= p.n_plastic || !grows(*update_of[k])) return;
    for (int e = 0; e < examples; ++e)
      for (int i = 0; i < p.rows[k]; ++i)
        overlap[k][i] += l[e * l_stride + i] * image[e * image_stride + i];
  }
};

}  // namespace rulesearch
