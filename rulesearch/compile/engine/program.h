// The tape: what one step computes, as tables that Python fills (rulesearch.compile.tape).
#pragma once
#include <cstdint>

namespace rulesearch {

enum Kind { MATVEC, MATVEC_T, MULTIPLY, DOT, COEFFICIENT, COMBINE, APPLY, SUBTRACT, UPDATE };

struct Op {  // offsets into the frame; -1 is none
  int32_t kind, out, a, b, matrix, n, m, function;
  int32_t first, count;  // entries of a coefficient or combination; outer products of an update
  int32_t masks, mask_count, others, other_count, scale;
  int32_t wants_a, wants_b, wants_matrix;  // which adjoints are needed
};

struct Entry {  // number * theta[term] * scalar; scalar * vector; or (left right^T) o core
  double number;
  int32_t term, scalar, vector, wants_scalar, wants_vector, core, core_count, pad;
};

struct CoreFactor {  // an elementwise power of a weight matrix
  int32_t matrix, power;
};

struct Program {
  int32_t n_ops, n_matrices, n_plastic, frame, n_terms;
  int32_t x, x_size, target, target_size, ones, ones_size, pad;
  double beta;
  const Op* ops;
  const Entry* entries;
  const CoreFactor* cores;
  const int32_t* rows;  // of each matrix; plastic ones come first
  const int32_t* columns;

  int64_t size(int k) const { return (int64_t)rows[k] * columns[k]; }
  int64_t plastic() const {
    int64_t total = 0;
    for (int k = 0; k < n_plastic; ++k) total += size(k);
    return total;
  }
};

}  // namespace rulesearch
