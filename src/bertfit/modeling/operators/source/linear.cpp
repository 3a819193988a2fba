// Linear layers: y = x · wᵀ + b, with GELU where it follows, and the gradient of x. Layers of one
// input, such as those of queries, keys and values, are done together.
//
// The right operand is packed into tiles first, by all threads. Then every thread takes panels of 32
// rows and multiplies each with all columns; sums never leave the first cache before they are
// rounded, biased and activated.
#include <ATen/Parallel.h>

#include "buffer.h"
#include "panels.h"

namespace bertfit {
namespace {

constexpr std::int64_t kRightBytes = 5 << 18;  // of a right operand that is used again and again
constexpr std::int64_t kMaxLayers = 4;         // of one input

// Multiplies each x (rows x inner) by its part of a packed right operand, [column block][x][step],
// and sums. `write.at(block)` takes the sums of its columns. Rows of one block are finished while the
// next one is multiplied, and the rows of the next panel fetched.
template <typename Write>
void multiply_panels(const Part* xs, std::int64_t count, const bf16* packed,
                     std::int64_t num_columns, const Write& write) {
  const Part& x = xs[0];  // all are of one shape
  const std::int64_t steps = x.num_columns / kSide;
  const std::int64_t panels = divide_up(x.num_rows, kSide);
  const std::int64_t part_size = steps * kStepSize;
  const std::int64_t block_size = count * part_size;
  const std::int64_t group =
      std::max<std::int64_t>(1, kRightBytes / (block_size * static_cast<std::int64_t>(sizeof(bf16))));
  const std::int64_t blocks = num_columns / kSide;
  const std::int64_t each = divide_up(kSide, steps);  // rows finished in a step
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
      const std::int64_t ahead = divide_up(kSide, last - first);  // rows in a block
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

// Each y (m x n) = x (m x k) · wᵀ + bias, of `count` layers with weights w (n x k) and biases (n; each
// may be null), or, of one layer, the GELU of it, whose derivative `slopes` (m x n; may be null) gets.
// n and k are multiples of 32. `packed` has room for count · n · k numbers.
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

// dx (m x k) = the sum of each dy (m x n) · w (n x k) of `count` layers, times `factors` (m x k; may
// be null) number by number, plus `addend` (m x k; may be null). `packed` has room for count · n · k
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
