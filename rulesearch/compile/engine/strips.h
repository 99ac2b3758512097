// Products with many rows and many vectors: what is summed up stays in registers.
//
// The other factor is taken strip by strip of its columns. A strip is copied, so that it lies in
// one piece in L1, whatever the width of the matrix, while all rows pass by. Every sum adds up
// in the order of k.
#pragma once
#include "simd.h"

namespace rulesearch {

#ifdef __AVX512F__
constexpr int kStripBytes = 64;  // the widest registers: rows are long, and begin at cache lines
#else
constexpr int kStripBytes = 32;
#endif
template <class T>
using Broad = Simd<T, kStripBytes>;

constexpr int kStrip = 3;      // vectors: with kWide rows of them, all registers but a few
constexpr int kDeep = 96;      // rows of a strip

inline bool pays_in_strips(int rows, int products) { return rows >= 8 && products >= 16; }

// C <- diag(growth) C + sum_k a_k b_k^T for R rows of C and V vectors of columns; number k of b
// is V whole vectors. `width` is that of the last strip, in numbers.
template <class T, int R, int V, class... Width>
INLINE inline void add_strip(Panel<T> C, const T* growth, Left<T> a, const T* b, int rank,
                             Width... width) {
  using S = Broad<T>;
  typename S::Vector s[R][V];
  UNROLL
  for (int r = 0; r < R; ++r)
    UNROLL
    for (int v = 0; v < V; ++v) {
      s[r][v] = S::load(C[r] + v * S::lanes, std::clamp(width - v * S::lanes, 0, S::lanes)...);
      if (growth) s[r][v] *= growth[r];
    }
  for (int k = 0; k < rank; ++k, b += V * S::lanes) {
    typename S::Vector x[V];
    UNROLL
    for (int v = 0; v < V; ++v) {
      x[v] = S::load(b + v * S::lanes);
      S::pin(x[v]);
    }
    UNROLL
    for (int r = 0; r < R; ++r) {
      const T c = a.p[r * a.row + k * a.next];
      UNROLL
      for (int v = 0; v < V; ++v) s[r][v] += x[v] * c;
    }
  }
  UNROLL
  for (int r = 0; r < R; ++r)
    UNROLL
    for (int v = 0; v < V; ++v)
      S::store(C[r] + v * S::lanes, s[r][v], std::clamp(width - v * S::lanes, 0, S::lanes)...);
}

// The next kWide rows of a begin `next_rows` further on.
template <class T, int R, int V>
void add_strip_to_rows(Panel<T> C, int n, int width, const T* growth, Left<T> a, int64_t next_rows,
                       const T* b, int rank) {
  for (; n >= R; n -= R, C = C.from(R, 0), a.p += R == kWide ? next_rows : R * a.row) {
    if (width == V * Broad<T>::lanes) add_strip<T, R, V>(C, growth, a, b, rank);
    else add_strip<T, R, V>(C, growth, a, b, rank, width);
    if (growth) growth += R;
  }
  if constexpr (R > 1) add_strip_to_rows<T, R / 2, V>(C, n, width, growth, a, next_rows, b, rank);
}

// A strip of `width` columns and `rank` rows, of which copy(k, to) gives number k.
template <class T, class Copy>
void add_strip_of(Panel<T> C, int n, int width, const T* growth, Left<T> a, int64_t next_rows,
                  int rank, Copy copy) {
  alignas(64) T strip[kDeep * kStrip * Broad<T>::lanes];
  const int vectors = (width + Broad<T>::lanes - 1) / Broad<T>::lanes;
  const int whole = vectors * Broad<T>::lanes;
  for (int k = 0; k < rank; ++k) {
    copy(k, strip + k * whole);
    std::fill(strip + k * whole + width, strip + (k + 1) * whole, T(0));
  }
  if (vectors == 1) add_strip_to_rows<T, kWide, 1>(C, n, width, growth, a, next_rows, strip, rank);
  else if (vectors == 2) add_strip_to_rows<T, kWide, 2>(C, n, width, growth, a, next_rows, strip, rank);
  else add_strip_to_rows<T, kWide, 3>(C, n, width, growth, a, next_rows, strip, rank);
}

// Numbers 0 to rank of n rows of a, kWide rows at a time, in the order in which they are met.
constexpr int kRows = 192;
template <class T>
void pack(Left<T> a, int n, int rank, T* to) {
  for (; n >= kWide; n -= kWide, a.p += kWide * a.row)
    for (int k = 0; k < rank; ++k, to += kWide)
      UNROLL
      for (int r = 0; r < kWide; ++r) to[r] = a.p[r * a.row + k * a.next];
  for (int k = 0; n && k < rank; ++k, to += kWide)
    for (int r = 0; r < n; ++r) to[r] = a.p[r * a.row + k * a.next];
}

// C <- diag(growth) C + sum_k a_k b_k^T
template <class T>
void add_strips(Panel<T> C, int n, int m, const T* growth, Left<T> a, Panel<const T> b, int rank) {
  constexpr int wide = kStrip * Broad<T>::lanes;
  alignas(64) T packed[kRows * kDeep];
  for (; rank > 0; rank -= kDeep, a.p += kDeep * a.next, b = b.from(kDeep, 0), growth = nullptr) {
    const int deep = std::min(rank, kDeep);
    for (int i = 0; i < n; i += kRows) {
      const int rows = std::min(n - i, kRows);
      if (a.row == 1) pack({a.p + i, 1, a.next}, rows, deep, packed);  // whole vectors
      else pack({a.p + i * a.row, a.row, a.next}, rows, deep, packed);
      for (int j = 0; j < m; j += wide) {
        const int width = std::min(m - j, wide);
        add_strip_of<T>(C.from(i, j), rows, width, growth ? growth + i : nullptr,
                        {packed, 1, kWide}, kWide * deep, deep, [&](int k, T* to) {
                          const T* from = b[k] + j;
                          if (width == wide) std::copy_n(from, wide, to);  // without a call
                          else std::copy_n(from, width, to);
                        });
      }
    }
  }
}

// out_e += W x_e: the vectors x_e are the columns of a strip, and so are the results, which are
// turned into vectors again.
template <class T>
void multiply_strips(Panel<const T> W, int n, int m, Panel<const T> x, Panel<T> out, int count) {
  constexpr int lanes = Broad<T>::lanes;
  alignas(64) T sums[kRows * kStrip * lanes];
  const int vectors = (count + lanes - 1) / lanes, strips = (vectors + kStrip - 1) / kStrip;
  const int wide = (vectors + strips - 1) / strips * lanes;  // all about as wide
  for (int e = 0; e < count; e += wide)
    for (int i = 0; i < n; i += kRows) {
      const int width = std::min(count - e, wide), height = std::min(n - i, kRows);
      std::fill_n(sums, height * wide, T(0));
      for (int j = 0; j < m; j += kDeep)
        add_strip_of<T>({sums, wide}, height, width, nullptr, {W[i] + j, W.stride, 1},
                        kWide * W.stride, std::min(m - j, kDeep), [&](int k, T* to) {
                          for (int c = 0; c < width; ++c) to[c] = x[e + c][j + k];
                        });
      for (int c = 0; c < width; ++c)
        for (int r = 0; r < height; ++r) out[e + c][i + r] += sums[r * wide + c];
    }
}

}  // namespace rulesearch
