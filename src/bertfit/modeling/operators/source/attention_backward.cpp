// The gradients of attention; one thread computes one head of one text, 32 queries at a time.
//
// The weights are recomputed from the scores and the log-sums, and the dropout mask is redrawn, so
// the weights never leave a core's cache.
//
// Source: Dao et al. 2022, arXiv 2205.14135, algorithm 4 (gradients without stored weights).
#include <ATen/Parallel.h>

#include "attention.h"
#include "buffer.h"

namespace bertfit {
namespace {

constexpr std::int64_t kPanels = 4;  // of 32 queries per update of the gradients of keys and values

thread_local Buffer<bf16> numbers_buffer;
thread_local Buffer<float> sums_buffer;

// What is needed for one query.
struct QueryRow {
  const float* mask;
  float log_sum;
  float along;  // dot product of the output and its gradient
  DropoutRow dropout;
};

// The inputs, and the gradients of query, key and value to write.
struct Tensors {
  const bf16 *query, *key, *value, *output, *output_gradient;
  const float* log_sums;
  bf16* gradients[3];
};

// Query, key, value, output and output gradient of one head.
using Parts = std::array<Part, 5>;

Parts take_parts(const Sizes& sizes, const Tensors& of, std::int64_t head) {
  return {sizes.part(of.query, sizes.queries, head), sizes.part(of.key, sizes.keys, head),
          sizes.part(of.value, sizes.keys, head), sizes.part(of.output, sizes.queries, head),
          sizes.part(of.output_gradient, sizes.queries, head)};
}

float multiply_rows(const bf16* a, const bf16* b, std::int64_t width) {
  Floats sum = _mm512_setzero_ps();
  for (std::int64_t j = 0; j < width; j += kLanes) {
    sum += load(a + j, width - j) * load(b + j, width - j);
  }
  return _mm512_reduce_add_ps(sum);
}

// Writes two rows of 32 numbers as a pair of rows of a right operand.
void store_pair(Words even, Words odd, std::int64_t pair, bf16* right) {
  bf16* to = right + pair * kSide;
  _mm512_storeu_si512(to, interleave(even, odd, 0));
  _mm512_storeu_si512(to + kTileSize, interleave(even, odd, 1));
}

class Backward {
 public:
  Backward(const Attention& attention, const Tensors& tensors, std::int64_t head)
      : attention_(attention),
        sizes_(attention.sizes),
        head_(head),
        blocks_(sizes_.key_blocks()),
        steps_(sizes_.width_blocks()),
        tensors_(tensors),
        parts_(take_parts(sizes_, tensors, head)),
        dropout_(attention.seed, attention.rate) {
    const std::int64_t side = blocks_ * steps_ * kStepSize, group = kPanels * kStepSize;
    keys_ = numbers_buffer.reserve(3 * side + (2 * steps_ + blocks_) * kStepSize +
                                   2 * (steps_ + blocks_) * group);
    values_ = keys_ + side;
    keys_by_token_ = values_ + side;
    queries_ = keys_by_token_ + side;
    output_slopes_ = queries_ + steps_ * kStepSize;
    score_slopes_ = output_slopes_ + steps_ * kStepSize;
    turned_queries_ = score_slopes_ + blocks_ * kStepSize;
    turned_slopes_ = turned_queries_ + steps_ * group;
    weight_columns_ = turned_slopes_ + steps_ * group;
    slope_columns_ = weight_columns_ + blocks_ * group;
    query_sums_ = sums_buffer.reserve((steps_ + 2 * steps_ * blocks_) * kBlock);
    key_sums_ = query_sums_ + steps_ * kBlock;
    value_sums_ = key_sums_ + steps_ * blocks_ * kBlock;
    const auto& [query, key, value, output, output_gradient] = parts_;
    pack_tokens_as_columns(key, blocks_, steps_, keys_);
    pack_tokens_as_columns(value, blocks_, steps_, values_);
    pack_tokens_as_rows(key, steps_, blocks_, keys_by_token_);
    std::fill_n(key_sums_, 2 * steps_ * blocks_ * kBlock, 0.0f);
  }

