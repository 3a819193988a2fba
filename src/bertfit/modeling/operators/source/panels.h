// Building blocks of a layer's products: packed weights, panels of 32 rows, and the writers of
// their sums.
#pragma once

#include <ATen/Parallel.h>

#include "tiles.h"

namespace bertfit {

// Packs a right operand with this many column blocks and steps, as [column block][step].
template <typename PackStep>
inline void pack_all(std::int64_t blocks, std::int64_t steps, bf16* packed, PackStep pack_step) {
  at::parallel_for(0, blocks * steps, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      pack_step(i / steps, i % steps, packed + i * kStepSize);
    }
  });
}

// Sums of 32 columns and up to 32 rows that are still to be written, a few rows at a time.
template <typename Columns>
class Waiting {
 public:
  void take(const float* sums, std::int64_t row, std::int64_t count, const Columns& columns) {
    sums_ = sums;
    row_ = row;
    count_ = count;
    columns_ = columns;
  }
  void finish(std::int64_t count) {
    count = std::min(count, count_);
    for (std::int64_t i = 0; i < count; ++i, sums_ += kSide) {
      columns_.write(load(sums_), load(sums_ + kLanes), row_ + i);
    }
    row_ += count;
    count_ -= count;
  }

 private:
  const float* sums_ = nullptr;
  std::int64_t row_ = 0;
  std::int64_t count_ = 0;
  Columns columns_;
};

// A panel of x as a left operand: in place, or packed with zeros if rows are missing.
inline Left take_panel(const Part& rows, std::int64_t steps, bf16* padded) {
  if (rows.num_rows >= kSide) {
    return {rows.from, rows.stride, kSide};
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    pack_left(rows.at(0, step * kSide), padded + step * kStepSize);
  }
  return {padded};
}

// Packs the weights (n x k) of `count` layers on the same input as right operands of x · wᵀ.
inline void pack_weights(const bf16* const* weights, std::int64_t count, std::int64_t n,
                         std::int64_t k, bf16* packed) {
  const std::int64_t blocks = n / kSide;
  pack_all(count * blocks, k / kSide, packed, [=](std::int64_t block, std::int64_t step, bf16* to) {
    const Part weight{weights[block / blocks], k, n, k};
    pack_right_transposed(weight.at(block % blocks * kSide, step * kSide), to);
  });
}

// Layout of rows: row-major, or in panels of 32 rows, packed as left operands, step after step.
enum class Order { kRows, kPanels };

// Where the sums of several layers go: one output of rows x columns per layer, after adding its
// bias, which may be null. Column blocks are numbered consecutively across the layers.
struct Layers {
  const bf16* const* biases;
  bf16* const* outputs;
  std::int64_t rows;
  std::int64_t columns;
  Order order = Order::kRows;

  struct Place {
    Floats low, high;    // the bias
    std::int64_t first;  // offset of row 0
    std::int64_t panel;  // offset from one panel of 32 rows to the next
    std::int64_t stride;  // offset from one row of a panel to the next
    Output output;

    std::int64_t at(std::int64_t row) const {
      return first + row / kSide * panel + row % kSide * stride;
    }
  };

  Place place(std::int64_t block) const {
    const std::int64_t layer = block * kSide / columns;
    const std::int64_t column = block * kSide - layer * columns;
    const bf16* bias = biases[layer];
    const Floats zero = _mm512_setzero_ps();
    const bool in_panels = order == Order::kPanels;
    return {bias == nullptr ? zero : load(bias + column),
            bias == nullptr ? zero : load(bias + column + kLanes),
            in_panels ? column * kSide : column, kSide * columns, in_panels ? kSide : columns,
            Output(outputs[layer], rows * columns)};
  }
};

struct WriteLinear {
  struct Columns {
    Layers::Place place;

    void write(Floats low, Floats high, std::int64_t row) const {
      place.output.write(place.at(row), narrow_row(low + place.low, high + place.high));
    }
  };
  Layers layers;

  Columns at(std::int64_t block) const { return {layers.place(block)}; }
};

// Writes GELU and, if requested, its derivatives.
template <bool kWithSlopes>
struct WriteGelu {
  struct Columns {
    Layers::Place place;
    Output slopes;

    void write(Floats low, Floats high, std::int64_t row) const {
      const Gelu of_low = gelu(low + place.low), of_high = gelu(high + place.high);
      place.output.write(place.at(row), narrow_row(of_low.value, of_high.value));
      if constexpr (kWithSlopes) {
        slopes.write(place.at(row), narrow_row(of_low.slope, of_high.slope));
      }
    }
  };
  Layers layers;
  Output slopes;

  Columns at(std::int64_t block) const { return {layers.place(block), slopes}; }
};

// Writes sums times `factors` plus `addend`, elementwise; either may be null.
struct WriteInput {
  struct Columns {
    const bf16* factors;
    const bf16* addend;
    std::int64_t column;
    std::int64_t stride;
    Output output;

    void write(Floats low, Floats high, std::int64_t row) const {
      const std::int64_t at = row * stride + column;
      if (factors != nullptr) {
        low *= load(factors + at);
        high *= load(factors + at + kLanes);
      }
      if (addend != nullptr) {
        low += load(addend + at);
        high += load(addend + at + kLanes);
      }
      output.write(at, narrow_row(low, high));
    }
  };
  const bf16* factors;
  const bf16* addend;
  std::int64_t stride;
  Output output;

  Columns at(std::int64_t block) const { return {factors, addend, block * kSide, stride, output}; }
};

}  // namespace bertfit
