// Attention, softmax(Q · Kᵀ · scale + mask) · V with dropout of the weights, and its gradients.
//
// One head of one text is done by one thread, 32 queries at a time, and no weight ever leaves its
// cache: forward keeps the logarithm of each softmax's sum, from which backward makes the weights
// anew; what dropout keeps is drawn anew as well, from the seed.
//
// Sources: Dao et al. 2022, arXiv 2205.14135, algorithm 4 (the gradients without the weights);
// Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
#include <ATen/Parallel.h>

#include "attention.h"
#include "buffer.h"

namespace bertfit {
namespace {

constexpr std::int64_t kPanels = 4;  // panels of 32 queries whose products with keys are summed at once

// A right operand for products over the width: a block of columns for 32 tokens.
void pack_tokens_as_columns(const Part& part, std::int64_t blocks, std::int64_t steps, bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t step = 0; step < steps; ++step, to += kStepSize) {
      pack_right_transposed(part.at(block * kSide, step * kSide), to);
    }
  }
}

// A right operand for products over the tokens: a block of columns for 32 of the width.
void pack_tokens_as_rows(const Part& part, std::int64_t blocks, std::int64_t steps, bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t step = 0; step < steps; ++step, to += kStepSize) {
      pack_right(part.at(step * kSide, block * kSide), to);
    }
  }
}

void pack_panel(const Part& part, std::int64_t panel, std::int64_t steps, bf16* to) {
  for (std::int64_t step = 0; step < steps; ++step) {
    pack_left(part.at(panel * kSide, step * kSide), to + step * kStepSize);
  }
}

// Multiplies 32 rows by every block of columns; `to` gets one 32 x 32 block after the other.
void multiply_panel(const bf16* left, const bf16* right, std::int64_t blocks, std::int64_t steps,
                    float* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    multiply_block<false>({left}, right + block * steps * kStepSize, steps, to + block * kBlock,
                          kSide);
  }
}

// Writes a panel of sums, each row times a factor of its own, to `rows` rows of `width` numbers.
void store_panel(const float* sums, const float factors[kSide], std::int64_t rows,
                 std::int64_t width, bf16* to, std::int64_t stride) {
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t j = 0; j < width; j += kLanes) {
      const float* from = sums + j / kSide * kBlock + row * kSide + j % kSide;
      store(to + row * stride + j, load(from) * spread(factors[row]), width - j);
    }
  }
}

// Writes sums (width x tokens, in blocks [width block][token block]), times a factor, transposed.
void store_transposed(const float* sums, float factor, const Sizes& sizes, bf16* to) {
  for (std::int64_t token = 0; token < sizes.keys; token += kTileRows) {
    for (std::int64_t column = 0; column < sizes.width; column += kTileRows) {
      const float* from = sums + (column / kSide * sizes.key_blocks() + token / kSide) * kBlock +
                          column % kSide * kSide + token % kSide;
      Words words[16];
      for (int i = 0; i < 16; ++i) {
        words[i] = _mm512_loadu_si512(from + i * kSide);
      }
      transpose_words(words);
      const std::int64_t tokens = std::min(kTileRows, sizes.keys - token);
      for (std::int64_t i = 0; i < tokens; ++i) {
        store(to + (token + i) * sizes.stride() + column, _mm512_castsi512_ps(words[i]) * spread(factor),
              sizes.width - column);
      }
    }
  }
}

// Two to the power of 16 scores, scaled and masked (`mask` may be null) and less a number.
Floats raise(const float* scores, Floats scale, const float* mask, Floats less) {
  const Floats added = mask == nullptr ? -less : load(mask) - less;
  return power_of_two(multiply_add(load(scores), scale, added));
}

const float* move(const float* mask, std::int64_t by) { return mask == nullptr ? mask : mask + by; }

// How many blocks of 32 keys a query's mask (may be null) begins with that it adds nothing to.
std::int64_t count_unmasked(const float* mask, std::int64_t key_blocks) {
  if (mask == nullptr) {
    return key_blocks;
  }
  std::int64_t block = 0;
  while (block < key_blocks &&
         _mm512_cmpneq_ps_mask(load(mask + block * kSide), _mm512_setzero_ps()) == 0 &&
         _mm512_cmpneq_ps_mask(load(mask + block * kSide + kLanes), _mm512_setzero_ps()) == 0) {
    ++block;
  }
  return block;
}

