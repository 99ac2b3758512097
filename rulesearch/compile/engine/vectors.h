// The operations of a tape on vectors and scalars, and their adjoints: all but products with
// matrices and updates.
#pragma once
#include <algorithm>
#include <cstring>

#include "functions.h"
#include "numbers.h"
#include "panels.h"
#include "program.h"
#include "schedule.h"
#include "team.h"

namespace rulesearch {

constexpr int kBlock = 400;  // numbers of a run at a time: a dozen vectors of them fit in L1

template <class T>
struct Vectors {
  const Program& p;
  int examples;
  const T* theta;
  T* y = nullptr;      // the frame of a step
  T* bar = nullptr;    // its adjoint
  T* theta_bar = nullptr;
  T* const* columns = nullptr;      // the matrices, of which some are one column
  T* const* columns_bar = nullptr;  // their adjoints, null where nobody wants them

  T* value(int32_t offset) const { return y + (int64_t)offset * examples; }
  T* adjoint(int32_t offset) const { return bar + (int64_t)offset * examples; }

  // Examples begin to end of step t.
  template <class Source>
  void fill(const Source& source, int64_t t, int64_t begin, int64_t end) const {
    for (int e = (int)begin; e < end; ++e) {
      std::memcpy(value(p.x) + e * stride(p.x_size), source.input(t, e), sizeof(T) * p.x_size);
      source.target(t, e, value(p.target) + e * stride(p.target_size), p.target_size);
    }
  }

  void forward(const Stretch& stretch) const {
    split(cost(stretch) * examples, examples, 1, [&](int64_t begin, int64_t end) {
      forward(stretch, begin, end);
    });
  }

  void forward(const Stretch& stretch, int64_t begin, int64_t end) const {
    for (const Run& run : stretch)
      by_blocks(run, begin, end, [&](int e, int j, int n) {
        for (const Op& op : run) forward(op, e, j, n);
      });
  }

  void backward(const Stretch& stretch) const {
    split(cost(stretch) * examples, examples, 1, [&](int64_t begin, int64_t end) {
      for (const Run* run = stretch.last; run-- != stretch.first;)
        by_blocks(*run, begin, end, [&](int e, int j, int n) {
          for (const Op* op = run->last; op-- != run->first;) backward(*op, e, j, n);
        });
    });
    for (const Run* run = stretch.last; run-- != stretch.first;)
      if (run->first->kind == COEFFICIENT) coefficient_sums(*run->first);
      else if (run->first->kind == COLUMN) column_sums(*run->first);
  }

  // What an update makes each row of its matrix grow by: rho = share sum_e (s_e + sum p_e)
  void row_growth(const Op& op, T share, Numbers<T>& rho) const {
    std::fill(rho.begin(), rho.end(), T(0));
    for (int e = 0; e < examples; ++e) {
      const T scale = op.scale < 0 ? T(0) : value(op.scale)[e];
      for (int i = 0; i < op.n; ++i) rho[i] += share * scale;
      for (int k = op.rows; k < op.rows + op.row_count; ++k) {
        const T* rows = value(p.entries[k].scalar) + e * stride(op.n);
        for (int i = 0; i < op.n; ++i) rho[i] += share * rows[i];
      }
    }
  }

 private:
  // Multiplications that an example costs, or so.
  static int64_t cost(const Stretch& stretch) {
    int64_t sum = 0;
    for (const Run& run : stretch)
      for (const Op& op : run)
        sum += int64_t(op.n) * (op.kind == APPLY ? 64 : op.kind == COMBINE ? 4 * op.count : 4);
    return sum;
  }

  // A block begins where vector registers do: what the compiler makes of the last few numbers may
  // differ in a bit from what it makes of the others.
  template <class F>
  void by_blocks(const Run& run, int64_t begin, int64_t end, const F& do_block) const {
    const Op& op = *run.first;
    const int size = (int)stride(op.n), block = is_elementwise(op) ? kBlock : size;
    for (int64_t e = begin; e < end; ++e)
      for (int j = 0; j < size; j += block) do_block((int)e, j, std::min(block, size - j));
  }

  // Numbers j to j + n of example e; of a whole vector, all but what fills it up.
  void forward(const Op& op, int e, int j, int n) const {
    const int64_t at = e * stride(op.n) + j;
    T* __restrict out = value(op.out) + at;
    const T *a = value(op.a) + at, *b = value(op.b) + at;
    switch (op.kind) {
      case MULTIPLY: for (int i = 0; i < n; ++i) out[i] = a[i] * b[i]; break;
      case SUBTRACT: for (int i = 0; i < n; ++i) out[i] = a[i] - b[i]; break;
      case DOT: value(op.out)[e] = op.b < 0 ? sum(a, op.n) : dot(a, b, op.n); break;
      case COEFFICIENT: coefficient(op, e); break;
      case COLUMN: std::copy_n(columns[op.matrix], op.n, out); break;
      case COMBINE: combine(op, e, j, n); break;
      case APPLY: apply(op.function, a, out, op.function == SOFTMAX ? op.n : n, T(p.beta)); break;
    }
  }

