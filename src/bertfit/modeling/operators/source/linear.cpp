// Linear layers: y = x · wᵀ + b, with GELU where it follows, and the gradients of w and b.
//
// The right operand is packed into tiles first, by all threads. Then every thread takes panels of 32
// rows, packs each once, and multiplies it with all columns; sums never leave the first cache
// before they are rounded, biased and activated.
#include <ATen/Parallel.h>

#include "buffer.h"
#include "tiles.h"

namespace bertfit {
namespace {

constexpr std::int64_t kRightBytes = 1 << 20;  // of a right operand that is used again and again
constexpr std::int64_t kChunk = 8;   // steps of a weight's gradient that are taken at once,
constexpr std::int64_t kGroup = 24;  // with so many blocks of columns: what a second cache holds

// Packs a right operand of `num_columns` by `inner` numbers, [column block][step].
template <typename PackStep>
void pack_all(std::int64_t num_columns, std::int64_t inner, bf16* packed, PackStep pack_step) {
  const std::int64_t steps = round_up(inner, kSide) / kSide;
  const std::int64_t blocks = round_up(num_columns, kSide) / kSide;
  at::parallel_for(0, blocks * steps, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      pack_step(i / steps * kSide, i % steps * kSide, packed + i * kStepSize);
    }
  });
}

// 32 columns of up to 32 rows of sums that wait to be finished.
struct Waiting {
  const float* sums = nullptr;
  std::int64_t row = 0;
  std::int64_t rows = 0;
  std::int64_t column = 0;

  template <typename FinishRow>
  void finish(std::int64_t begin, std::int64_t end, FinishRow finish_row) const {
    for (std::int64_t i = begin; i < std::min(end, rows); ++i) {
      finish_row(sums + i * kSide, row + i, column);
    }
  }
};

// Multiplies x (rows x inner) by a packed right operand; `finish_row(sums, row, column)` takes each
// 32 sums. Rows of one block are finished while the next one is multiplied.
template <typename FinishRow>
void multiply_panels(const Part& x, const bf16* packed, std::int64_t num_columns,
                     FinishRow finish_row) {
  const std::int64_t steps = round_up(x.num_columns, kSide) / kSide;
  const std::int64_t panels = round_up(x.num_rows, kSide) / kSide;
  const std::int64_t block_size = steps * kStepSize;
  const std::int64_t group =
      std::max<std::int64_t>(1, kRightBytes / (block_size * static_cast<std::int64_t>(sizeof(bf16))));
  const std::int64_t blocks = num_columns / kSide;
  const std::int64_t each = (kSide + steps - 1) / steps;  // rows finished in a step
  at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    static thread_local Buffer<bf16> buffer;
    bf16* left = buffer.reserve(block_size);
    alignas(64) float sums[2][kSide * kSide];
    int turn = 0;
    Waiting waiting;
    for (std::int64_t first = 0; first < blocks; first += group) {
      const std::int64_t last = std::min(first + group, blocks);
      for (std::int64_t panel = begin; panel < end; ++panel) {
        const Part rows = x.at(panel * kSide, 0);
        for (std::int64_t step = 0; step < steps; ++step) {
          pack_left(rows.at(0, step * kSide), left + step * kStepSize);
        }
        for (std::int64_t block = first; block < last; ++block, turn ^= 1) {
          multiply_block<false>(left, packed + block * block_size, steps, sums[turn], kSide,
                                [&](std::int64_t step) {
                                  waiting.finish(step * each, (step + 1) * each, finish_row);
                                });
          waiting = {sums[turn], panel * kSide, std::min(rows.num_rows, kSide), block * kSide};
        }
      }
    }
    waiting.finish(0, kSide, finish_row);
  });
}

// Sums up to `rows` rows of 32 columns; `to` gets the sums, or has them added.
void add_columns(const Part& part, std::int64_t rows, bool add, float* to) {
  Floats sums[2] = {};
  for (int half = 0; add && half < 2; ++half) {
    sums[half] = load(to + half * kLanes);
  }
  for (std::int64_t row = 0; row < std::min(rows, part.num_rows); ++row) {
    const bf16* from = part.from + row * part.stride;
    sums[0] += load(from);
    sums[1] += load(from + kLanes);
  }
  store(to, sums[0]);
  store(to + kLanes, sums[1]);
}

}  // namespace
}  // namespace bertfit