// A query's softmax: its largest score, as a power of 2, and the sum of the exponentials of all less
// the largest.
struct Softmax {
  float largest;
  float sum;
};

// The largest of a row of scores, scaled and masked.
float find_largest(const float* row, const float* mask, Floats scale, std::int64_t unmasked,
                   std::int64_t key_blocks) {
  Floats low = spread(-3.4e38f), high = low;
  for (std::int64_t block = 0; block < unmasked; ++block) {
    low = _mm512_max_ps(low, load(row + block * kBlock));
    high = _mm512_max_ps(high, load(row + block * kBlock + kLanes));
  }
  Floats largest = _mm512_max_ps(low, high) * scale;
  for (std::int64_t block = unmasked; block < key_blocks; ++block) {
    for (std::int64_t j = 0; j < kSide; j += kLanes) {
      const Floats score = multiply_add(load(row + block * kBlock + j), scale,
                                        load(mask + block * kSide + j));
      largest = _mm512_max_ps(largest, score);
    }
  }
  return _mm512_reduce_max_ps(largest);
}

// Writes the exponentials of a row of scores, less the largest, as dropout leaves them, to a row of a
// left operand. The scale is not negative.
template <bool kDrops>
Softmax exponentiate(const float* row, const float* mask, float scale, std::int64_t unmasked,
                     std::int64_t key_blocks, const DropoutRow& dropout, bf16* weights) {
  const Floats scales = spread(scale * kLog2E);
  const float largest = find_largest(row, mask, scales, unmasked, key_blocks);
  Floats total = _mm512_setzero_ps();
  const auto finish = [&](std::int64_t block, const float* added) {
    const float* at = row + block * kBlock;
    Floats low = raise(at, scales, added, spread(largest));
    Floats high = raise(at + kLanes, scales, move(added, kLanes), spread(largest));
    total += low + high;
    if constexpr (kDrops) {
      const Kept kept = dropout.draw(block);
      low = keep(low, kept.low);
      high = keep(high, kept.high);
    }
    _mm512_storeu_si512(weights + block * kStepSize, narrow_row(low, high));
  };
  for (std::int64_t block = 0; block < unmasked; ++block) {
    finish(block, nullptr);
  }
  for (std::int64_t block = unmasked; block < key_blocks; ++block) {
    finish(block, mask + block * kSide);
  }
  return {largest, _mm512_reduce_add_ps(total)};
}

float multiply_rows(const bf16* a, const bf16* b, std::int64_t width) {
  Floats sum = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < width; j += kLanes) {
    sum += load(a + j, width - j) * load(b + j, width - j);
  }
  return _mm512_reduce_add_ps(sum);
}

thread_local Buffer<bf16> numbers_buffer;
thread_local Buffer<float> sums_buffer;

}  // namespace

void Attention::forward_head(const bf16* q, const bf16* k, const bf16* v, bf16* out,
                             float* log_sums, std::int64_t text, std::int64_t head) const {
  const std::int64_t blocks = sizes.key_blocks(), steps = sizes.width_blocks();
  const std::int64_t side = blocks * steps * kStepSize;
  bf16* keys = numbers_buffer.reserve(2 * side + (steps + blocks) * kStepSize);
  bf16* values = keys + side;
  bf16* panel_queries = values + side;
  bf16* weights = panel_queries + steps * kStepSize;
  float* scores = sums_buffer.reserve((blocks + steps) * kBlock);
  float* attended = scores + blocks * kBlock;
  const Part queries = sizes.part(q, sizes.queries, text, head);
  pack_tokens_as_columns(sizes.part(k, sizes.keys, text, head), blocks, steps, keys);
  pack_tokens_as_rows(sizes.part(v, sizes.keys, text, head), steps, blocks, values);
  const std::int64_t number = text * sizes.heads + head;
  const Dropout dropout(seed, rate);
  bf16* to = out + sizes.before(sizes.queries, text, head);
  std::int64_t unmasked = count_unmasked(mask.row(text, 0), blocks);
  for (std::int64_t panel = 0; panel < sizes.query_panels(); ++panel) {
    const std::int64_t first = panel * kSide;
    const std::int64_t rows = std::min(kSide, sizes.queries - first);
    float factors[kSide];
    pack_panel(queries, panel, steps, panel_queries);
    multiply_panel(panel_queries, keys, blocks, steps, scores);
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t token = number * sizes.queries + first + i;
      const float* added = mask.row(text, first + i);
      if (mask.query != 0) {
        unmasked = count_unmasked(added, blocks);
      }
      const Softmax softmax =
          rate == 0.0f ? exponentiate<false>(scores + i * kSide, added, scale, unmasked, blocks,
                                             dropout.row(token), weights + i * kSide)
                       : exponentiate<true>(scores + i * kSide, added, scale, unmasked, blocks,
                                            dropout.row(token), weights + i * kSide);
      if (log_sums != nullptr) {
        log_sums[token] = softmax.largest + std::log2(softmax.sum);
      }
      factors[i] = dropout.scale() / softmax.sum;
    }
    multiply_panel(weights, values, steps, blocks, attended);
    store_panel(attended, factors, rows, sizes.width, to + first * sizes.stride(), sizes.stride());
  }
}

