// The forward pass of all layers of an encoder, for scoring.
//
// Each thread takes some texts through all layers, so that intermediate results stay in its L2
// cache and no thread waits for another. The results are those of the single operators.
#include <algorithm>
#include <vector>

#include "attention.h"
#include "buffer.h"
#include "norm.h"
#include "panels.h"

namespace bertfit {

// A linear layer or a norm; the bias may be null.
struct Affine {
  const bf16* weight;
  const bf16* bias;
};

struct Layer {
  Affine states[3];  // of queries, keys and values
  Affine output;     // of attention
  Affine norm;
  Affine first;      // of the feed-forward
  Affine second;
  Affine last_norm;
};

struct Encoder {
  Attention attention;  // of all texts, without dropout
  std::int64_t inner;   // inner width of the feed-forward
  std::int64_t layers;
  float epsilons[2];    // of the norm after attention and of the last norm

  std::int64_t width() const { return attention.sizes.stride(); }
  // Size of the packed weights of a layer: states and output, first, second.
  std::int64_t packed_size() const { return 4 * width() * width() + 2 * width() * inner; }
};

namespace {

constexpr std::int64_t kRows = 256;  // tokens that a thread processes at once

// Rows of a left operand: row-major, or in panels.
struct Rows {
  const bf16* from;
  std::int64_t width;
  Order order;

  Left panel(std::int64_t number) const {
    const bf16* at = from + number * kSide * width;
    return order == Order::kPanels ? Left{at} : Left{at, width, kSide};
  }
};

// Multiplies `count` rows of x by packed weights, one column block at a time for all rows, so that
// the weights, which fit into no cache, are read only once; the next block is prefetched meanwhile.
// If the last panel is incomplete, its missing rows must still be readable; they are not used.
template <typename Write>
void multiply_group(const Rows& x, std::int64_t count, const bf16* packed, std::int64_t blocks,
                    const Write& write) {
  const std::int64_t steps = x.width / kSide, panels = divide_up(count, kSide);
  const std::int64_t each = divide_up(kSide, steps);                // rows written per step
  const std::int64_t lines = divide_up(kStepSize / kSide, panels);  // lines prefetched per step
  alignas(64) float sums[2][kBlock];
  int turn = 0;
  Waiting<typename Write::Columns> waiting;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const bf16* right = packed + block * steps * kStepSize;
    const bf16* next = right + steps * kStepSize;
    const auto columns = write.at(block);
    const auto meanwhile = [&](std::int64_t) {
      waiting.finish(each);
      for (std::int64_t line = 0; line < lines; ++line, next += kSide) {
        fetch_ahead(next);
      }
    };
    for (std::int64_t panel = 0; panel < panels; ++panel, turn ^= 1) {
      multiply_block<false, LeftUse::kOnce>(x.panel(panel), right, steps, sums[turn], kSide,
                                            meanwhile);
      waiting.take(sums[turn], panel * kSide, std::min(count - panel * kSide, kSide), columns);
    }
  }
  waiting.finish(kSide);
}

// A group of texts passing through the layers, with hidden states stored in panels.
class Group {
 public:
  Group(const Encoder& encoder, std::int64_t first, std::int64_t count)
      : encoder_(encoder),
        attention_(encoder.attention),
        rows_(count * encoder.attention.sizes.keys),
        width_(encoder.width()) {
    static thread_local Buffer<bf16> numbers;
    attention_.sizes.texts = count;
    if (attention_.mask.from != nullptr) {
      attention_.mask.from += first * attention_.mask.text;
    }
    const std::int64_t room = round_up(rows_, kSide) * width_;
    const std::int64_t inner_room = std::min(round_up(rows_, kSide), kRows) * encoder.inner;
    x_ = numbers.reserve(2 * room + std::max(inner_room, 3 * room));
    aside_ = x_ + room;
    inner_ = aside_ + room;
  }

  void take(const bf16* x) {
    for_each_block([&](std::int64_t in_rows, std::int64_t in_panels) {
      _mm512_storeu_si512(x_ + in_panels, _mm512_loadu_si512(x + in_rows));
    });
  }

  void give(bf16* x) const {
    for_each_block([&](std::int64_t in_rows, std::int64_t in_panels) {
      _mm512_storeu_si512(x + in_rows, _mm512_loadu_si512(x_ + in_panels));
    });
  }

  void pass(const Layer& layer, const bf16* packed) {
    const bf16* output = packed + 3 * width_ * width_;
    const bf16* first = output + width_ * width_;
    attend(layer, packed);
    multiply({inner_, width_, Order::kRows}, rows_, layer.output, output, aside_);
    add_and_norm(layer.norm, encoder_.epsilons[0]);
    for (std::int64_t row = 0; row < rows_; row += kRows) {
      feed_forward(layer, first, row, std::min(kRows, rows_ - row));
    }
    add_and_norm(layer.last_norm, encoder_.epsilons[1]);
  }

