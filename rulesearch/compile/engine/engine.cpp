// Whole lifetimes, and the functions that Python calls.
//
// Backward goes segment by segment between checkpoints of W. A segment is reversed; if the
// rebuilt W then lies too far from the checkpoint, its adjoints are restored, W is recomputed
// half-way, and each half is taken by itself. What the steps of a segment stored is either kept
// from the forward pass, or, for long lifetimes, made again.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lifetime.h"
#include "numbers.h"
#include "subnormals.h"
#include "team.h"

namespace rulesearch {

// What Python passes: the examples of all lifetimes, and how they are lived.
struct Life {
  const Program* program;
  int64_t steps, lifetimes, examples, every;  // `every` steps a checkpoint of W is kept
  const void* x;         // rows of inputs: (steps, lifetimes, examples), or a table of them
  const int64_t* index;  // row of the table, (steps, lifetimes, examples); null without a table
  const void* target;    // (steps, lifetimes, examples, n), or null where labels are given
  const int64_t* label;  // (steps, lifetimes, examples)
  double share;          // of an example in the update
  int64_t threads;       // that live one lifetime together
};

// The examples of one lifetime, and room for the adjoints of the inputs if they are wanted.
template <class T>
struct Source {
  const Life& life;
  int64_t lifetime;
  T* adjoints = nullptr;  // (steps, lifetimes, examples, n)

  int64_t row(int64_t t, int e) const {
    return (t * life.lifetimes + lifetime) * life.examples + e;
  }
  const T* input(int64_t t, int e) const {
    const int64_t at = life.index ? life.index[row(t, e)] : row(t, e);
    return static_cast<const T*>(life.x) + at * life.program->x_size;
  }
  bool wants_input() const { return adjoints; }
  T* input_adjoint(int64_t t, int e) const {
    return adjoints + row(t, e) * life.program->x_size;
  }
  void target(int64_t t, int e, T* out, int n) const {
    if (!life.label) {
      std::memcpy(out, static_cast<const T*>(life.target) + row(t, e) * n, sizeof(T) * n);
      return;
    }
    std::memset(out, 0, sizeof(T) * n);
    out[life.label[row(t, e)]] = 1;
  }
};

constexpr int64_t FEW_STEPS = 32;  // whose weights may all be kept

template <class T>
void live_forward(const Life& life, int64_t lifetime, const T* theta, T* const* matrices, T* stored,
                  T* checkpoints) {
  const FlushSubnormals flush;
  const Team team(life.threads);
  const Program& p = *life.program;
  Lifetime<T> run(p, (int)life.examples, T(life.share), theta + lifetime * p.n_terms, false);
  for (int k = 0; k < p.n_matrices; ++k) run.set_matrix(k, matrices[k] + lifetime * p.size(k));
  const Source<T> source{life, lifetime};
  const int64_t segments = (life.steps + life.every - 1) / life.every;
  if (stored) stored += lifetime * life.steps * run.stored_size();
  if (checkpoints) checkpoints += lifetime * (segments - 1) * p.plastic();
  for (int64_t begin = 0; begin < life.steps; begin += life.every) {
    const int64_t end = std::min(begin + life.every, life.steps);
    if (checkpoints && begin)  // the first is W at birth, which the caller has
      for (int k = 0; k < p.n_plastic; ++k) {
        std::memcpy(checkpoints, run.M[k].base, sizeof(T) * p.size(k));
        checkpoints += p.size(k);
      }
    for (int64_t t = begin; t < end; t += run.chunk)
      run.forward(source, t, std::min(t + run.chunk, end),
                  stored ? stored + t * run.stored_size() : nullptr);
  }
}

template <class T>
struct Backward {
  using Weights = Numbers<T>;  // of all plastic matrices, one after the other

  const Life& life;
  const Program& p;
  const Source<T> source;
  Lifetime<T> run;
  Weights W;  // which `run` works on
  double tolerance;
  bool reversible;
  double drift = 0;

  Backward(const Life& l, int64_t lifetime, const T* theta, T* inputs_bar, double most,
           bool can_be_reversed)
      : life(l), p(*l.program), source{l, lifetime, inputs_bar},
        run(p, (int)l.examples, T(l.share), theta + lifetime * p.n_terms, true), W(p.plastic()),
        tolerance(most), reversible(can_be_reversed) {
    T* at = W.data();
    for (int k = 0; k < p.n_plastic; ++k) {
      run.set_matrix(k, at);
      at += p.size(k);
    }
  }

  // Take the adjoints from the end of a segment to its beginning, whose weights are `first`;
  // W holds those of its end. True if W could be rebuilt all the way.
  bool segment(int64_t begin, int64_t end, const Weights& first, const T* stored) {
    last = W;
    if (reversible) {
      keep_adjoints();
      if (reverse(begin, end, first, stored)) return true;
      restore_adjoints();
      load(last);
    }
    halves(begin, end, first, Weights(last), stored);
    return false;
  }

  void load(const Weights& weights) { std::copy(weights.begin(), weights.end(), W.begin()); }

 private:
  Weights last;            // of the segment, in case it is taken again
  Numbers<T> adjoints; // likewise: theta_bar and every G

  // The same where W cannot be rebuilt: it is recomputed half-way, or for few steps at each.
  void halves(int64_t begin, int64_t end, const Weights& from, const Weights& to, const T* stored) {
    const int64_t steps = end - begin, size = run.stored_size(), half = steps / 2;
    load(from);
    if (steps <= FEW_STEPS) {
      std::vector<Weights> history;
      for (int64_t t = 0; t < steps; ++t) {
        history.push_back(W);
        run.replay(source, begin + t, stored + t * size);
      }
      for (int64_t t = steps - 1; t >= 0; --t) {
        load(history[t]);
        run.backward(source, begin + t, begin + t + 1, stored + t * size, false);
      }
      return;
    }
    for (int64_t t = 0; t < half; ++t) run.replay(source, begin + t, stored + t * size);
    const Weights middle = W;
    load(to);
    segment(begin + half, end, middle, stored + half * size);
    load(middle);
    segment(begin, begin + half, from, stored);
  }