// Turns the scores of so many queries for 32 keys into weights, as dropout leaves them, and the
// gradients of the dropped weights into those of the scores, both in place.
void Attention::weigh(const AttentionRow* known, std::int64_t rows, std::int64_t block, float* scores,
                      float* slopes) const {
  const Floats scales = spread(scale * kLog2E), kept_scale = spread(1.0f / (1.0f - rate));
  for (std::int64_t i = 0; i < rows; ++i, scores += kSide, slopes += kSide) {
    const AttentionRow& row = known[i];
    const Kept kept = row.dropout.draw(block);
    const float* added = move(row.mask, block * kSide);
    for (std::int64_t j = 0; j < kSide; j += kLanes) {
      const __mmask16 here = j == 0 ? kept.low : kept.high;
      const Floats weight = raise(scores + j, scales, move(added, j), spread(row.log_sum));
      const Floats slope = keep(load(slopes + j), here) * kept_scale;
      store(scores + j, keep(weight, here));
      store(slopes + j, weight * (slope - spread(row.along)));
    }
  }
}

// States: query, key, value, output, gradient of the output. Gradients: of query, key and value.
void Attention::backward_head(const bf16* const states[5], const float* log_sums,
                              bf16* const gradients[3], std::int64_t text,
                              std::int64_t head) const {
  const std::int64_t blocks = sizes.key_blocks(), steps = sizes.width_blocks();
  const std::int64_t side = blocks * steps * kStepSize;
  const std::int64_t group = kPanels * kStepSize;
  bf16* keys = numbers_buffer.reserve(3 * side + (2 * steps + blocks) * kStepSize +
                                      2 * (steps + blocks) * group);  // columns: tokens
  bf16* values = keys + side;           // columns: tokens
  bf16* keys_by_token = values + side;  // rows: tokens
  bf16* panel_queries = keys_by_token + side;
  bf16* panel_outs = panel_queries + steps * kStepSize;
  bf16* panel_slopes = panel_outs + steps * kStepSize;  // of the scores, as a left operand
  bf16* turned_queries = panel_slopes + blocks * kStepSize;
  bf16* turned_outs = turned_queries + steps * group;
  bf16* weights = turned_outs + steps * group;  // right operands, [key block][panel]
  bf16* slopes = weights + blocks * group;
  float* query_slopes = sums_buffer.reserve((steps + 2 * steps * blocks) * kBlock);
  float* key_sums = query_slopes + steps * kBlock;
  float* value_sums = key_sums + steps * blocks * kBlock;
  alignas(64) float scores[kBlock], score_slopes[kBlock];
  AttentionRow known[kSide];
  float scales[kSide];
  std::fill_n(scales, kSide, scale);

  const Part queries = sizes.part(states[0], sizes.queries, text, head);
  const Part key_part = sizes.part(states[1], sizes.keys, text, head);
  const Part value_part = sizes.part(states[2], sizes.keys, text, head);
  const Part outs = sizes.part(states[3], sizes.queries, text, head);
  const Part out_slopes = sizes.part(states[4], sizes.queries, text, head);
  pack_tokens_as_columns(key_part, blocks, steps, keys);
  pack_tokens_as_columns(value_part, blocks, steps, values);
  pack_tokens_as_rows(key_part, steps, blocks, keys_by_token);
  std::fill_n(key_sums, 2 * steps * blocks * kBlock, 0.0f);
  const std::int64_t number = text * sizes.heads + head;
  const Dropout dropout(seed, rate);
  const std::int64_t of_queries = sizes.before(sizes.queries, text, head);

  for (std::int64_t start = 0; start < sizes.query_panels(); start += kPanels) {
    const std::int64_t panels = std::min(kPanels, sizes.query_panels() - start);
    for (std::int64_t place = 0; place < panels; ++place) {
      const std::int64_t first = (start + place) * kSide;
      const std::int64_t rows = std::min(kSide, sizes.queries - first);
      pack_panel(queries, start + place, steps, panel_queries);
      pack_panel(out_slopes, start + place, steps, panel_outs);
      for (std::int64_t step = 0; step < steps; ++step) {
        const std::int64_t at = (step * panels + place) * kStepSize;
        pack_left_transposed(queries.at(first, step * kSide), turned_queries + at);
        pack_left_transposed(out_slopes.at(first, step * kSide), turned_outs + at);
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t token = first + i, number_of_row = number * sizes.queries + token;
        const float along = multiply_rows(outs.from + token * outs.stride,
                                          out_slopes.from + token * out_slopes.stride, sizes.width);
        known[i] = {mask.row(text, token), log_sums[number_of_row], along,
                    dropout.row(number_of_row)};
      }
      for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t at = block * steps * kStepSize;
        multiply_block<false>({panel_queries}, keys + at, steps, scores, kSide);
        multiply_block<false>({panel_outs}, values + at, steps, score_slopes, kSide);
        weigh(known, rows, block, scores, score_slopes);
        std::fill(scores + rows * kSide, scores + kBlock, 0.0f);  // no queries
        std::fill(score_slopes + rows * kSide, score_slopes + kBlock, 0.0f);
        pack_left_sums(score_slopes, panel_slopes + block * kStepSize);
        pack_right_sums(scores, weights + (block * panels + place) * kStepSize);
        pack_right_sums(score_slopes, slopes + (block * panels + place) * kStepSize);
      }
      multiply_panel(panel_slopes, keys_by_token, steps, blocks, query_slopes);
      store_panel(query_slopes, scales, rows, sizes.width,
                  gradients[0] + of_queries + first * sizes.stride(), sizes.stride());
    }
    for (std::int64_t step = 0; step < steps; ++step) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t left = step * panels * kStepSize, right = block * panels * kStepSize;
        const std::int64_t sum = (step * blocks + block) * kBlock;
        multiply_block<true>({turned_outs + left}, weights + right, panels, value_sums + sum, kSide);
        multiply_block<true>({turned_queries + left}, slopes + right, panels, key_sums + sum, kSide);
      }
    }
  }
  const std::int64_t of_keys = sizes.before(sizes.keys, text, head);
  store_transposed(key_sums, scale, sizes, gradients[1] + of_keys);
  store_transposed(value_sums, dropout.scale(), sizes, gradients[2] + of_keys);
}

}  // namespace bertfit

using namespace bertfit;

extern "C" {

// output (texts, queries, heads, width) and log_sums (texts, heads, queries).
void attention_forward(const Attention* attention, const bf16* query, const bf16* key,
                       const bf16* value, bf16* output, float* log_sums) {
  const std::int64_t heads = attention->sizes.heads;
  at::parallel_for(0, attention->sizes.texts * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t i = begin; i < end; ++i) {
      attention->forward_head(query, key, value, output, log_sums, i / heads, i % heads);
    }
  });
}

void attention_backward(const Attention* attention, const bf16* query, const bf16* key,
                        const bf16* value, const bf16* output, const bf16* output_gradient,
                        const float* log_sums, bf16* query_gradient, bf16* key_gradient,
                        bf16* value_gradient) {
  const bf16* const states[] = {query, key, value, output, output_gradient};
  bf16* const gradients[] = {query_gradient, key_gradient, value_gradient};
  const std::int64_t heads = attention->sizes.heads;
  at::parallel_for(0, attention->sizes.texts * heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t i = begin; i < end; ++i) {
      attention->backward_head(states, log_sums, gradients, i / heads, i % heads);
    }
  });
}

}  // extern "C"
