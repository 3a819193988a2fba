// AdamW's step in one pass over the weights, and the sum of squared gradients, for clipping.
//
// Source: Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2.
#include <ATen/Parallel.h>

#include <vector>

#include "vectors.h"

namespace bertfit {

// One weight: its float32 master, gradient, AdamW moments and bfloat16 working copy.
struct Weight {
  float* master;
  const float* gradient;
  float* first;
  float* second;
  bf16* work;
  std::int64_t size;
  float weight_decay;
};

struct Step {
  float learning_rate;
  float clip;  // factor applied to all gradients
  float beta1, beta2, epsilon;
  float correction1, correction2;  // 1 - beta^step

  void take(const Weight& weight, std::int64_t begin, std::int64_t end) const;
};

namespace {

constexpr std::int64_t kChunk = 1 << 14;

// A range of one weight.
struct Chunk {
  std::int64_t weight;
  std::int64_t begin;
  std::int64_t end;
};

std::vector<Chunk> cut(const Weight* weights, std::int64_t count) {
  std::vector<Chunk> chunks;
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t begin = 0; begin < weights[i].size; begin += kChunk) {
      chunks.push_back({i, begin, std::min(begin + kChunk, weights[i].size)});
    }
  }
  return chunks;
}

Floats load_part(const float* from, __mmask16 here) {
  return _mm512_maskz_loadu_ps(here, from);
}

}  // namespace

void Step::take(const Weight& weight, std::int64_t begin, std::int64_t end) const {
  const Floats decay = spread(1.0f - learning_rate * weight.weight_decay);
  const Floats size = spread(learning_rate / correction1);
  const Floats root = spread(1.0f / std::sqrt(correction2));
  for (std::int64_t i = begin; i < end; i += kLanes) {
    const __mmask16 here = bertfit::first(end - i);
    const Floats gradient = load_part(weight.gradient + i, here) * spread(clip);
    const Floats moved = load_part(weight.first + i, here);
    const Floats mean = moved + (gradient - moved) * spread(1.0f - beta1);
    const Floats square =
        load_part(weight.second + i, here) * spread(beta2) + gradient * gradient * spread(1.0f - beta2);
    const Floats denominator = _mm512_sqrt_ps(square) * root + spread(epsilon);
    const Floats master =
        load_part(weight.master + i, here) * decay - size * _mm512_div_ps(mean, denominator);
    _mm512_mask_storeu_ps(weight.first + i, here, mean);
    _mm512_mask_storeu_ps(weight.second + i, here, square);
    _mm512_mask_storeu_ps(weight.master + i, here, master);
    store(weight.work + i, master, end - i);
  }
}

}  // namespace bertfit

using namespace bertfit;

extern "C" {

// Returns the sum of squares of all gradients, independent of the number of threads.
double sum_squares(const Weight* weights, std::int64_t count) {
  const std::vector<Chunk> chunks = cut(weights, count);
  std::vector<double> sums(chunks.size());
  at::parallel_for(0, sums.size(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Chunk& chunk = chunks[i];
      const float* gradient = weights[chunk.weight].gradient;
      Floats sum = _mm512_setzero_ps();
      for (std::int64_t j = chunk.begin; j < chunk.end; j += kLanes) {
        const Floats here = load_part(gradient + j, first(chunk.end - j));
        sum += here * here;
      }
      sums[i] = _mm512_reduce_add_ps(sum);
    }
  });
  double total = 0.0;
  for (const double sum : sums) {
    total += sum;
  }
  return total;
}

void adamw_step(const Step* step, const Weight* weights, std::int64_t count) {
  const std::vector<Chunk> chunks = cut(weights, count);
  at::parallel_for(0, chunks.size(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      step->take(weights[chunks[i].weight], chunks[i].begin, chunks[i].end);
    }
  });
}

}  // extern "C"
