// Products of a row-major matrix with panels of vectors.
//
// All costly work of the engine is one of two sums. Where it runs along the rows of the matrix
// (W x), whole vectors of partial sums stay in registers. Where it runs over rows (W^T y, and
// W += u v^T, which differ only in what is summed into what), coefficients stay there. Either
// way a number that is loaded meets several others before the next is. Where there are many of
// everything, what is summed up stays in registers instead (strips.h).
#pragma once
#include "simd.h"
#include "strips.h"
#include "team.h"

namespace rulesearch {

// Columns taken together: eight rows of them fit in L1, a hundred in L2.
template <class T>
constexpr int kColumns = 3200 / sizeof(T);

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  using S = Simd<T>;
  constexpr int R = 4;  // sums at a time, as an addition takes as many cycles
  typename S::Vector s[R] = {};
  int64_t j = 0;
  for (; j + R * S::lanes <= n; j += R * S::lanes)
    UNROLL
    for (int r = 0; r < R; ++r)
      s[r] += S::load(a + j + r * S::lanes) * S::load(b + j + r * S::lanes);
  for (; j + S::lanes <= n; j += S::lanes) s[0] += S::load(a + j) * S::load(b + j);
  if (j < n) s[1] += S::load(a + j, n - j) * S::load(b + j, n - j);
  const auto total = (s[0] + s[1]) + (s[2] + s[3]);
  return S::template sums<1>(&total)[0];
}

template <class T>
bool is_zero(const T* a, int n) {
  constexpr int block = 16;  // most vectors are known not to be after as many
  for (; n > 0; n -= block, a += block) {
    bool any = false;
    for (int i = 0; i < std::min(n, block); ++i) any |= a[i] != 0;
    if (any) return false;
  }
  return true;
}

// ---- out_e += W x_e

// For R rows of W and E vectors; `width` is that of a partial vector, the last one.
template <class T, int R, int E>
INLINE inline void multiply_tile(Panel<const T> W, int m, Panel<const T> x, Panel<T> out) {
  using S = Simd<T>;
  typename S::Vector s[E][R] = {};
  const auto add = [&](int j, auto... width) INLINE {
    typename S::Vector v[E];
    UNROLL
    for (int e = 0; e < E; ++e) v[e] = S::load(x[e] + j, width...);
    UNROLL
    for (int r = 0; r < R; ++r) {
      auto w = S::load(W[r] + j, width...);
      S::pin(w);
      UNROLL
      for (int e = 0; e < E; ++e) s[e][r] += w * v[e];
    }
  };
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) add(j);
  if (j < m) add(j, m - j);
  UNROLL
  for (int e = 0; e < E; ++e)
    S::store(out[e], S::load(out[e], R) + S::template sums<R>(s[e]), R);
}

template <class T, int R, int E>
INLINE inline void multiply_rows(Panel<const T> W, int m, Panel<const T> x, Panel<T> out,
                                 int count) {
  for (; count >= E; count -= E, x = x.from(E, 0), out = out.from(E, 0))
    if constexpr (R * E == 1)
      *out.p += dot(W.p, x.p, m);  // which keeps more than one sum
    else
      multiply_tile<T, R, E>(W, m, x, out);
  if constexpr (E > 1) multiply_rows<T, R, E - 1>(W, m, x, out, count);
}

// R rows at a time, which stay in L1 while the panel passes by.
template <class T, int R>
void multiply_all(Panel<const T> W, int n, int m, Panel<const T> x, Panel<T> out, int count) {
  constexpr int E = 3 * kWide / std::max(R, 4);
  for (; n >= R; n -= R, W = W.from(R, 0), out = out.from(0, R))
    multiply_rows<T, R, E>(W, m, x, out, count);
  if constexpr (R > 1) multiply_all<T, R / 2>(W, n, m, x, out, count);
}

template <class T>
void multiply(const T* W, int n, int m, int64_t ldw, const T* x, int64_t x_stride, T* out,
              int64_t out_stride, int count) {
  if (n >= 64 && count >= 2 * Simd<T>::lanes) {  // it pays to turn the panel into strips
    split((int64_t)n * m * count, n, kWide, [&](int64_t begin, int64_t end) {
      multiply_strips<T>({W + begin * ldw, ldw}, int(end - begin), m, {x, x_stride},
                         {out + begin, out_stride}, count);
    });
    return;
  }
  constexpr int R = std::min(kWide, Simd<T>::lanes);
  const int columns = count > 4 ? kColumns<T> : m;  // W passes once: better in long strides
  split((int64_t)n * m * count, n, R, [&](int64_t begin, int64_t end) {
    for (int j = 0; j < m; j += columns)
      multiply_all<T, R>({W + begin * ldw + j, ldw}, int(end - begin), std::min(m - j, columns),
                         {x + j, x_stride}, {out + begin, out_stride}, count);
  });
}

// ---- C <- diag(growth) C + sum_k a_k b_k^T

