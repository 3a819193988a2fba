// Attention of one head of one text, forward and backward.
#pragma once

#include "dropout.h"
#include "tiles.h"

namespace bertfit {

// Queries, keys, values and outputs lie as (texts, tokens, heads, width).
struct Sizes {
  std::int64_t texts;
  std::int64_t heads;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;

  std::int64_t query_panels() const { return divide_up(queries, kSide); }
  std::int64_t key_blocks() const { return divide_up(keys, kSide); }
  std::int64_t width_blocks() const { return divide_up(width, kSide); }

  // Numbers from one token to the next.
  std::int64_t stride() const { return heads * width; }
  // Numbers before a head of a text of so many tokens.
  std::int64_t before(std::int64_t tokens, std::int64_t text, std::int64_t head) const {
    return text * tokens * stride() + head * width;
  }
  Part part(const bf16* from, std::int64_t tokens, std::int64_t text, std::int64_t head) const {
    return {from + before(tokens, text, head), stride(), tokens, width};
  }
};

// (1 or texts, 1 or queries, keys) numbers that are added to the scores, times log2(e); a stride of 0
// repeats. The keys go on to a multiple of 32, with the lowest numbers; without a mask there are as
// many.
struct Mask {
  const float* from;
  std::int64_t text;
  std::int64_t query;

  const float* row(std::int64_t at_text, std::int64_t at_query) const {
    return from == nullptr ? nullptr : from + at_text * text + at_query * query;
  }
};

// What backward knows of one query.
struct AttentionRow {
  const float* mask;
  float log_sum;
  float along;  // the output times its gradient
  DropoutRow dropout;
};

struct Attention {
  Sizes sizes;
  Mask mask;
  float scale;
  float rate;
  std::uint64_t seed;

  void forward_head(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* log_sums,
                    std::int64_t text, std::int64_t head) const;
  void weigh(const AttentionRow* known, std::int64_t rows, std::int64_t block, float* scores,
             float* slopes) const;
  void backward_head(const bf16* const states[5], const float* log_sums, bf16* const gradients[3],
                     std::int64_t text, std::int64_t head) const;
};

}  // namespace bertfit
