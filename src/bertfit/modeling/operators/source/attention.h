// Attention of one head of one text, forward and backward.
#pragma once

#include <array>

#include "dropout.h"
#include "tiles.h"

namespace bertfit {

// Queries, keys, values and outputs have the shape (texts, tokens, heads, width).
struct Sizes {
  std::int64_t texts;
  std::int64_t heads;
  std::int64_t queries;
  std::int64_t keys;
  std::int64_t width;

  std::int64_t query_panels() const { return divide_up(queries, kSide); }
  std::int64_t key_blocks() const { return divide_up(keys, kSide); }
  std::int64_t width_blocks() const { return divide_up(width, kSide); }

  // Offset from one token to the next.
  std::int64_t stride() const { return heads * width; }
  // Offset of a head; heads are numbered consecutively across texts, each with this many tokens.
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

// Added to the scores: (1 or texts, 1 or queries, keys), times log2(e). A stride of 0 broadcasts.
// Keys are padded to a multiple of 32 with the lowest numbers; without a mask, the number of keys
// is such a multiple.
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

// Computes one head by its number. `log_sums` (may be null) receives the base-2 logarithm of each
// query's softmax sum. The output may overwrite the queries. `goes_on` says that this thread
// computes the next head after this one; its inputs are prefetched meanwhile.
void attend_forward(const Attention& attention, const bf16* query, const bf16* key,
                    const bf16* value, bf16* output, float* log_sums, std::int64_t head,
                    bool goes_on);

// Packs a head's tokens as a right operand whose inner dimension is the width: each column block is
// 32 tokens.
inline void pack_tokens_as_columns(const Part& part, std::int64_t blocks, std::int64_t steps,
                                   bf16* to) {
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t step = 0; step < steps; ++step, to += kStepSize) {
      pack_right_transposed(part.at(block * kSide, step * kSide), to);
    }
  }
}

// The same with the tokens as inner dimension: each column block is 32 numbers of the width.
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

// Prefetches 32 rows of each part, as far as they exist, into the L2 cache.
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

// Writes a panel of sums, each row times its own factor, to `rows` rows of a head starting at `at`.
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

// Returns 2^(score · scale + mask - less) for 16 scores; `mask` may be null.
inline Floats raise(const float* scores, Floats scale, const float* mask, Floats less) {
  const Floats added = mask == nullptr ? -less : load(mask) - less;
  return power_of_two(multiply_add(load(scores), scale, added));
}

}  // namespace bertfit
