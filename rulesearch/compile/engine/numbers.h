// Memory for numbers that begins at a cache line: vectors that lie at multiples of a stride
// within it do so too, which spares loads that straddle two lines.
#pragma once
#include <cstddef>
#include <new>
#include <vector>

namespace rulesearch {

template <class T>
struct AtCacheLines {
  using value_type = T;
  static constexpr std::align_val_t line{64};

  AtCacheLines() = default;
  template <class U>
  AtCacheLines(const AtCacheLines<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, line); }
  bool operator==(const AtCacheLines&) const { return true; }
  bool operator!=(const AtCacheLines&) const { return false; }
};

template <class T>
using Numbers = std::vector<T, AtCacheLines<T>>;

}  // namespace rulesearch