  void backward(const Op& op, int e, int j, int n) const {
    const int64_t at = e * stride(op.n) + j;
    const T *out = value(op.out) + at, *a = value(op.a) + at, *b = value(op.b) + at;
    const T* g = adjoint(op.out) + at;
    T *ga = adjoint(op.a) + at, *gb = adjoint(op.b) + at;
    switch (op.kind) {
      case MULTIPLY:
        if (op.wants_a) for (int i = 0; i < n; ++i) ga[i] += g[i] * b[i];
        if (op.wants_b) for (int i = 0; i < n; ++i) gb[i] += g[i] * a[i];
        break;
      case SUBTRACT:
        if (op.wants_a) for (int i = 0; i < n; ++i) ga[i] += g[i];
        if (op.wants_b) for (int i = 0; i < n; ++i) gb[i] -= g[i];
        break;
      case DOT: {
        const T s = adjoint(op.out)[e];
        if (op.wants_a && op.b < 0) for (int i = 0; i < op.n; ++i) ga[i] += s;
        else if (op.wants_a) for (int i = 0; i < op.n; ++i) ga[i] += s * b[i];
        if (op.wants_b) for (int i = 0; i < op.n; ++i) gb[i] += s * a[i];
        break;
      }
      case COEFFICIENT: coefficient_backward(op, e); break;
      case COMBINE: combine_backward(op, e, j, std::min(n, op.n - j)); break;
      case APPLY:
        if (op.wants_a)
          apply_adjoint(op.function, a, out, g, ga, op.function == SOFTMAX ? op.n : n, T(p.beta));
        break;
    }
  }

  T number(const Entry& e) const { return T(e.number) * (e.term < 0 ? T(1) : theta[e.term]); }

  void coefficient(const Op& op, int e) const {
    T sum = 0;
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      sum += entry.scalar < 0 ? number(entry) : number(entry) * value(entry.scalar)[e];
    }
    value(op.out)[e] = sum;
  }

  void coefficient_backward(const Op& op, int e) const {
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      if (entry.wants_scalar) adjoint(entry.scalar)[e] += adjoint(op.out)[e] * number(entry);
    }
  }

  // What all examples add to the coefficients of terms, and to a column that they share.
  void coefficient_sums(const Op& op) const {
    const T* g = adjoint(op.out);
    for (int i = op.first; i < op.first + op.count; ++i) {
      const Entry& entry = p.entries[i];
      if (entry.term < 0) continue;
      T total = 0;
      for (int e = 0; e < examples; ++e)
        total += entry.scalar < 0 ? g[e] : g[e] * value(entry.scalar)[e];
      theta_bar[entry.term] += T(entry.number) * total;
    }
  }
  void column_sums(const Op& op) const {
    T* sum = columns_bar[op.matrix];
    if (!sum) return;
    split(int64_t(op.n) * examples, op.n, 2 * kWide, [&](int64_t begin, int64_t end) {
      for (int e = 0; e < examples; ++e) {
        const T* g = adjoint(op.out) + e * stride(op.n);
        for (int64_t i = begin; i < end; ++i) sum[i] += g[i];
      }
    });
  }

  // Entries of a combination, a few at a time: what they share passes by less often.
  template <class F>
  void by_entries(const Op& op, const F& some) const {
    const Entry *entry = p.entries + op.first, *last = entry + op.count;
    for (; last - entry >= 4; entry += 4) some(entry, std::integral_constant<int, 4>());
    for (; last - entry >= 2; entry += 2) some(entry, std::integral_constant<int, 2>());
    if (entry < last) some(entry, std::integral_constant<int, 1>());
  }

  // out = sum_i k_i v_i
  void combine(const Op& op, int e, int j, int n) const {
    const int64_t at = e * stride(op.n) + j;
    T* __restrict out = value(op.out) + at;
    by_entries(op, [&](const Entry* entry, auto count) {
      constexpr int K = count;
      using S = Simd<T>;
      T k[K];
      const T* v[K];
      UNROLL
      for (int i = 0; i < K; ++i) {
        k[i] = value(entry[i].scalar)[e];
        v[i] = value(entry[i].vector) + at;
      }
      const bool more = entry != p.entries + op.first;
      const auto add = [&](int l, auto... width) INLINE {
        auto s = more ? S::load(out + l, width...) : typename S::Vector{};
        UNROLL
        for (int i = 0; i < K; ++i) s += k[i] * S::load(v[i] + l, width...);
        S::store(out + l, s, width...);
      };
      int l = 0;
      for (; l + S::lanes <= n; l += S::lanes) add(l);
      if (l < n) add(l, n - l);
    });
  }

  // k_bar_i += g . v_i and v_bar_i += k_i g
  void combine_backward(const Op& op, int e, int j, int n) const {
    const int64_t at = e * stride(op.n) + j;
    const T* g = adjoint(op.out) + at;
    by_entries(op, [&](const Entry* entry, auto count) {
      constexpr int K = count;
      using S = Simd<T>;
      typename S::Vector s[K] = {};
      T k[K], *v_bar[K];
      const T* v[K];
      UNROLL
      for (int i = 0; i < K; ++i) {
        k[i] = value(entry[i].scalar)[e];
        v[i] = value(entry[i].vector) + at;
        v_bar[i] = entry[i].wants_vector ? adjoint(entry[i].vector) + at : nullptr;
      }
      const auto add = [&](int l, auto... width) INLINE {
        const auto gl = S::load(g + l, width...);
        UNROLL
        for (int i = 0; i < K; ++i) {
          s[i] += gl * S::load(v[i] + l, width...);
          if (v_bar[i])
            S::store(v_bar[i] + l, S::load(v_bar[i] + l, width...) + k[i] * gl, width...);
        }
      };
      int l = 0;
      for (; l + S::lanes <= n; l += S::lanes) add(l);
      if (l < n) add(l, n - l);
      T total[S::lanes];
      S::store(total, S::template sums<K>(s));
      for (int i = 0; i < K; ++i)
        if (entry[i].wants_scalar) adjoint(entry[i].scalar)[e] += total[i];
    });
  }

  static T sum(const T* a, int n) {
    T s = 0;
#pragma omp simd reduction(+ : s)
    for (int i = 0; i < n; ++i) s += a[i];
    return s;
  }
};

}  // namespace rulesearch
