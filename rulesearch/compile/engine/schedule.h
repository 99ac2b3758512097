// The order in which the operations of a step run.
//
// Elementwise operations on vectors of one size that follow one another make a run, which is taken
// a block of numbers at a time: what one operation leaves in L1, the next finds there. To make runs
// long, operations between which nothing else happens are put in order of their size; coefficients,
// which need no vector, go before them.
//
// Runs between two operations on matrices make a stretch. What happens there to one example does
// not depend on the others, so that threads take examples, each from the stretch's beginning to
// its end, and meet once.
#pragma once
#include <algorithm>
#include <vector>

#include "functions.h"
#include "program.h"

namespace rulesearch {

inline bool is_elementwise(const Op& op) {
  if (op.n == 1) return false;  // others may wait for a number
  return op.kind == MULTIPLY || op.kind == SUBTRACT || op.kind == COMBINE ||
         (op.kind == APPLY && op.function != SOFTMAX);
}

inline bool is_of_matrix(const Op& op) {
  return op.kind == MATVEC || op.kind == MATVEC_T || op.kind == UPDATE;
}

template <class T>
struct Range {
  const T *first, *last;
  const T* begin() const { return first; }
  const T* end() const { return last; }
};
using Run = Range<Op>;
using Stretch = Range<Run>;  // an operation on a matrix is a stretch by itself

struct Schedule {
  std::vector<Op> ops;
  std::vector<Run> runs;  // of ops, in order
  std::vector<Stretch> stretches;  // of runs

  Schedule(const Schedule&) = delete;
  explicit Schedule(const Program& p) : ops(p.ops, p.ops + p.n_ops) {
    const auto movable = [](const Op& op) { return is_elementwise(op) || op.kind == COEFFICIENT; };
    const auto rank = [](const Op& op) { return op.kind == COEFFICIENT ? 0 : op.n; };
    for (auto at = ops.begin(); at != ops.end();) {
      const auto end = std::find_if_not(at, ops.end(), movable);
      std::stable_sort(at, end, [&](const Op& a, const Op& b) { return rank(a) < rank(b); });
      at = end == ops.end() ? end : end + 1;
    }
    for (const Op& op : ops) {
      const Op* last = runs.empty() ? nullptr : runs.back().last - 1;
      if (last && is_elementwise(*last) && is_elementwise(op) && last->n == op.n)
        runs.back().last = &op + 1;
      else
        runs.push_back({&op, &op + 1});
    }
    for (const Run& run : runs) {
      const Op* last = stretches.empty() ? nullptr : (stretches.back().last - 1)->first;
      if (last && !is_of_matrix(*last) && !is_of_matrix(*run.first))
        stretches.back().last = &run + 1;
      else
        stretches.push_back({&run, &run + 1});
    }
  }
};

}  // namespace rulesearch
