// The operations between a layer's products: GELU, and LayerNorm of a residual sum with dropout.
#include <ATen/Parallel.h>

#include <vector>

#include "buffer.h"
#include "norm.h"

namespace bertfit {
namespace {

constexpr std::int64_t kBlock = 32;       // numbers per draw of dropout
constexpr std::int64_t kChunk = 64;       // rows per partial sum of gradients of weight and bias
constexpr std::int64_t kGrain = 1 << 14;  // minimum numbers per thread

// Calls work(i) for every 16th index below `count`, a multiple of 32.
template <typename Work>
void split(std::int64_t count, Work work) {
  at::parallel_for(0, count / kBlock, kGrain / kBlock, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * kBlock; i < end * kBlock; i += kLanes) {
      work(i);
    }
  });
}

// Sums one row of `width` numbers per chunk; the sums are written or added to `to`.
void add_chunks(const float* from, std::int64_t chunks, std::int64_t width, bool add, float* to) {
  if (!add) {
    std::fill_n(to, width, 0.0f);
  }
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk, from += 2 * width) {
    for (std::int64_t j = 0; j < width; j += kLanes) {
      store(to + j, load(to + j) + load(from + j));
    }
  }
}

}  // namespace

float Norm::add_residual(const bf16* x, const bf16* residual, std::int64_t step, std::int64_t row,
                         float* to) const {
  const Dropout drop = dropout();
  const DropoutRow drawn = drop.row(row);
  const Floats scale = spread(drop.scale());
  Floats total = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < width; j += kBlock) {
    const Kept kept = drawn.draw(j / kBlock);
    Floats low = keep(load(x + j), kept.low) * scale;
    Floats high = keep(load(x + j + kLanes), kept.high) * scale;
    if (residual != nullptr) {
      const bf16* beside = residual + j / kBlock * step;
      low += load(beside);
      high += load(beside + kLanes);
    }
    store(to + j, low);
    store(to + j + kLanes, high);
    total += low + high;
  }
  return _mm512_reduce_add_ps(total);
}

void Norm::scale_row(const float* values, float mean, float inverse, const bf16* weight,
                     const bf16* bias, bf16* y, std::int64_t step) const {
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const Floats standard = (load(values + j) - spread(mean)) * spread(inverse);
    const Floats shift = bias == nullptr ? _mm512_setzero_ps() : load(bias + j);
    store(y + j / kBlock * step + j % kBlock, standard * load(weight + j) + shift);
  }
}

void Norm::forward_row(std::int64_t row, const bf16* x, const bf16* residual, const bf16* weight,
                       const bf16* bias, bf16* sums, float statistics[2], bf16* y,
                       std::int64_t step) const {
  static thread_local Buffer<float> buffer;
  float* values = buffer.reserve(width);
  const float mean = add_residual(x, residual, step, row, values) / static_cast<float>(width);
  Floats squares = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const Floats away = load(values + j) - spread(mean);
    squares += away * away;
    if (sums != nullptr) {
      store(sums + j, load(values + j));
    }
  }
  const float variance = _mm512_reduce_add_ps(squares) / static_cast<float>(width);
  const float inverse = 1.0f / std::sqrt(variance + epsilon);
  statistics[0] = mean;
  statistics[1] = inverse;
  scale_row(values, mean, inverse, weight, bias, y, step);
}

// Writes the gradient of s in float32 and adds to the gradients of weight and bias.
void Norm::backward_row(const bf16* y_gradient, const bf16* sums, const float statistics[2],
                        const bf16* weight, float* weight_gradient, float* bias_gradient,
                        float* slopes) const {
  const Floats mean = spread(statistics[0]), inverse = spread(statistics[1]);
  Floats total = _mm512_setzero_ps(), along = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const Floats of_y = load(y_gradient + j);
    const Floats standard = (load(sums + j) - mean) * inverse;
    const Floats slope = of_y * load(weight + j);
    store(weight_gradient + j, load(weight_gradient + j) + of_y * standard);
    store(bias_gradient + j, load(bias_gradient + j) + of_y);
    store(slopes + j, slope);
    total += slope;
    along += slope * standard;
  }
  const Floats mean_slope = spread(_mm512_reduce_add_ps(total) / static_cast<float>(width));
  const Floats mean_along = spread(_mm512_reduce_add_ps(along) / static_cast<float>(width));
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const Floats standard = (load(sums + j) - mean) * inverse;
    store(slopes + j, (load(slopes + j) - mean_slope - standard * mean_along) * inverse);
  }
}

}  // namespace bertfit

