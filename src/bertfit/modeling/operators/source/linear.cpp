// Linear layers: y = x · wᵀ + b, optionally followed by GELU, and the gradient of x. Layers with
// the same input, such as those of queries, keys and values, are computed together.
//
// All threads first pack the right operand into tiles. Then each thread takes panels of 32 rows and
// multiplies each by all columns; the bias is added, and sums are activated and rounded, while they
// are still in the L1 cache.
#include <ATen/Parallel.h>

#include "buffer.h"
#include "panels.h"

namespace bertfit {
namespace {

constexpr std::int64_t kRightBytes = 5 << 18;  // of a right operand, reused across panels
constexpr std::int64_t kMaxLayers = 4;         // with the same input

// Sums the products of each x (rows x inner) with its part of a packed right operand, as
// [column block][x][step]. `write.at(block)` receives the sums of its columns. While one block is
// multiplied, rows of the previous one are written and rows of the next panel prefetched.
template <typename Write>
void multiply_panels(const Part* xs, std::int64_t count, const bf16* packed,
                     std::int64_t num_columns, const Write& write) {
  const Part& x = xs[0];  // all have the same shape
  const std::int64_t steps = x.num_columns / kSide;
  const std::int64_t panels = divide_up(x.num_rows, kSide);
  const std::int64_t part_size = steps * kStepSize;
  const std::int64_t block_size = count * part_size;
  const std::int64_t group =
      std::max<std::int64_t>(1, kRightBytes / (block_size * static_cast<std::int64_t>(sizeof(bf16))));
  const std::int64_t blocks = num_columns / kSide;
  const std::int64_t each = divide_up(kSide, steps);  // rows written per step
  at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    static thread_local Buffer<bf16> buffer;
    bf16* padded = buffer.reserve(block_size);
    alignas(64) float sums[2][kBlock];
    Left left[kMaxLayers];
    int turn = 0;
    Waiting<typename Write::Columns> waiting;
    for (std::int64_t first = 0; first < blocks; first += group) {
      const std::int64_t last = std::min(first + group, blocks);
      const std::int64_t ahead = divide_up(kSide, last - first);  // rows prefetched per block
      for (std::int64_t panel = begin; panel < end; ++panel) {
        const std::int64_t row = panel * kSide, next_row = std::min(panel + 1, end) * kSide;
        for (std::int64_t i = 0; i < count; ++i) {
          left[i] = take_panel(xs[i].at(row, 0), steps, padded + i * part_size);
        }
        for (std::int64_t block = first; block < last; ++block, turn ^= 1) {
          for (std::int64_t i = 0; i < count; ++i) {
            const Part next = xs[i].at(next_row, 0);
            const auto meanwhile = [&](std::int64_t step) {
              if (i == 0) {
                waiting.finish(each);
              }
              for (std::int64_t j = 0; j < ahead; ++j) {
                fetch_ahead(next, (block - first) * ahead + j, step * kSide);
              }
            };
            const bf16* right = packed + block * block_size + i * part_size;
            float* to = sums[turn];
            if (i == 0) {
              multiply_block<false>(left[i], right, steps, to, kSide, meanwhile);
            } else {
              multiply_block<true>(left[i], right, steps, to, kSide, meanwhile);
            }
          }
          waiting.take(sums[turn], row, std::min(x.num_rows - row, kSide), write.at(block));
        }
      }
    }
    waiting.finish(kSide);
    Output::finish();
  });
}

}  // namespace
}  // namespace bertfit

using namespace bertfit;

extern "C" {

// Computes y (m x n) = x (m x k) · wᵀ + bias for `count` layers with weights w (n x k) and biases
// (n; each may be null), or, for a single layer, its GELU; `slopes` (m x n; may be null) receives
// the derivative. n and k are multiples of 32. `packed` has room for count · n · k numbers.
void linear_forward(const bf16* x, const bf16* const* weights, const bf16* const* biases,
                    bool activate, bf16* const* outputs, bf16* slopes, bf16* packed,
                    std::int64_t count, std::int64_t m, std::int64_t n, std::int64_t k) {
  pack_weights(weights, count, n, k, packed);
  const Part rows{x, k, m, k};
  const Layers layers{biases, outputs, m, n};
  if (activate && slopes != nullptr) {
    multiply_panels(&rows, 1, packed, count * n, WriteGelu<true>{layers, Output(slopes, m * n)});
  } else if (activate) {
    multiply_panels(&rows, 1, packed, count * n, WriteGelu<false>{layers, {}});
  } else {
    multiply_panels(&rows, 1, packed, count * n, WriteLinear{layers});
  }
}

// dx (m x k) = the sum of dy (m x n) · w (n x k) over `count` layers, times `factors` (m x k; may
// be null) elementwise, plus `addend` (m x k; may be null). `packed` has room for count · n · k
// numbers.
void linear_backward_input(const bf16* const* gradients, const bf16* const* weights,
                           const bf16* factors, const bf16* addend, bf16* dx, bf16* packed,
                           std::int64_t count, std::int64_t m, std::int64_t n, std::int64_t k) {
  const std::int64_t steps = n / kSide;
  pack_all(k / kSide, count * steps, packed, [=](std::int64_t block, std::int64_t step, bf16* to) {
    const Part weight{weights[step / steps], k, n, k};
    pack_right(weight.at(step % steps * kSide, block * kSide), to);
  });
  Part parts[kMaxLayers];
  for (std::int64_t i = 0; i < count; ++i) {
    parts[i] = {gradients[i], n, m, n};
  }
  multiply_panels(parts, count, packed, k, WriteInput{factors, addend, k, Output(dx, m * k)});
}

}  // extern "C"
