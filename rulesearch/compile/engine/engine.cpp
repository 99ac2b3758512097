// Whole lifetimes, one after the other; the functions that Python calls.
//
// Backward goes segment by segment between checkpoints of W. A segment is reversed; if the
// rebuilt W then lies too far from the checkpoint, its adjoints are restored and the segment
// is taken again with every W recomputed from the checkpoint and the frames.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "lifetime.h"

namespace rulesearch {

// Subnormal numbers cost a hundred times a normal one; flush them while we run.
struct FlushSubnormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
#endif
};

template <class T>
void live_forward(const Program& p, int64_t lifetimes, int64_t steps, int64_t every,
                  int64_t first, int64_t last, const T* x, const T* target, const T* theta,
                  T* const* matrices, T* tape, T* checkpoints) {
  FlushSubnormals flush;
  const int64_t plastic = p.plastic();
  const int64_t segments = (steps + every - 1) / every;
  std::vector<T> frame(tape ? 0 : p.frame);
  for (int64_t l = first; l < last; ++l) {
    Lifetime<T> life(p, theta + l * p.n_terms);
    for (int k = 0; k < p.n_matrices; ++k) life.M[k] = matrices[k] + l * p.size(k);
    for (int64_t t = 0; t < steps; ++t) {
      if (checkpoints && t % every == 0) {
        T* kept = checkpoints + (l * segments + t / every) * plastic;
        for (int k = 0; k < p.n_plastic; ++k) {
          std::memcpy(kept, life.M[k], sizeof(T) * p.size(k));
          kept += p.size(k);
        }
      }
      life.y = tape ? tape + (l * steps + t) * p.frame : frame.data();
      life.fill(x + (t * lifetimes + l) * p.x_size, target + (t * lifetimes + l) * p.target_size);
      life.forward();
    }
  }
}

// W and W_bar of one lifetime, copied so that a segment can be taken again
template <class T>
struct Snapshot {
  std::vector<T> values, theta_bar;
  void take(const Lifetime<T>& life) { copy(life, true); }
  void restore(Lifetime<T>& life) { copy(life, false); }
  void copy(const Lifetime<T>& life, bool out) {
    size_t total = 0;
    for (int k = 0; k < life.p.n_matrices; ++k) if (life.M_bar[k]) total += life.p.size(k);
    values.resize(total);
    theta_bar.resize(life.p.n_terms);
    T* at = values.data();
    for (int k = 0; k < life.p.n_matrices; ++k) {
      if (!life.M_bar[k]) continue;
      const size_t bytes = sizeof(T) * life.p.size(k);
      out ? std::memcpy(at, life.M_bar[k], bytes) : std::memcpy(life.M_bar[k], at, bytes);
      at += life.p.size(k);
    }
    const size_t bytes = sizeof(T) * life.p.n_terms;
    out ? std::memcpy(theta_bar.data(), life.theta_bar, bytes)
        : std::memcpy(life.theta_bar, theta_bar.data(), bytes);
  }
};

