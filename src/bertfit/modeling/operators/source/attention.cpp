// Attention, softmax(Q · Kᵀ · scale + mask) · V with dropout of the weights.
//
// One thread computes one head of one text, 32 queries at a time, and the weights never leave its
// cache. Only the base-2 logarithm of each softmax sum is kept for the backward pass, from which
// attention_backward.cpp recomputes the weights.
//
// Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1.
#include <ATen/Parallel.h>

#include "attention.h"
#include "buffer.h"

namespace bertfit {
namespace {

thread_local Buffer<bf16> numbers_buffer;
thread_local Buffer<float> sums_buffer;

// Returns how many leading blocks of 32 keys have a mask of 0; `mask` may be null.
std::int64_t count_unmasked(const float* mask, std::int64_t key_blocks) {
  if (mask == nullptr) {
    return key_blocks;
  }
  const auto adds = [](const float* numbers) {
    return _mm512_cmpneq_ps_mask(load(numbers), _mm512_setzero_ps()) != 0;
  };
  std::int64_t block = 0;
  while (block < key_blocks && !adds(mask) && !adds(mask + kLanes)) {
    ++block;
    mask += kSide;
  }
  return block;
}

class Forward {
 public:
  Forward(const Attention& attention, std::int64_t head)
      : attention_(attention),
        sizes_(attention.sizes),
        head_(head),
        blocks_(sizes_.key_blocks()),
        steps_(sizes_.width_blocks()),
        score_stride_(blocks_ * kSide + kLanes),  // one more cache line, so that the rows of a
        weight_stride_(blocks_ * kSide + kSide),  // column do not map to the same cache sets
        unmasked_(attention.mask.query == 0 ? count_unmasked(attention.mask_row(head, 0), blocks_)
                                            : 0),
        scale_(spread(attention.scale * kLog2E)),
        dropout_(attention.seed, attention.rate) {
    const std::int64_t side = blocks_ * steps_ * kStepSize;
    keys_ = numbers_buffer.reserve(2 * side + steps_ * kStepSize + 2 * kSide * weight_stride_);
    values_ = keys_ + side;
    queries_ = values_ + side;
    weights_ = queries_ + steps_ * kStepSize;
    scores_ = sums_buffer.reserve(kSide * score_stride_ + steps_ * kBlock + kSide * kLanes);
    attended_ = scores_ + kSide * score_stride_;
    largest_ = attended_ + steps_ * kBlock;
  }

  void run(const bf16* query, const bf16* key, const bf16* value, bf16* output, float* log_sums,
           bool goes_on) {
    // The weights of one panel are computed while those of the previous one are multiplied.
    const auto take_parts = [&](std::int64_t head) -> std::array<Part, 3> {
      return {sizes_.part(query, sizes_.queries, head), sizes_.part(key, sizes_.keys, head),
              sizes_.part(value, sizes_.keys, head)};
    };
    const auto [queries, keys, values] = take_parts(head_);
    const auto next = goes_on ? take_parts(head_ + 1) : std::array<Part, 3>{};
    const Output to = sizes_.output(output, sizes_.queries);
    pack_tokens_as_columns(keys, blocks_, steps_, keys_);
    pack_tokens_as_rows(values, steps_, blocks_, values_);
    const std::int64_t panels = sizes_.query_panels(), each = divide_up(kSide, blocks_ * steps_);
    for (std::int64_t panel = 0; panel <= panels; ++panel) {
      std::int64_t row = 0;
      const std::int64_t end = panel < panels ? rows(panel) : 0;
      const auto weigh = [&](std::int64_t count) {
        for (const std::int64_t last = std::min(row + count, end); row < last; ++row) {
          weigh_row(panel, row, log_sums);
        }
      };
      if (panel < panels) {
        pack_panel(queries, panel, steps_, queries_);
        multiply_queries(panel);
        fetch_rows(next, panel * kSide);
      }
      if (panel > 0) {
        multiply_values(panel - 1, to, [&](std::int64_t) { weigh(each); });
      }
      weigh(kSide);
    }
  }

 private:
  std::int64_t rows(std::int64_t panel) const {
    return std::min(kSide, sizes_.queries - panel * kSide);
  }
  bf16* weights(std::int64_t panel) const {
    return weights_ + panel % 2 * kSide * weight_stride_;
  }

  // Computes a panel's scores block by block, and each query's maximum one block behind.
  void multiply_queries(std::int64_t panel) {
    std::fill_n(largest_, kSide * kLanes, -3.4e38f);
    const std::int64_t each = divide_up(kSide, steps_);
    for (std::int64_t block = 0; block < blocks_; ++block) {
      const auto compare = [&](std::int64_t step) {
        if (block > 0) {
          compare_rows(panel, block - 1, step * each, std::min((step + 1) * each, kSide));
        }
      };
      multiply_block<false>({queries_}, keys_ + block * steps_ * kStepSize, steps_,
                            scores_ + block * kSide, score_stride_, compare);
    }
    compare_rows(panel, blocks_ - 1, 0, kSide);
  }