using namespace bertfit;

extern "C" {

// `sums` (rows x width; may be null) receives s, and `statistics` (rows x 2) mean and reciprocal
// deviation. A null residual or bias counts as 0.
void norm_forward(const Norm* norm, const bf16* x, const bf16* residual, const bf16* weight,
                  const bf16* bias, bf16* sums, float* statistics, bf16* y) {
  const std::int64_t width = norm->width;
  at::parallel_for(0, norm->rows, kGrain / width + 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t at = row * width;
      norm->forward_row(row, x + at, residual == nullptr ? nullptr : residual + at, weight, bias,
                        sums == nullptr ? nullptr : sums + at, statistics + 2 * row, y + at);
    }
  });
}

// Computes the gradients of x and of the residual (null if not needed or equal to that of x). The
// gradients of weight and bias (width; the bias's may be null) are float32 and set or added to.
// They are summed in chunks of rows, so the result does not depend on the number of threads.
void norm_backward(const Norm* norm, const bf16* y_gradient, const bf16* sums,
                   const float* statistics, const bf16* weight, bf16* x_gradient,
                   bf16* residual_gradient, float* weight_gradient, float* bias_gradient,
                   bool add) {
  const std::int64_t width = norm->width, rows = norm->rows;
  const std::int64_t chunks = (rows + kChunk - 1) / kChunk;
  const Dropout dropout = norm->dropout();
  const Floats scale = spread(dropout.scale());
  std::vector<float> partial(chunks * 2 * width);
  float* of_chunks = partial.data();
  at::parallel_for(0, chunks, 1, [=](std::int64_t begin, std::int64_t end) {
    static thread_local Buffer<float> buffer;
    float* slopes = buffer.reserve(width);
    for (std::int64_t row = begin * kChunk; row < std::min(end * kChunk, rows); ++row) {
      const std::int64_t at = row * width;
      float* of_weight = of_chunks + row / kChunk * 2 * width;
      norm->backward_row(y_gradient + at, sums + at, statistics + 2 * row, weight, of_weight,
                         of_weight + width, slopes);
      const DropoutRow drawn = dropout.row(row);
      for (std::int64_t j = 0; j < width; j += kBlock) {
        const Floats low = load(slopes + j), high = load(slopes + j + kLanes);
        const Kept kept = drawn.draw(j / kBlock);
        store(x_gradient + at + j, keep(low, kept.low) * scale);
        store(x_gradient + at + j + kLanes, keep(high, kept.high) * scale);
        if (residual_gradient != nullptr) {
          store(residual_gradient + at + j, low);
          store(residual_gradient + at + j + kLanes, high);
        }
      }
    }
  });
  add_chunks(of_chunks, chunks, width, add, weight_gradient);
  if (bias_gradient != nullptr) {
    add_chunks(of_chunks + width, chunks, width, add, bias_gradient);
  }
}

// y = x · Φ(x) for `count` numbers, a multiple of 32; `slopes` (may be null) receives the
// derivative.
void gelu_forward(const bf16* x, bf16* y, bf16* slopes, std::int64_t count) {
  split(count, [=](std::int64_t i) {
    const Gelu of_x = gelu(load(x + i));
    store(y + i, of_x.value);
    if (slopes != nullptr) {
      store(slopes + i, of_x.slope);
    }
  });
}

// z = x · y, elementwise.
void multiply_numbers(const bf16* x, const bf16* y, bf16* z, std::int64_t count) {
  split(count, [=](std::int64_t i) { store(z + i, load(x + i) * load(y + i)); });
}

}  // extern "C"
