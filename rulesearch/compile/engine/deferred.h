// A matrix and the outer products not yet added to it.
//
//     M = diag(growth) M_0 + sum_k u_k v_k^T
//
// A step changes a matrix by a few outer products. Adding them at once reads and writes the
// whole matrix for little arithmetic; kept beside it for some steps, they cost a few short
// vectors at every product, and one pass adds them all.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "numbers.h"
#include "panels.h"
#include "program.h"

namespace rulesearch {

template <class T>
struct Deferred {
  T* base = nullptr;  // M_0, n x m; null for an adjoint that nobody wants
  int n = 0, m = 0;
  int pending = 0, capacity = 0;  // of outer products; with capacity 0 they are added at once
  bool grown = false;
  Numbers<T> growth, u, v;  // u and v: one outer product a row
  Numbers<T> scratch, coefficients;

  size_t size() const { return (size_t)n * m; }

  void reset(T* matrix, int rows, int columns, int room) {
    base = matrix;
    n = rows;
    m = columns;
    capacity = room;
    pending = 0;
    grown = false;
    growth.assign(n, 1);
    u.resize(room * stride(n));
    v.resize(room * stride(m));
  }

  // out_e += M x_e
  void multiply(const T* x, int64_t x_stride, T* out, int64_t out_stride, int count) {
    if (grown) {
      T* product = zeros(count * stride(n));
      rulesearch::multiply(base, n, m, m, x, x_stride, product, stride(n), count);
      multiply_ahead(product, x, x_stride, out, out_stride, count);
    } else {
      rulesearch::multiply(base, n, m, m, x, x_stride, out, out_stride, count);
      add_pending(x, x_stride, out, out_stride, count);
    }
  }

  // The same, where M_0 x_e is known already.
  void multiply_ahead(const T* product, const T* x, int64_t x_stride, T* out, int64_t out_stride,
                      int count) {
    for (int e = 0; e < count; ++e) {
      const T* p = product + e * stride(n);
      T* o = out + e * out_stride;
      for (int i = 0; i < n; ++i) o[i] += growth[i] * p[i];
    }
    add_pending(x, x_stride, out, out_stride, count);
  }

  // out_e += M^T y_e
  void multiply_transposed(const T* y, int64_t y_stride, T* out, int64_t out_stride, int count) {
    const T* seen = y;
    int64_t seen_stride = y_stride;
    if (grown) {
      T* scaled = zeros(count * stride(n));
      for (int e = 0; e < count; ++e)
        for (int i = 0; i < n; ++i) scaled[e * stride(n) + i] = growth[i] * y[e * y_stride + i];
      seen = scaled;
      seen_stride = stride(n);
    }
    rulesearch::multiply_transposed(base, n, m, m, seen, seen_stride, out, out_stride, count);
    add_pending_transposed(y, y_stride, out, out_stride, count);
  }

  // The same, where M_0^T (growth o y_e) is known already.
  void multiply_transposed_ahead(const T* product, const T* y, int64_t y_stride, T* out,
                                 int64_t out_stride, int count) {
    for (int e = 0; e < count; ++e) {
      const T* p = product + e * stride(m);
      T* o = out + e * out_stride;
      for (int j = 0; j < m; ++j) o[j] += p[j];
    }
    add_pending_transposed(y, y_stride, out, out_stride, count);
  }

  // products <- M_0 X for `count` vectors. Many are zero where many coefficients are, as late in a
  // search.
  void multiply_all_but_zeros(const Numbers<T>& x, Numbers<T>& products, int count) const {
    const int64_t sn = stride(n), sm = stride(m);
    std::vector<int> others;
    for (int k = 0; k < count; ++k)
      if (!is_zero(x.data() + k * sm, m)) others.push_back(k);
    const int some = (int)others.size();
    if (some == count) {
      rulesearch::multiply(base, n, m, m, x.data(), sm, products.data(), sn, count);
      return;
    }
    Numbers<T> in(some * sm), out(some * sn);
    for (int k = 0; k < some; ++k) std::copy_n(x.data() + others[k] * sm, sm, in.data() + k * sm);
    rulesearch::multiply(base, n, m, m, in.data(), sm, out.data(), sn, some);
    for (int k = 0; k < some; ++k)
      std::copy_n(out.data() + k * sn, sn, products.data() + others[k] * sn);
  }

  // M <- M + factor sum_e u_e v_e^T
  void add(const T* left, int64_t left_stride, const T* right, int64_t right_stride, int count,
           T factor) {
    if (capacity == 0) {
      T* scaled = zeros(count * stride(n));
      copy_scaled(left, left_stride, scaled, count, factor);
      add_outers(base, n, m, m, grown ? growth.data() : nullptr, scaled, stride(n), right,
                 right_stride, count);
      settle();
      return;
    }
    for (int e = 0; e < count; ++e) {
      if (is_zero(right + e * right_stride, m)) continue;  // as where all coefficients are
      copy_scaled(left + e * left_stride, 0, u.data() + pending * stride(n), 1, factor);
      std::memcpy(v.data() + pending * stride(m), right + e * right_stride, sizeof(T) * m);
      ++pending;
    }
  }

  // M <- diag(factor) M
  void scale_rows(const T* factor) {
    grown = true;
    for (int i = 0; i < n; ++i) growth[i] *= factor[i];
    for (int k = 0; k < pending; ++k)
      for (int i = 0; i < n; ++i) u[k * stride(n) + i] *= factor[i];
  }

  // Bring the matrix up to date.
  void flush() {
    if (!base || (!pending && !grown)) return;
    add_outers(base, n, m, m, grown ? growth.data() : nullptr, u.data(), stride(n), v.data(),
               stride(m), pending);
    settle();
  }

 private:
  void settle() {
    pending = 0;
    if (grown) growth.assign(n, 1);
    grown = false;
  }

  void copy_scaled(const T* left, int64_t left_stride, T* to, int count, T factor) const {
    for (int e = 0; e < count; ++e)
      for (int i = 0; i < n; ++i) to[e * stride(n) + i] = factor * left[e * left_stride + i];
  }

  // out_e += sum_k u_k (v_k . x_e)
  void add_pending(const T* x, int64_t x_stride, T* out, int64_t out_stride, int count) {
    if (!pending) return;
    coefficients.assign(count * stride(pending), 0);
    T* c = coefficients.data();
    const int64_t c_stride = stride(pending);
    rulesearch::multiply(v.data(), pending, m, stride(m), x, x_stride, c, c_stride, count);
    rulesearch::multiply_transposed(u.data(), pending, n, stride(n), c, c_stride, out, out_stride,
                                    count);
  }

  // out_e += sum_k v_k (u_k . y_e)
  void add_pending_transposed(const T* y, int64_t y_stride, T* out, int64_t out_stride, int count) {
    if (!pending) return;
    coefficients.assign(count * stride(pending), 0);
    T* c = coefficients.data();
    const int64_t c_stride = stride(pending);
    rulesearch::multiply(u.data(), pending, n, stride(n), y, y_stride, c, c_stride, count);
    rulesearch::multiply_transposed(v.data(), pending, m, stride(m), c, c_stride, out, out_stride,
                                    count);
  }

  T* zeros(int64_t count) {
    scratch.assign(count, 0);
    return scratch.data();
  }
};

}  // namespace rulesearch