// For R rows of C and K products, whose a stay in registers.
template <class T, int R, int K>
INLINE inline void add_tile(Panel<T> C, int m, const T* growth, Left<T> a, Panel<const T> b) {
  using S = Simd<T>;
  T g[R], c[R][K + 1];
  UNROLL
  for (int r = 0; r < R; ++r) {
    g[r] = growth ? growth[r] : T(1);
    UNROLL
    for (int k = 0; k < K; ++k) c[r][k] = a.p[r * a.row + k * a.next];
  }
  const auto add = [&](int j, auto... width) INLINE {
    typename S::Vector v[K + 1];
    UNROLL
    for (int k = 0; k < K; ++k) v[k] = S::load(b[k] + j, width...);
    UNROLL
    for (int r = 0; r < R; ++r) {
      auto s = S::load(C[r] + j, width...);
      if (growth) s *= g[r];
      UNROLL
      for (int k = 0; k < K; ++k) s += v[k] * c[r][k];
      S::store(C[r] + j, s, width...);
    }
  };
  int j = 0;
  for (; j + S::lanes <= m; j += S::lanes) add(j);
  if (j < m) add(j, m - j);
}

template <class T, int R, int K>
INLINE inline void add_to_rows(Panel<T> C, int m, const T* growth, Left<T> a, Panel<const T> b,
                               int rank) {
  if constexpr (K > 0) {
    for (; rank >= K; rank -= K, a.p += K * a.next, b = b.from(K, 0), growth = nullptr)
      add_tile<T, R, K>(C, m, growth, a, b);
    add_to_rows<T, R, K - 1>(C, m, growth, a, b, rank);
  } else if (growth) {
    add_tile<T, R, 0>(C, m, growth, a, b);
  }
}

// R rows at a time, which stay in L1 while all products are added to them.
template <class T, int R>
void add_all(Panel<T> C, int n, int m, const T* growth, Left<T> a, Panel<const T> b, int rank) {
  for (; n >= R; n -= R, C = C.from(R, 0), a.p += R * a.row) {
    add_to_rows<T, R, 4>(C, m, growth, a, b, rank);
    if (growth) growth += R;
  }
  if constexpr (R > 1) add_all<T, R / 2>(C, n, m, growth, a, b, rank);
}

template <class T>
void add_products(Panel<T> C, int n, int m, const T* growth, Left<T> a, Panel<const T> b,
                  int rank, bool in_strips) {
  if (in_strips) return add_strips(C, n, m, growth, a, b, rank);
  constexpr int K = 96;  // whose b stay in L2
  const int columns = n > 4 && rank > 4 ? kColumns<T> : m;
  do {
    for (int j = 0; j < m; j += columns)
      add_all<T, kWide / 2>(C.from(0, j), n, std::min(m - j, columns), growth, a, b.from(0, j),
                            std::min(rank, K));
    growth = nullptr;
    a.p += K * a.next;
    b = b.from(K, 0);
  } while ((rank -= K) > 0);
}

// Threads begin where one alone would begin another block of rows or another strip, and all take
// the same way: a compiler may round a product before it is added in one way and not in another.

// out_e += W^T y_e
template <class T>
void multiply_transposed(const T* W, int n, int m, int64_t ldw, const T* y, int64_t y_stride,
                         T* out, int64_t out_stride, int count) {
  constexpr int line = 64 / sizeof(T), unit = line * kStrip;
  const int64_t work = (int64_t)n * m * count;
  const bool in_strips = pays_in_strips(count, n);
  const int threads = sharers(work);
  // By columns each number of W is read by one core alone; but cores that write to the same rows,
  // if in other columns, disturb each other where there is little else to do.
  if (count >= threads * (kWide / 2) && !(in_strips && m >= 3 * threads * unit)) {
    split(work, count, kWide, [&](int64_t begin, int64_t end) {
      add_products<T>({out + begin * out_stride, out_stride}, int(end - begin), m, nullptr,
                      {y + begin * y_stride, y_stride, 1}, {W, ldw}, n, in_strips);
    });
  } else {
    split(work, m, unit, [&](int64_t begin, int64_t end) {
      add_products<T>({out + begin, out_stride}, count, int(end - begin), nullptr,
                      {y, y_stride, 1}, {W + begin, ldw}, n, in_strips);
    });
  }
}

// W <- diag(growth) W + sum_k u_k v_k^T, without growth if that is null
template <class T>
void add_outers(T* W, int n, int m, int64_t ldw, const T* growth, const T* u, int64_t u_stride,
                const T* v, int64_t v_stride, int rank) {
  const bool in_strips = pays_in_strips(n, rank);
  split((int64_t)n * m * rank, n, kWide, [&](int64_t begin, int64_t end) {
    add_products<T>({W + begin * ldw, ldw}, int(end - begin), m, growth ? growth + begin : nullptr,
                    {u + begin, 1, u_stride}, {v, v_stride}, rank, in_strips);
  });
}

}  // namespace rulesearch
