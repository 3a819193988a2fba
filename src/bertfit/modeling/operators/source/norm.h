// LayerNorm of a residual sum with dropout.
#pragma once

#include "dropout.h"

namespace bertfit {

// y = (s - mean(s)) / √(variance(s) + epsilon) · weight + bias, with s = dropout(x) + residual.
struct Norm {
  std::int64_t rows;
  std::int64_t width;  // a multiple of 32
  float epsilon;
  float rate;
  std::uint64_t seed;

  Dropout dropout() const { return {seed, rate}; }

  // Computes row number `row` of y, which may overwrite the residual. `residual` and `bias` may be
  // null; `sums` (may be null) receives s, and `statistics` its mean and reciprocal deviation. In y
  // and the residual, consecutive blocks of 32 numbers of the row start `step` numbers apart.
  void forward_row(std::int64_t row, const bf16* x, const bf16* residual, const bf16* weight,
                   const bf16* bias, bf16* sums, float statistics[2], bf16* y,
                   std::int64_t step = 32) const;
  void backward_row(const bf16* y_gradient, const bf16* sums, const float statistics[2],
                    const bf16* weight, float* weight_gradient, float* bias_gradient,
                    float* slopes) const;

 private:
  float add_residual(const bf16* x, const bf16* residual, std::int64_t step, std::int64_t row,
                     float* to) const;
  void scale_row(const float* values, float mean, float inverse, const bf16* weight,
                 const bf16* bias, bf16* y, std::int64_t step) const;
};

}  // namespace bertfit