 private:
  // Calls work with the offsets of each 32 numbers in rows and in panels.
  template <typename Work>
  void for_each_block(Work work) const {
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t j = 0; j < width_; j += kSide) {
        work(row * width_ + j, at(row) + j * kSide);
      }
    }
  }
  // Offset of a row in panels.
  std::int64_t at(std::int64_t row) const {
    return row / kSide * kSide * width_ + row % kSide * kSide;
  }

  // The output overwrites the queries: each head reads its own queries before that.
  void attend(const Layer& layer, const bf16* packed) {
    const std::int64_t room = round_up(rows_, kSide) * width_;
    bf16* const states[] = {inner_, inner_ + room, inner_ + 2 * room};
    const bf16* const biases[] = {layer.states[0].bias, layer.states[1].bias, layer.states[2].bias};
    multiply_group({x_, width_, Order::kPanels}, rows_, packed, 3 * width_ / kSide,
                   WriteLinear{{biases, states, rows_, width_}});
    const std::int64_t heads = attention_.sizes.texts * attention_.sizes.heads;
    for (std::int64_t head = 0; head < heads; ++head) {
      attend_forward(attention_, states[0], states[1], states[2], states[0], nullptr, head, false);
    }
  }

  // For few rows at a time, so that the values between the two products stay in the L2 cache.
  void feed_forward(const Layer& layer, const bf16* packed, std::int64_t row, std::int64_t count) {
    bf16* const outputs[] = {inner_};
    const Layers places{&layer.first.bias, outputs, count, encoder_.inner, Order::kPanels};
    multiply_group({x_ + row * width_, width_, Order::kPanels}, count, packed,
                   encoder_.inner / kSide, WriteGelu<false>{places, {}});
    multiply({inner_, encoder_.inner, Order::kPanels}, count, layer.second,
             packed + encoder_.inner * width_, aside_ + row * width_);
  }

  void multiply(const Rows& x, std::int64_t count, const Affine& layer, const bf16* packed,
                bf16* to) const {
    bf16* const outputs[] = {to};
    multiply_group(x, count, packed, width_ / kSide,
                   WriteLinear{{&layer.bias, outputs, count, width_}});
  }

  void add_and_norm(const Affine& layer, float epsilon) const {
    const Norm norm{rows_, width_, epsilon, 0.0f, 0};
    float statistics[2];
    for (std::int64_t row = 0; row < rows_; ++row) {
      bf16* x = x_ + at(row);
      norm.forward_row(row, aside_ + row * width_, x, layer.weight, layer.bias, nullptr, statistics,
                       x, kStepSize);
    }
  }

  const Encoder& encoder_;
  Attention attention_;
  std::int64_t rows_;
  std::int64_t width_;
  bf16* x_;      // rows x width
  bf16* aside_;  // rows x width
  bf16* inner_;  // up to kRows rows x inner, or queries, keys and values of all rows
};

void pack_layer(const Encoder& encoder, const Layer& layer, bf16* packed) {
  const std::int64_t width = encoder.width(), inner = encoder.inner;
  const bf16* const states[] = {layer.states[0].weight, layer.states[1].weight,
                                layer.states[2].weight, layer.output.weight};
  pack_weights(states, 4, width, width, packed);
  packed += 4 * width * width;
  pack_weights(&layer.first.weight, 1, inner, width, packed);
  pack_weights(&layer.second.weight, 1, width, inner, packed + width * inner);
}

}  // namespace
}  // namespace bertfit

using namespace bertfit;

extern "C" {

// Passes x (texts x tokens x width) through the layers, in place. Widths are multiples of 32.
// `packed` has room for the weights of all layers.
void encoder_forward(const Encoder* encoder, const Layer* layers, bf16* packed, bf16* x) {
  const std::int64_t size = encoder->packed_size();
  for (std::int64_t i = 0; i < encoder->layers; ++i) {
    pack_layer(*encoder, layers[i], packed + i * size);
  }
  const std::int64_t texts = encoder->attention.sizes.texts;
  const std::int64_t together = std::max<std::int64_t>(1, kRows / encoder->attention.sizes.keys);
  at::parallel_for(0, divide_up(texts, together), 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t number = begin; number < end; ++number) {
      const std::int64_t first = number * together;
      bf16* of_texts = x + first * encoder->attention.sizes.keys * encoder->width();
      Group group(*encoder, first, std::min(together, texts - first));
      group.take(of_texts);
      for (std::int64_t i = 0; i < encoder->layers; ++i) {
        group.pass(layers[i], packed + i * size);
      }
      group.give(of_texts);
    }
  });
}

}  // extern "C"
