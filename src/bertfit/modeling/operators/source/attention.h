// Attention of one head of one text, forward and backward.
#pragma once

#include <array>

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
  // Heads are numbered through all texts. Numbers before one, in texts of so many tokens:
  std::int64_t before(std::int64_t tokens, std::int64_t head) const {
    return head / heads * tokens * stride() + head % heads * width;
  }
  Part part(const bf16* from, std::int64_t tokens, std::int64_t head) const {
    return {from + before(tokens, head), stride(), tokens, width};
  }
  Output output(bf16* to, std::int64_t tokens) const {
    return {to, texts * tokens * stride()};
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

struct Attention {
  Sizes sizes;
  Mask mask;
  float scale;  // not negative
  float rate;
  std::uint64_t seed;

  const float* mask_row(std::int64_t head, std::int64_t query) const {
    return mask.row(head / sizes.heads, query);
  }
};

// Does one head by its number. Of each query `log_sums` (may be null) gets the logarithm of the sum
// of its softmax. The output may lie where the queries do. Where `goes_on`, this thread will do the
// next head after this one, and what that is made of is fetched meanwhile.
void attend_forward(const Attention& attention, const bf16* query, const bf16* key,
                    const bf16* value, bf16* output, float* log_sums, std::int64_t head,
                    bool goes_on);

// Packs a head's tokens as a right operand for products over the width: a block of columns for 32
// tokens.
inline void pack_tokens_as_columns(const Part& part, std::int64_t blocks, std::int64_t steps,
                                   bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t step = 0; step < steps; ++step, to += kStepSize) {
      pack_right_transposed(part.at(block * kSide, step * kSide), to);
    }
  }
}

// The same for products over the tokens: a block of columns for 32 of the width.
inline void pack_tokens_as_rows(const Part& part, std::int64_t blocks, std::int64_t steps,
                                bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t step = 0; step < steps; ++step, to += kStepSize) {
      pack_right(part.at(step * kSide, block * kSide), to);
    }
  }
}

// Packs 32 tokens as a left operand.
inline void pack_panel(const Part& part, std::int64_t panel, std::int64_t steps, bf16* to) {
  for (std::int64_t step = 0; step < steps; ++step) {
    pack_left(part.at(panel * kSide, step * kSide), to + step * kStepSize);
  }
}

// Fetches 32 rows of each part, where they are, into the second cache.
template <std::size_t kParts>
inline void fetch_rows(const std::array<Part, kParts>& parts, std::int64_t first) {
  for (const Part& part : parts) {
    for (std::int64_t row = first; row < first + kSide; ++row) {
      for (std::int64_t column = 0; column < part.num_columns; column += kSide) {
        fetch_ahead(part, row, column);
      }
    }
  }
}

// Writes a panel of sums, each row times a factor of its own, to `rows` rows of a head from `at`
// on.
inline void store_panel(const float* sums, const float factors[kSide], std::int64_t rows,
                        const Sizes& sizes, const Output& to, std::int64_t at) {
  for (std::int64_t row = 0; row < rows; ++row, at += sizes.stride()) {
    const Floats factor = spread(factors[row]);
    for (std::int64_t j = 0; j < sizes.width; j += kSide) {
      const float* from = sums + j * kSide + row * kSide;
      to.write(at + j, narrow_row(load(from) * factor, load(from + kLanes) * factor),
               sizes.width - j);
    }
  }
}

inline const float* move(const float* mask, std::int64_t by) {
  return mask == nullptr ? mask : mask + by;
}

// Two to the power of 16 scores, scaled and masked (`mask` may be null) and less a number.
inline Floats raise(const float* scores, Floats scale, const float* mask, Floats less) {
  const Floats added = mask == nullptr ? -less : load(mask) - less;
  return power_of_two(multiply_add(load(scores), scale, added));
}

}  // namespace bertfit
