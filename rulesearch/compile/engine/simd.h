// A few numbers at once, and panels: vectors of which number e starts at p + e * stride.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

// Arrays that unrolled loops index become registers, and arguments never pass through memory.
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE __attribute__((always_inline))

namespace rulesearch {

#ifdef __AVX512VL__
constexpr int kWide = 8;  // rows together; there are 32 registers
#else
constexpr int kWide = 4;  // there are 16
#endif

template <class T, int bytes = 32>
struct Simd {
  static constexpr int lanes = bytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(bytes), aligned(sizeof(T)), may_alias));

  static Vector load(const T* p) { return *reinterpret_cast<const Vector*>(p); }
  static void store(T* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

  // The first n lanes, the others zero: the compiler makes one masked instruction of the loop.
  static Vector load(const T* p, int n) {
    T lane[lanes];
#pragma omp simd
    for (int i = 0; i < lanes; ++i) lane[i] = i < n ? p[i] : T(0);
    return load(lane);
  }
  static void store(T* p, Vector v, int n) {
    T lane[lanes];
    store(lane, v);
#pragma omp simd
    for (int i = 0; i < lanes; ++i)
      if (i < n) p[i] = lane[i];
  }

  // Keeps v in a register: GCC would load it again for each of its uses.
  static void pin([[maybe_unused]] Vector& v) {
#ifdef __AVX__
    asm("" : "+v"(v));
#endif
  }

  // Neighbouring lanes added, those of a before those of b.
  template <std::size_t... i>
  static Vector add_pairs(Vector a, Vector b, std::index_sequence<i...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, (2 * i)...) +
           __builtin_shufflevector(a, b, (2 * i + 1)...);
#else
    using Order = decltype(a < b);
    return __builtin_shuffle(a, b, Order{(2 * i)...}) +
           __builtin_shuffle(a, b, Order{(2 * i + 1)...});
#endif
  }

  // The sums of R vectors, as the first R lanes of one.
  template <int R>
  static Vector sums(const Vector* s) {
    Vector v[lanes] = {};
    UNROLL
    for (int r = 0; r < R; ++r) v[r] = s[r];
    UNROLL
    for (int n = lanes / 2; n; n /= 2)
      UNROLL
      for (int i = 0; i < n; ++i)
        v[i] = add_pairs(v[2 * i], v[2 * i + 1], std::make_index_sequence<lanes>());
    return v[0];
  }
};

template <class T>
struct Panel {
  T* p;
  int64_t stride;
  T* operator[](int64_t e) const { return p + e * stride; }
  Panel from(int64_t e, int64_t j) const { return {p + e * stride + j, stride}; }
};

// Number r of the vector a_k is p[r * row + k * next].
template <class T>
struct Left {
  const T* p;
  int64_t row, next;
};

}  // namespace rulesearch