  bool reverse(int64_t begin, int64_t end, const Weights& first, const T* stored) {
    const int64_t last = begin + (end - begin - 1) / run.chunk * run.chunk;
    for (int64_t t = last; t >= begin; t -= run.chunk)
      run.backward(source, t, std::min(t + run.chunk, end), stored + (t - begin) * run.stored_size(),
                   true);
    double error = 0, norm = 0;
    int64_t at = 0;
    for (int k = 0; k < p.n_plastic; at += p.size(k++))
      for (int64_t i = at; run.rebuilt[k] && i < at + p.size(k); ++i) {
        const double d = (double)W[i] - first[i];
        error += d * d;
        norm += (double)first[i] * first[i];
      }
    const double distance = std::sqrt(error / (norm > 0 ? norm : 1));
    if (distance > drift || std::isnan(distance)) drift = distance;  // NaN stays
    return distance <= tolerance;
  }

  void keep_adjoints() {
    adjoints.assign(run.s.theta_bar, run.s.theta_bar + p.n_terms);
    for (auto& G : run.G)
      if (G.base) adjoints.insert(adjoints.end(), G.base, G.base + G.size());
  }
  void restore_adjoints() {
    std::copy_n(adjoints.data(), p.n_terms, run.s.theta_bar);
    const T* at = adjoints.data() + p.n_terms;
    for (auto& G : run.G) {
      if (!G.base) continue;
      std::copy_n(at, G.size(), G.base);
      at += G.size();
    }
  }
};

template <class T>
void live_backward(const Life& life, int64_t lifetime, const T* theta, T* const* born,
                   T* const* matrices, T* const* adjoints, T* theta_bar, T* inputs_bar,
                   const T* stored, const T* checkpoints, double tolerance, int32_t reversible, double* drift,
                   int64_t* recomputed) {
  const FlushSubnormals flush;
  const Team team(life.threads);
  const Program& p = *life.program;
  Backward<T> back(life, lifetime, theta, inputs_bar, tolerance, reversible);
  Lifetime<T>& run = back.run;
  run.s.theta_bar = theta_bar + lifetime * p.n_terms;
  for (int k = 0; k < p.n_matrices; ++k) {
    run.set_adjoint(k, adjoints[k] ? adjoints[k] + lifetime * p.size(k) : nullptr);
    if (k >= p.n_plastic) run.set_matrix(k, matrices[k] + lifetime * p.size(k));
  }
  Numbers<T> first;
  const auto gather = [&](T* const* whole) {
    first.clear();
    for (int k = 0; k < p.n_plastic; ++k) {
      const T* one = whole[k] + lifetime * p.size(k);
      first.insert(first.end(), one, one + p.size(k));
    }
  };
  gather(matrices);
  back.load(first);
  recomputed[lifetime] = 0;
  const int64_t segments = (life.steps + life.every - 1) / life.every, size = run.stored_size();
  Numbers<T> again(stored ? 0 : std::min(life.every, life.steps) * size);
  for (int64_t segment = segments - 1; segment >= 0; --segment) {
    const int64_t begin = segment * life.every, end = std::min(begin + life.every, life.steps);
    if (segment) {
      const T* kept = checkpoints + (lifetime * (segments - 1) + segment - 1) * p.plastic();
      first.assign(kept, kept + p.plastic());
    } else {
      gather(born);
    }
    if (!stored) {
      back.load(first);
      for (int64_t t = begin; t < end; t += run.chunk)
        run.forward(back.source, t, std::min(t + run.chunk, end), again.data() + (t - begin) * size);
    }
    const T* of_segment = stored ? stored + (lifetime * life.steps + begin) * size : again.data();
    if (!back.segment(begin, end, first, of_segment)) ++recomputed[lifetime];
    back.load(first);
  }
  drift[lifetime] = back.drift;
}

}  // namespace rulesearch

using rulesearch::Life;
using rulesearch::Program;

// sizes of structs and of enumerations, which Python compares with its own when it loads this
extern "C" int64_t layout(int32_t which) {
  const int64_t sizes[] = {sizeof(rulesearch::Op), sizeof(rulesearch::Entry),
                           sizeof(rulesearch::CoreFactor), sizeof(Program), sizeof(Life),
                           rulesearch::UPDATE + 1, rulesearch::D_RELU + 1};
  return sizes[which];
}

#ifndef REAL  // given to the compiler: a library holds the engine of one type of numbers
#define REAL float
#endif

extern "C" void live_forward(const Life* life, int64_t lifetime, const REAL* theta,
                             REAL* const* matrices, REAL* stored, REAL* checkpoints) {
  rulesearch::live_forward<REAL>(*life, lifetime, theta, matrices, stored, checkpoints);
}

extern "C" void live_backward(const Life* life, int64_t lifetime, const REAL* theta,
                              REAL* const* born, REAL* const* matrices, REAL* const* adjoints,
                              REAL* theta_bar, REAL* inputs_bar, const REAL* stored,
                              const REAL* checkpoints, double tolerance, int32_t reversible,
                              double* drift, int64_t* recomputed) {
  rulesearch::live_backward<REAL>(*life, lifetime, theta, born, matrices, adjoints, theta_bar,
                                  inputs_bar, stored, checkpoints, tolerance, reversible, drift,
                                  recomputed);
}