  void compare_rows(std::int64_t panel, std::int64_t block, std::int64_t first, std::int64_t last) {
    const float* from = scores_ + first * score_stride_ + block * kSide;
    for (std::int64_t row = first; row < last; ++row, from += score_stride_) {
      Floats low = load(from) * scale_, high = load(from + kLanes) * scale_;
      if (block >= unmasked_ && row < rows(panel)) {
        const float* mask = attention_.mask_row(head_, panel * kSide + row) + block * kSide;
        low += load(mask);
        high += load(mask + kLanes);
      }
      float* to = largest_ + row * kLanes;
      store(to, _mm512_max_ps(load(to), _mm512_max_ps(low, high)));
    }
  }

  void weigh_row(std::int64_t panel, std::int64_t row, float* log_sums) {
    const std::int64_t query = panel * kSide + row, number = head_ * sizes_.queries + query;
    const float largest = _mm512_reduce_max_ps(load(largest_ + row * kLanes));
    const float* mask = attention_.mask_row(head_, query);
    const float* scores = scores_ + row * score_stride_;
    bf16* to = weights(panel) + row * weight_stride_;
    const float sum = attention_.rate == 0.0f
                          ? exponentiate<false>(scores, mask, largest, dropout_.row(number), to)
                          : exponentiate<true>(scores, mask, largest, dropout_.row(number), to);
    if (log_sums != nullptr) {
      log_sums[number] = largest + std::log2(sum);
    }
    factors_[panel % 2][row] = dropout_.scale() / sum;
  }

  // Writes the exponentials of a row of scores minus the largest, after dropout, and returns their
  // sum before dropout.
  template <bool kDrops>
  float exponentiate(const float* scores, const float* mask, float largest,
                     const DropoutRow& dropout, bf16* to) const {
    Floats total = _mm512_setzero_ps();
    const auto raise_block = [&](std::int64_t block, const float* added) {
      const float* from = scores + block * kSide;
      Floats low = raise(from, scale_, added, spread(largest));
      Floats high = raise(from + kLanes, scale_, move(added, kLanes), spread(largest));
      total += low + high;
      if constexpr (kDrops) {
        const Kept kept = dropout.draw(block);
        low = keep(low, kept.low);
        high = keep(high, kept.high);
      }
      _mm512_storeu_si512(to + block * kSide, narrow_row(low, high));
    };
    for (std::int64_t block = 0; block < unmasked_; ++block) {
      raise_block(block, nullptr);
    }
    for (std::int64_t block = unmasked_; block < blocks_; ++block) {
      raise_block(block, mask + block * kSide);
    }
    return _mm512_reduce_add_ps(total);
  }

  template <typename Meanwhile>
  void multiply_values(std::int64_t panel, const Output& to, Meanwhile meanwhile) {
    for (std::int64_t block = 0; block < steps_; ++block) {
      multiply_block<false>({weights(panel), weight_stride_, kSide},
                            values_ + block * blocks_ * kStepSize, blocks_,
                            attended_ + block * kBlock, kSide, meanwhile);
    }
    store_panel(attended_, factors_[panel % 2], rows(panel), sizes_, to,
                sizes_.before(sizes_.queries, head_) + panel * kSide * sizes_.stride());
  }

  const Attention& attention_;
  const Sizes& sizes_;
  const std::int64_t head_, blocks_, steps_, score_stride_, weight_stride_;
  const std::int64_t unmasked_;  // leading key blocks with a mask of 0
  const Floats scale_;
  const Dropout dropout_;
  bf16 *keys_, *values_, *queries_, *weights_;  // operands; weights of two panels
  float *scores_, *attended_;
  float* largest_;  // 16 candidates per query
  float factors_[2][kSide];
};

}  // namespace

void attend_forward(const Attention& attention, const bf16* query, const bf16* key,
                    const bf16* value, bf16* output, float* log_sums, std::int64_t head,
                    bool goes_on) {
  Forward(attention, head).run(query, key, value, output, log_sums, goes_on);
}

}  // namespace bertfit

using namespace bertfit;

extern "C" {

// output (texts, queries, heads, width) and log_sums (texts, heads, queries).
void attention_forward(const Attention* attention, const bf16* query, const bf16* key,
                       const bf16* value, bf16* output, float* log_sums) {
  const std::int64_t heads = attention->sizes.texts * attention->sizes.heads;
  at::parallel_for(0, heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t head = begin; head < end; ++head) {
      attend_forward(*attention, query, key, value, output, log_sums, head, head + 1 < end);
    }
    Output::finish();
  });
}

}  // extern "C"
