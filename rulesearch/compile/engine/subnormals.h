// Subnormal numbers cost a hundred times a normal one; a thread flushes them while it computes.
#pragma once
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace rulesearch {

struct FlushSubnormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
#endif
};

}  // namespace rulesearch
