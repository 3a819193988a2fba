// The gradients of a linear layer's weight and bias, summed over all rows in float32.
//
// The weight's gradient is cut into regions, each summed by one thread. The thread packs what its
// region needs of both operands, some rows at a time, so that operands and sums stay in the L2
// cache of its core.
#include <ATen/Parallel.h>

#include "buffer.h"
#include "tiles.h"

namespace bertfit {
namespace {

constexpr std::int64_t kMaxBlocks = 288;  // maximum blocks of 32 x 32 sums per region
constexpr std::int64_t kSteps = 8;        // steps of the operands packed at once

// How a gradient of height x width blocks is cut into regions of about the same size.
struct Regions {
  std::int64_t height;      // of the gradient, in blocks
  std::int64_t width;
  std::int64_t across = 1;  // number of regions along the height
  std::int64_t along = 1;   // and along the width

  // Packing a left operand, which is transposed, costs three times as much as a right one.
  Regions(std::int64_t height, std::int64_t width, std::int64_t threads)
      : height(height), width(width) {
    while (rows() * columns() > kMaxBlocks || (across * along < threads && rows() * columns() > 1)) {
      (columns() == 1 || (rows() > 1 && 3 * rows() > columns()) ? across : along) *= 2;
    }
  }
  std::int64_t rows() const { return divide_up(height, across); }
  std::int64_t columns() const { return divide_up(width, along); }
};

// Adds the column sums of up to 32 rows, for this many blocks of 32 columns.
void add_columns(const Part& part, std::int64_t blocks, float* to) {
  for (std::int64_t j = 0; j < blocks * kSide; j += kLanes) {
    Floats sum = load(to + j);
    for (std::int64_t row = 0; row < std::min(kSide, part.num_rows); ++row) {
      sum += load(part.from + row * part.stride + j);
    }
    store(to + j, sum);
  }
}

// Packs 32 rows, one block of 32 columns at a time, and prefetches the next rows meanwhile.
template <typename PackStep>
void pack_blocks(const Part& rows, std::int64_t blocks, std::int64_t stride, PackStep pack_step,
                 bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t row = kSide; row < 2 * kSide; ++row) {
      fetch_ahead(rows, row, block * kSide);
    }
    pack_step(rows.at(0, block * kSide), to + block * stride);
  }
}

// Sums dyᵀ · x over all rows, as `height` x `width` consecutive blocks, and the columns of dy
// unless `column_sums` is null.
void sum_region(const Part& dy, const Part& x, std::int64_t height, std::int64_t width, float* sums,
                float* column_sums) {
  static thread_local Buffer<bf16> buffer;
  const std::int64_t steps = divide_up(x.num_rows, kSide);
  bf16* left = buffer.reserve((height + width) * kSteps * kStepSize);
  bf16* right = left + height * kSteps * kStepSize;
  for (std::int64_t first = 0; first < steps; first += kSteps) {
    const std::int64_t size = std::min(kSteps, steps - first);
    for (std::int64_t step = 0; step < size; ++step) {
      pack_blocks(dy.at((first + step) * kSide, 0), height, size * kStepSize, pack_left_transposed,
                  left + step * kStepSize);
      pack_blocks(x.at((first + step) * kSide, 0), width, size * kStepSize, pack_right,
                  right + step * kStepSize);
      if (column_sums != nullptr) {
        add_columns(dy.at((first + step) * kSide, 0), height, column_sums);
      }
    }
    for (std::int64_t panel = 0; panel < height; ++panel) {
      for (std::int64_t block = 0; block < width; ++block) {
        const bf16* with = right + block * size * kStepSize;
        const Left of{left + panel * size * kStepSize};
        float* to = sums + (panel * width + block) * kBlock;
        if (first == 0) {
          multiply_block<false>(of, with, size, to, kSide);
        } else {
          multiply_block<true>(of, with, size, to, kSide);
        }
      }
    }
  }
}

// to (32 rows, `stride` numbers apart) = or += a row of blocks.
void put_rows(const float* blocks, std::int64_t width, bool add, float* to, std::int64_t stride) {
  for (std::int64_t row = 0; row < kSide; ++row) {
    for (std::int64_t j = 0; j < width * kSide; j += kLanes) {
      const Floats sum = load(blocks + j / kSide * kBlock + row * kSide + j % kSide);
      float* at = to + row * stride + j;
      store(at, add ? load(at) + sum : sum);
    }
  }
}

}  // namespace
}  // namespace bertfit

using namespace bertfit;

extern "C" {

// dw (n x k) = or += dyᵀ (n x m) · x (m x k), and dbias (n; may be null) = or += the column sums of
// dy. n and k are multiples of 32.
void linear_backward_weight(const bf16* dy, const bf16* x, float* dw, float* dbias, bool add,
                            std::int64_t m, std::int64_t n, std::int64_t k) {
  const Regions regions(n / kSide, k / kSide, at::get_num_threads());
  const Part gradient{dy, n, m, n}, input{x, k, m, k};
  at::parallel_for(0, regions.across * regions.along, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    static thread_local Buffer<float> buffer;
    for (std::int64_t region = begin; region < end; ++region) {
      const std::int64_t top = region / regions.along * regions.rows();
      const std::int64_t left = region % regions.along * regions.columns();
      const std::int64_t height = std::min(regions.rows(), regions.height - top);
      const std::int64_t width = std::min(regions.columns(), regions.width - left);
      if (height <= 0 || width <= 0) {
        continue;
      }
      const bool sums_columns = dbias != nullptr && left == 0;
      float* sums = buffer.reserve(height * width * kBlock);
      float* column_sums = sums_columns ? dbias + top * kSide : nullptr;
      if (sums_columns && !add) {
        std::fill_n(column_sums, height * kSide, 0.0f);
      }
      sum_region(gradient.at(0, top * kSide), input.at(0, left * kSide), height, width, sums,
                 column_sums);
      for (std::int64_t panel = 0; panel < height; ++panel) {
        put_rows(sums + panel * width * kBlock, width, add,
                 dw + (top + panel) * kSide * k + left * kSide, k);
      }
    }
  });
}

}  // extern "C"
