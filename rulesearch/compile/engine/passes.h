// Passes over one matrix, rows x columns, row-major: the only costly work there is.
//
// Written with the compiler's vector extension, so that the rank of an update and the number
// of rows taken together are template parameters and every inner loop unrolls. Rows are taken
// together so that the vectors beside the matrix are loaded once for several of them.
#pragma once
#include <cstdint>

namespace rulesearch {

template <class T>
struct Simd {
  static constexpr int lanes = 64 / sizeof(T);
  typedef T Vector __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
  static Vector load(const T* p) { return *reinterpret_cast<const Vector*>(p); }
  static void store(T* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
  static T sum(Vector v) {
    T s = 0;
    for (int i = 0; i < lanes; ++i) s += v[i];
    return s;
  }
};

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  using S = Simd<T>;
  typename S::Vector s0{}, s1{};
  int64_t j = 0;
  for (; j + 2 * S::lanes <= n; j += 2 * S::lanes) {
    s0 += S::load(a + j) * S::load(b + j);
    s1 += S::load(a + j + S::lanes) * S::load(b + j + S::lanes);
  }
  T total = S::sum(s0 + s1);
  for (; j < n; ++j) total += a[j] * b[j];
  return total;
}

template <class T, int R>
void matvec_rows(const T* W, const T* x, T* out, int m) {
  using S = Simd<T>;
  typename S::Vector s[R] = {};
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) {
    const auto v = S::load(x + j);
    for (int r = 0; r < R; ++r) s[r] += S::load(W + (int64_t)r * m + j) * v;
  }
  for (int r = 0; r < R; ++r) {
    T total = S::sum(s[r]);
    for (int k = j; k < m; ++k) total += W[(int64_t)r * m + k] * x[k];
    out[r] += total;
  }
}

// out += W x
template <class T>
void matvec(const T* W, const T* x, T* out, int n, int m) {
  int i = 0;
  for (; i + 8 <= n; i += 8) matvec_rows<T, 8>(W + (int64_t)i * m, x, out + i, m);
  for (; i < n; ++i) matvec_rows<T, 1>(W + (int64_t)i * m, x, out + i, m);
}

template <class T, int R>
void matvec_transposed_rows(const T* W, const T* x, T* out, int m) {
  using S = Simd<T>;
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) {
    auto s = S::load(out + j);
    for (int r = 0; r < R; ++r) s += S::load(W + (int64_t)r * m + j) * x[r];
    S::store(out + j, s);
  }
  for (; j < m; ++j)
    for (int r = 0; r < R; ++r) out[j] += W[(int64_t)r * m + j] * x[r];
}

// out += W^T x
template <class T>
void matvec_transposed(const T* W, const T* x, T* out, int n, int m) {
  int i = 0;
  for (; i + 8 <= n; i += 8) matvec_transposed_rows<T, 8>(W + (int64_t)i * m, x + i, out, m);
  for (; i < n; ++i) matvec_transposed_rows<T, 1>(W + (int64_t)i * m, x + i, out, m);
}

template <class T, int K, int R>
void add_outers_rows(T* W, T growth, const T* const* u, const T* const* v, int i, int m) {
  using S = Simd<T>;
  T c[R][K > 0 ? K : 1];
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < K; ++k) c[r][k] = u[k][i + r];
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) {
    typename S::Vector x[K > 0 ? K : 1];
    for (int k = 0; k < K; ++k) x[k] = S::load(v[k] + j);
    for (int r = 0; r < R; ++r) {
      T* w = W + (int64_t)(i + r) * m + j;
      auto value = S::load(w) * growth;
      for (int k = 0; k < K; ++k) value += x[k] * c[r][k];
      S::store(w, value);
    }
  }
  for (; j < m; ++j)
    for (int r = 0; r < R; ++r) {
      T& w = W[(int64_t)(i + r) * m + j];
      w *= growth;
      for (int k = 0; k < K; ++k) w += v[k][j] * c[r][k];
    }
}

template <class T, int K>
void add_outers(T* W, T growth, const T* const* u, const T* const* v, int n, int m) {
  int i = 0;
  for (; i + 4 <= n; i += 4) add_outers_rows<T, K, 4>(W, growth, u, v, i, m);
  for (; i < n; ++i) add_outers_rows<T, K, 1>(W, growth, u, v, i, m);
}

