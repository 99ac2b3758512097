// The order in which the operations of a step run.
//
// Elementwise operations on vectors of one size that follow one another make a run, which is taken
// a block of numbers at a time: what one operation leaves in L1, the next finds there. To make runs
// long, operations between which nothing else happens are put in order of their size; coefficients,
// which need no vector, go before them.
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

struct Run {
  const Op *first, *last;
  const Op* begin() const { return first; }
  const Op* end() const { return last; }
};

struct Schedule {
  std::vector<Op> ops;
  std::vector<Run> runs;  // of ops, in order

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
  }
};

}  // namespace rulesearch