  // If it `goes_on`, the next head's inputs are prefetched meanwhile.
  void run(bool goes_on) {
    const Parts next = goes_on ? take_parts(sizes_, tensors_, head_ + 1) : Parts{};
    bf16* const* gradients = tensors_.gradients;
    const Output of_queries = sizes_.output(gradients[0], sizes_.queries);
    const std::int64_t panels = sizes_.query_panels();
    for (std::int64_t start = 0; start < panels; start += kPanels) {
      const std::int64_t count = std::min(kPanels, panels - start);
      for (std::int64_t place = 0; place < count; ++place) {
        fetch_rows(next, (start + place) * kSide);
        pass_panel(start + place, place, count, of_queries);
      }
      add_to_keys_and_values(count);
    }
    store_transposed(key_sums_, attention_.scale, sizes_.output(gradients[1], sizes_.keys));
    store_transposed(value_sums_, dropout_.scale(), sizes_.output(gradients[2], sizes_.keys));
  }

 private:
  // Writes the gradients of a panel's queries, and stores the operands for the gradients of keys
  // and values in its place in a group of `count` panels.
  void pass_panel(std::int64_t panel, std::int64_t place, std::int64_t count,
                  const Output& to) {
    alignas(64) float scores[kBlock], slopes[kBlock];
    QueryRow known[kSide];
    const std::int64_t first = panel * kSide, rows = std::min(kSide, sizes_.queries - first);
    pack_queries(panel, place, count);
    for (std::int64_t i = 0; i < rows; ++i) {
      known[i] = find_row(first + i);
    }
    for (std::int64_t i = rows; i < kSide; ++i) {
      known[i] = known[0];
      known[i].log_sum = 3e38f;  // padding: gives weights of 0
    }
    for (std::int64_t block = 0; block < blocks_; ++block) {
      const std::int64_t at = block * steps_ * kStepSize;
      multiply_block<false>({queries_}, keys_ + at, steps_, scores, kSide);
      multiply_block<false>({output_slopes_}, values_ + at, steps_, slopes, kSide);
      const std::int64_t column = (block * count + place) * kStepSize;
      weigh(known, block, scores, slopes, weight_columns_ + column, slope_columns_ + column);
    }
    for (std::int64_t step = 0; step < steps_; ++step) {
      multiply_block<false>({score_slopes_}, keys_by_token_ + step * blocks_ * kStepSize, blocks_,
                            query_sums_ + step * kBlock, kSide);
    }
    float scales[kSide];
    std::fill_n(scales, kSide, attention_.scale);
    store_panel(query_sums_, scales, rows, sizes_, to,
                sizes_.before(sizes_.queries, head_) + first * sizes_.stride());
  }

  void pack_queries(std::int64_t panel, std::int64_t place, std::int64_t count) {
    const Part &query = parts_[0], &slope = parts_[4];
    pack_panel(query, panel, steps_, queries_);
    pack_panel(slope, panel, steps_, output_slopes_);
    for (std::int64_t step = 0; step < steps_; ++step) {
      const std::int64_t at = (step * count + place) * kStepSize;
      pack_left_transposed(query.at(panel * kSide, step * kSide), turned_queries_ + at);
      pack_left_transposed(slope.at(panel * kSide, step * kSide), turned_slopes_ + at);
    }
  }

  QueryRow find_row(std::int64_t query) const {
    const std::int64_t number = head_ * sizes_.queries + query;
    const Part output = parts_[3].at(query, 0), slope = parts_[4].at(query, 0);
    return {attention_.mask_row(head_, query), tensors_.log_sums[number],
            multiply_rows(output.from, slope.from, sizes_.width), dropout_.row(number)};
  }

