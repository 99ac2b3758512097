// The tape: what one step computes, as tables that Python fills (rulesearch.compile.tape).
//
// A value is a vector of n numbers for each of the step's examples. Its examples lie stride(n)
// apart, so that a value takes examples * stride(n) numbers of the frame, and its offset there
// is the table's offset times the number of examples.
#pragma once
#include <cstdint>

namespace rulesearch {

enum Kind { MATVEC, MATVEC_T, MULTIPLY, DOT, COEFFICIENT, COMBINE, APPLY, SUBTRACT, COLUMN, UPDATE };

struct Op {  // values are offsets; -1 is none
  int32_t kind, out, a, b, matrix, n, m, function;
  int32_t first, count;  // entries of a coefficient or combination; outer products of an update
  int32_t rows, row_count, masks, mask_count, others, other_count, scale;  // of an update
  int32_t rate;   // the matrix that an update is multiplied by, one by one
  int32_t ahead;  // which product with the step's input this is, known before the step is run
  int32_t wants_a, wants_b, wants_matrix;  // which adjoints are needed
};

// Updates of low rank, M <- diag(1 + rho) M + U V^T, can be deferred; those that grow have a rho.
inline bool is_low_rank(const Op& update) {
  return !update.mask_count && !update.other_count && update.rate < 0;
}
inline bool grows(const Op& update) {
  return is_low_rank(update) && (update.scale >= 0 || update.row_count);
}

struct Entry {  // number * theta[term] * scalar; scalar * vector; or (left right^T) o core
  double number;
  int32_t term, scalar, vector, wants_scalar, wants_vector, core, core_count, pad;
};

struct CoreFactor {  // an elementwise power of a weight matrix
  int32_t matrix, power;
};

struct Program {
  int32_t n_ops, n_matrices, n_plastic, n_terms, n_ahead;
  int32_t frame, stored;  // numbers of a frame per example; of these, what a step keeps: the first
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

inline int64_t stride(int64_t n) { return n == 1 ? 1 : (n + 15) / 16 * 16; }

}  // namespace rulesearch