// W <- growth W + sum_k u_k v_k^T
template <class T>
void add_outers(T* W, T growth, const T* const* u, const T* const* v, int rank, int n, int m) {
  for (; rank > 4; rank -= 4, u += 4, v += 4) {  // four outer products a pass
    add_outers<T, 4>(W, growth, u, v, n, m);
    growth = 1;
  }
  switch (rank) {
    case 4: return add_outers<T, 4>(W, growth, u, v, n, m);
    case 3: return add_outers<T, 3>(W, growth, u, v, n, m);
    case 2: return add_outers<T, 2>(W, growth, u, v, n, m);
    case 1: return add_outers<T, 1>(W, growth, u, v, n, m);
    default:
      if (growth != T(1)) add_outers<T, 0>(W, growth, u, v, n, m);
  }
}

template <class T, int K, int R>
void reverse_rows(T* W, const T* G, T sign, T inverse, const T* const* u, const T* const* v,
                  T* const* u_bar, T* const* v_bar, T* overlap, int i, int m) {
  using S = Simd<T>;
  T c[R][K], d[R][K];
  typename S::Vector s[R][K] = {}, shared = {};
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < K; ++k) {
      d[r][k] = u[k][i + r];
      c[r][k] = sign * d[r][k] * inverse;
    }
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) {
    typename S::Vector x[K], y[K];
    for (int k = 0; k < K; ++k) {
      x[k] = S::load(v[k] + j);
      y[k] = S::load(v_bar[k] + j);
    }
    for (int r = 0; r < R; ++r) {
      T* w = W + (int64_t)(i + r) * m + j;
      const auto g = S::load(G + (int64_t)(i + r) * m + j);
      auto value = S::load(w) * inverse;
      for (int k = 0; k < K; ++k) {
        value += x[k] * c[r][k];
        s[r][k] += g * x[k];
        y[k] += g * d[r][k];
      }
      S::store(w, value);
      if (overlap) shared += g * value;
    }
    for (int k = 0; k < K; ++k) S::store(v_bar[k] + j, y[k]);
  }
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < K; ++k) u_bar[k][i + r] += S::sum(s[r][k]);
    for (int q = j; q < m; ++q) {
      T& w = W[(int64_t)(i + r) * m + q];
      const T g = G[(int64_t)(i + r) * m + q];
      w *= inverse;
      for (int k = 0; k < K; ++k) {
        w += v[k][q] * c[r][k];
        u_bar[k][i + r] += g * v[k][q];
        v_bar[k][q] += g * d[r][k];
      }
      if (overlap) *overlap += g * w;
    }
  }
  if (overlap) *overlap += S::sum(shared);
}

template <class T, int K>
void reverse_update(T* W, const T* G, T sign, T inverse, const T* const* u, const T* const* v,
                    T* const* u_bar, T* const* v_bar, T* overlap, int n, int m) {
  int i = 0;
  for (; i + 2 <= n; i += 2)
    reverse_rows<T, K, 2>(W, G, sign, inverse, u, v, u_bar, v_bar, overlap, i, m);
  for (; i < n; ++i)
    reverse_rows<T, K, 1>(W, G, sign, inverse, u, v, u_bar, v_bar, overlap, i, m);
}

// In one pass: W <- (W + sign sum_k u_k v_k^T) inverse, which for sign -1 is W before the
// update; u_bar += G v, v_bar += G^T u, and overlap += sum(G o W) if it is wanted.
template <class T>
void reverse_update(T* W, const T* G, T sign, T inverse, const T* const* u, const T* const* v,
                    T* const* u_bar, T* const* v_bar, T* overlap, int rank, int n, int m) {
  for (; rank > 3; rank -= 3, u += 3, v += 3, u_bar += 3, v_bar += 3)  // three a pass
    reverse_update<T, 3>(W, G, sign, T(1), u, v, u_bar, v_bar, nullptr, n, m);
  switch (rank) {
    case 3: return reverse_update<T, 3>(W, G, sign, inverse, u, v, u_bar, v_bar, overlap, n, m);
    case 2: return reverse_update<T, 2>(W, G, sign, inverse, u, v, u_bar, v_bar, overlap, n, m);
    case 1: return reverse_update<T, 1>(W, G, sign, inverse, u, v, u_bar, v_bar, overlap, n, m);
  }
  if (inverse != T(1)) add_outers<T, 0>(W, inverse, nullptr, nullptr, n, m);
  if (overlap) *overlap += dot(G, W, (int64_t)n * m);
}

}  // namespace rulesearch