  // Turns the scores of 32 queries and 32 keys into weights after dropout, and the gradients of
  // these weights into those of the scores, stored as operands of the following products.
  void weigh(const QueryRow known[kSide], std::int64_t block, const float* scores,
             const float* slopes, bf16* weight_column, bf16* slope_column) const {
    const Floats scale = spread(attention_.scale * kLog2E), kept_scale = spread(dropout_.scale());
    for (std::int64_t pair = 0; pair < kSide / 2; ++pair) {
      Words weights_of[2], slopes_of[2];
      for (std::int64_t i = 0; i < 2; ++i, scores += kSide, slopes += kSide) {
        const QueryRow& row = known[2 * pair + i];
        const Kept kept = row.dropout.draw(block);
        const float* mask = move(row.mask, block * kSide);
        const Floats less = spread(row.log_sum), along = spread(row.along);
        const Floats low = raise(scores, scale, mask, less);
        const Floats high = raise(scores + kLanes, scale, move(mask, kLanes), less);
        weights_of[i] = narrow_row(keep(low, kept.low), keep(high, kept.high));
        slopes_of[i] = narrow_row(
            low * (keep(load(slopes), kept.low) * kept_scale - along),
            high * (keep(load(slopes + kLanes), kept.high) * kept_scale - along));
        _mm512_storeu_si512(score_slopes_ + block * kStepSize + (2 * pair + i) * kSide,
                            slopes_of[i]);
      }
      store_pair(weights_of[0], weights_of[1], pair, weight_column);
      store_pair(slopes_of[0], slopes_of[1], pair, slope_column);
    }
  }

  void add_to_keys_and_values(std::int64_t count) {
    for (std::int64_t step = 0; step < steps_; ++step) {
      for (std::int64_t block = 0; block < blocks_; ++block) {
        const std::int64_t left = step * count * kStepSize, right = block * count * kStepSize;
        const std::int64_t sum = (step * blocks_ + block) * kBlock;
        multiply_block<true>({turned_slopes_ + left}, weight_columns_ + right, count,
                             value_sums_ + sum, kSide);
        multiply_block<true>({turned_queries_ + left}, slope_columns_ + right, count,
                             key_sums_ + sum, kSide);
      }
    }
  }

  // Writes the transpose of sums (width x tokens, as [width block][token block]), times a factor.
  void store_transposed(const float* sums, float factor, const Output& to) const {
    const Floats factors = spread(factor);
    for (std::int64_t token = 0; token < sizes_.keys; token += kTileRows) {
      for (std::int64_t column = 0; column < sizes_.width; column += kSide) {
        const float* from =
            sums + (column / kSide * blocks_ + token / kSide) * kBlock + token % kSide;
        Words words[2][16];
        for (int i = 0; i < kSide; ++i) {
          words[i / 16][i % 16] = _mm512_loadu_si512(from + i * kSide);
        }
        transpose_words(words[0]);
        transpose_words(words[1]);
        const std::int64_t at = sizes_.before(sizes_.keys, head_) + column;
        for (std::int64_t i = 0; i < std::min(kTileRows, sizes_.keys - token); ++i) {
          to.write(at + (token + i) * sizes_.stride(),
                   narrow_row(_mm512_castsi512_ps(words[0][i]) * factors,
                              _mm512_castsi512_ps(words[1][i]) * factors),
                   sizes_.width - column);
        }
      }
    }
  }

  const Attention& attention_;
  const Sizes& sizes_;
  const std::int64_t head_, blocks_, steps_;
  const Tensors& tensors_;
  const Parts parts_;
  const Dropout dropout_;
  bf16 *keys_, *values_;                      // right operands, whose columns are tokens
  bf16* keys_by_token_;                       // right operand, whose rows are tokens
  bf16 *queries_, *output_slopes_;            // left operands of a panel
  bf16* score_slopes_;
  bf16 *turned_queries_, *turned_slopes_;     // left operands of a group, inner dimension queries
  bf16 *weight_columns_, *slope_columns_;     // right operands, [key block][panel]
  float *query_sums_, *key_sums_, *value_sums_;
};

}  // namespace
}  // namespace bertfit

using namespace bertfit;

extern "C" {

void attention_backward(const Attention* attention, const bf16* query, const bf16* key,
                        const bf16* value, const bf16* output, const bf16* output_gradient,
                        const float* log_sums, bf16* query_gradient, bf16* key_gradient,
                        bf16* value_gradient) {
  const Tensors tensors{query, key, value, output, output_gradient, log_sums,
                        {query_gradient, key_gradient, value_gradient}};
  const std::int64_t heads = attention->sizes.texts * attention->sizes.heads;
  at::parallel_for(0, heads, 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t head = begin; head < end; ++head) {
      Backward(*attention, tensors, head).run(head + 1 < end);
    }
    Output::finish();
  });
}

}  // extern "C"