template <class T>
void live_backward(const Program& p, int64_t steps, int64_t every,
                   int64_t first, int64_t last, const T* theta, T* const* matrices,
                   T* const* adjoints, T* theta_bar, T* tape, const T* checkpoints,
                   double tolerance, int32_t reversible, double* drift, int64_t* recomputed) {
  FlushSubnormals flush;
  std::vector<int64_t> offset(p.n_plastic + 1, 0);
  for (int k = 0; k < p.n_plastic; ++k)
    offset[k + 1] = offset[k] + p.size(k);
  const int64_t plastic = p.plastic(), segments = (steps + every - 1) / every;
  std::vector<T> bar(p.frame), W(plastic), history;
  Snapshot<T> snapshot;
  for (int64_t l = first; l < last; ++l) {
    Lifetime<T> life(p, theta + l * p.n_terms);
    life.bar = bar.data();
    life.theta_bar = theta_bar + l * p.n_terms;
    for (int k = 0; k < p.n_matrices; ++k) {
      T* whole = matrices[k] + l * p.size(k);
      life.M[k] = whole;
      life.M_bar[k] = adjoints[k] ? adjoints[k] + l * p.size(k) : nullptr;
      if (k < p.n_plastic) {  // work on a copy: the caller's final weights stay as they are
        life.M[k] = W.data() + offset[k];
        std::memcpy(life.M[k], whole, sizeof(T) * p.size(k));
      }
    }
    drift[l] = 0;
    recomputed[l] = 0;
    for (int64_t segment = segments - 1; segment >= 0; --segment) {
      const int64_t begin = segment * every, end = begin + every < steps ? begin + every : steps;
      const T* kept = checkpoints + (l * segments + segment) * plastic;
      bool again = !reversible;
      if (reversible) {
        snapshot.take(life);
        for (int64_t t = end - 1; t >= begin; --t) {
          life.y = tape + (l * steps + t) * p.frame;
          life.backward(true);
        }
        double error = 0, norm = 0;
        for (int64_t i = 0; i < plastic; ++i) {
          const double d = (double)W[i] - kept[i];
          error += d * d;
          norm += (double)kept[i] * kept[i];
        }
        const double relative = std::sqrt(error / (norm > 0 ? norm : 1));
        if (relative > drift[l] || std::isnan(relative)) drift[l] = relative;  // NaN stays
        again = !(relative <= tolerance);
        if (again) snapshot.restore(life);
      }
      if (again) {  // recompute every W of the segment from its checkpoint
        ++recomputed[l];
        history.resize((end - begin) * plastic);
        std::memcpy(W.data(), kept, sizeof(T) * plastic);
        for (int64_t t = begin; t < end; ++t) {
          std::memcpy(&history[(t - begin) * plastic], W.data(), sizeof(T) * plastic);
          life.y = tape + (l * steps + t) * p.frame;
          life.replay_updates();
        }
        for (int64_t t = end - 1; t >= begin; --t) {
          std::memcpy(W.data(), &history[(t - begin) * plastic], sizeof(T) * plastic);
          life.y = tape + (l * steps + t) * p.frame;
          life.backward(false);
        }
      }
      std::memcpy(W.data(), kept, sizeof(T) * plastic);
    }
  }
}

}  // namespace rulesearch

using rulesearch::Program;

// sizes of structs and of enumerations, which Python compares with its own when it loads this
extern "C" int64_t layout(int32_t which) {
  const int64_t sizes[] = {sizeof(rulesearch::Op), sizeof(rulesearch::Entry),
                           sizeof(rulesearch::CoreFactor), sizeof(Program),
                           rulesearch::UPDATE + 1, rulesearch::D_RELU + 1};
  return sizes[which];
}

#define RULESEARCH_EXPORT(T, SUFFIX)                                                            \
  extern "C" void live_forward_##SUFFIX(                                                        \
      const Program* p, int64_t lifetimes, int64_t steps, int64_t every, int64_t first,         \
      int64_t last, const T* x, const T* target, const T* theta, T* const* matrices, T* tape,   \
      T* checkpoints) {                                                                         \
    rulesearch::live_forward<T>(*p, lifetimes, steps, every, first, last, x, target, theta, matrices, tape, \
                    checkpoints);                                                               \
  }                                                                                             \
  extern "C" void live_backward_##SUFFIX(                                                       \
      const Program* p, int64_t steps, int64_t every, int64_t first, int64_t last,              \
      const T* theta, T* const* matrices, T* const* adjoints, T* theta_bar,       \
      T* tape, const T* checkpoints, double tolerance, int32_t reversible, double* drift,       \
      int64_t* recomputed) {                                                                    \
    rulesearch::live_backward<T>(*p, steps, every, first, last, theta, matrices, adjoints,       \
                     theta_bar, tape, checkpoints, tolerance, reversible, drift, recomputed);   \
  }

RULESEARCH_EXPORT(float, f32)
RULESEARCH_EXPORT(double, f64)