using namespace bertfit;

extern "C" {

// y (m x n) = x (m x k) · wᵀ + bias, w (n x k), or the GELU of it; `slopes` (m x n; may be null)
// gets the derivative of that. n and k are multiples of 32. `packed` has room for n · k numbers.
void linear_forward(const bf16* x, const bf16* w, const bf16* bias, bool activate, bf16* y,
                    bf16* slopes, bf16* packed, std::int64_t m, std::int64_t n, std::int64_t k) {
  const Part weight{w, k, n, k};
  pack_all(n, k, packed, [&](std::int64_t column, std::int64_t inner, bf16* step) {
    pack_right_transposed(weight.at(column, inner), step);
  });
  const Part rows{x, k, m, k};
  const auto add_bias = [=](const float* sums, std::int64_t column, int half) {
    const Floats sum = load(sums + half * kLanes);
    return bias == nullptr ? sum : sum + load(bias + column + half * kLanes);
  };
  if (!activate) {
    multiply_panels(rows, packed, n,
                    [=](const float* sums, std::int64_t row, std::int64_t column) {
                      const Words numbers = narrow_row(add_bias(sums, column, 0),
                                                       add_bias(sums, column, 1));
                      _mm512_storeu_si512(y + row * n + column, numbers);
                    });
    return;
  }
  multiply_panels(rows, packed, n, [=](const float* sums, std::int64_t row, std::int64_t column) {
    const Gelu low = gelu(add_bias(sums, column, 0));
    const Gelu high = gelu(add_bias(sums, column, 1));
    const std::int64_t at = row * n + column;
    _mm512_storeu_si512(y + at, narrow_row(low.value, high.value));
    if (slopes != nullptr) {
      _mm512_storeu_si512(slopes + at, narrow_row(low.slope, high.slope));
    }
  });
}

// dw (n x k) = or += dyᵀ (n x m) · x (m x k), and dbias (n) = or += the sums of dy's columns.
// `packed` has room for round_up(m, 32) · k numbers.
void linear_backward_weight(const bf16* dy, const bf16* x, float* dw, float* dbias, bool add,
                            bf16* packed, std::int64_t m, std::int64_t n, std::int64_t k) {
  const Part input{x, k, m, k};
  const Part gradient{dy, n, m, n};
  const std::int64_t steps = round_up(m, kSide) / kSide;
  const std::int64_t block_size = steps * kStepSize;
  pack_all(k, m, packed, [&](std::int64_t column, std::int64_t inner, bf16* step) {
    pack_right(input.at(inner, column), step);
  });
  const std::int64_t blocks = k / kSide;
  at::parallel_for(0, n / kSide, 1, [=](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    static thread_local Buffer<bf16> buffer;
    bf16* left = buffer.reserve(kChunk * kStepSize);
    for (std::int64_t first = 0; first < blocks; first += kGroup) {
      const std::int64_t last = std::min(first + kGroup, blocks);
      for (std::int64_t chunk = 0; chunk < steps; chunk += kChunk) {
        const std::int64_t size = std::min(kChunk, steps - chunk);
        const bool adds = add || chunk > 0;
        for (std::int64_t panel = begin; panel < end; ++panel) {
          const Part columns = gradient.at(chunk * kSide, panel * kSide);
          for (std::int64_t step = 0; step < size; ++step) {
            pack_left_transposed(columns.at(step * kSide, 0), left + step * kStepSize);
          }
          if (dbias != nullptr && first == 0) {
            add_columns(columns, size * kSide, adds, dbias + panel * kSide);
          }
          for (std::int64_t block = first; block < last; ++block) {
            const bf16* right = packed + block * block_size + chunk * kStepSize;
            float* to = dw + panel * kSide * k + block * kSide;
            if (adds) {
              multiply_block<true>(left, right, size, to, k);
            } else {
              multiply_block<false>(left, right, size, to, k);
            }
          }
        }
      }
    }
  });
}

}  // extern "C"
