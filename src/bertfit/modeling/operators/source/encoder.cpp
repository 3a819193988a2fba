// Layers of an encoder one after the other, forward, without a way back: what scoring takes.
//
// A thread takes some texts through all layers, so that what stands between two operators stays in its
// second cache, and no thread waits for another. The numbers are those of the operators one by one.
#include <algorithm>
#include <vector>

#include "attention.h"
#include "buffer.h"
#include "norm.h"
#include "panels.h"

namespace bertfit {

// A linear layer, or a norm, whose bias may be null.
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
  std::int64_t inner;   // numbers of a token within the feed-forward
  std::int64_t layers;
  float epsilons[2];    // of the norm after attention, and of the last one

  std::int64_t width() const { return attention.sizes.stride(); }
  // Numbers of the packed weights of a layer: states and output, first, second.
  std::int64_t packed_size() const { return 4 * width() * width() + 2 * width() * inner; }
};

namespace {

constexpr std::int64_t kRows = 256;  // tokens that a thread takes at once, or one text

// Multiplies `rows` rows of x (k numbers each) by packed weights, block by block, each with all rows,
// so that weights, which no cache holds, are read once for a group.
template <typename Write>
void multiply_group(const bf16* x, std::int64_t rows, std::int64_t k, const bf16* packed,
                    std::int64_t blocks, const Write& write) {
  static thread_local Buffer<bf16> buffer;
  const std::int64_t steps = k / kSide, panels = divide_up(rows, kSide);
  const std::int64_t each = divide_up(kSide, steps);  // rows finished in a step
  const Part all{x, k, rows, k};
  bf16* padded = buffer.reserve(steps * kStepSize);
  const Left last = take_panel(all.at((panels - 1) * kSide, 0), steps, padded);
  alignas(64) float sums[2][kBlock];
  int turn = 0;
  Waiting<typename Write::Columns> waiting;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const bf16* right = packed + block * steps * kStepSize;
    const auto columns = write.at(block);
    for (std::int64_t panel = 0; panel < panels; ++panel, turn ^= 1) {
      const Left left = panel + 1 < panels ? Left{x + panel * kSide * k, k, kSide} : last;
      multiply_block<false>(left, right, steps, sums[turn], kSide,
                            [&](std::int64_t) { waiting.finish(each); });
      waiting.take(sums[turn], panel * kSide, std::min(rows - panel * kSide, kSide), columns);
    }
  }
  waiting.finish(kSide);
}

// Some texts on their way through the layers.
class Group {
 public:
  Group(const Encoder& encoder, std::int64_t first, std::int64_t count, bf16* x)
      : encoder_(encoder),
        attention_(encoder.attention),
        rows_(count * encoder.attention.sizes.keys),
        width_(encoder.width()),
        x_(x + first * encoder.attention.sizes.keys * encoder.width()) {
    static thread_local Buffer<bf16> numbers;
    static thread_local Buffer<float> logarithms;
    attention_.sizes.texts = count;
    if (attention_.mask.from != nullptr) {
      attention_.mask.from += first * attention_.mask.text;
    }
    aside_ = numbers.reserve(rows_ * (width_ + std::max(encoder.inner, 3 * width_)));
    inner_ = aside_ + rows_ * width_;
    log_sums_ = logarithms.reserve(rows_ * attention_.sizes.heads);
  }

  void pass(const Layer& layer, const bf16* packed) {
    attend(layer, packed);
    packed += 3 * width_ * width_;
    multiply(inner_, width_, layer.output, packed, width_, aside_);
    add_and_norm(layer.norm, encoder_.epsilons[0]);
    packed += width_ * width_;
    bf16* const outputs[] = {inner_};
    const WriteGelu write{{&layer.first.bias, outputs, rows_, encoder_.inner}, Output(nullptr, 0)};
    multiply_group(x_, rows_, width_, packed, encoder_.inner / kSide, write);
    packed += encoder_.inner * width_;
    multiply(inner_, encoder_.inner, layer.second, packed, width_, aside_);
    add_and_norm(layer.last_norm, encoder_.epsilons[1]);
  }

 private:
  // Leaves what was attended to where the queries were: a head reads those of its own rows before.
  void attend(const Layer& layer, const bf16* packed) {
    bf16* const states[] = {inner_, inner_ + rows_ * width_, inner_ + 2 * rows_ * width_};
    const bf16* const biases[] = {layer.states[0].bias, layer.states[1].bias, layer.states[2].bias};
    multiply_group(x_, rows_, width_, packed, 3 * width_ / kSide,
                   WriteLinear{{biases, states, rows_, width_}});
    for (std::int64_t text = 0; text < attention_.sizes.texts; ++text) {
      for (std::int64_t head = 0; head < attention_.sizes.heads; ++head) {
        attention_.forward_head(states[0], states[1], states[2], states[0], log_sums_, text, head);
      }
    }
  }

  void multiply(const bf16* from, std::int64_t k, const Affine& layer, const bf16* packed,
                std::int64_t n, bf16* to) const {
    bf16* const outputs[] = {to};
    multiply_group(from, rows_, k, packed, n / kSide,
                   WriteLinear{{&layer.bias, outputs, rows_, n}});
  }

  void add_and_norm(const Affine& layer, float epsilon) const {
    const Norm norm{rows_, width_, epsilon, 0.0f, 0};
    float statistics[2];
    for (std::int64_t row = 0; row < rows_; ++row) {
      bf16* x = x_ + row * width_;
      norm.forward_row(row, aside_ + row * width_, x, layer.weight, layer.bias, nullptr, statistics,
                       x);
    }
  }

  const Encoder& encoder_;
  Attention attention_;
  std::int64_t rows_;
  std::int64_t width_;
  bf16* x_;
  bf16* aside_;  // rows x width
  bf16* inner_;  // rows x inner, or queries, keys and values
  float* log_sums_;
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

// Takes x (texts x tokens x width) through the layers, in place. Widths are multiples of 32. `packed`
// has room for the weights of all layers.
void encoder_forward(const Encoder* encoder, const Layer* layers, bf16* packed, bf16* x) {
  const std::int64_t size = encoder->packed_size();
  for (std::int64_t i = 0; i < encoder->layers; ++i) {
    pack_layer(*encoder, layers[i], packed + i * size);
  }
  const std::int64_t texts = encoder->attention.sizes.texts;
  const std::int64_t together = std::max<std::int64_t>(1, kRows / encoder->attention.sizes.keys);
  at::parallel_for(0, divide_up(texts, together), 1, [&](std::int64_t begin, std::int64_t end) {
    const TileScope tiles;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t first = group * together;
      Group texts_of_it(*encoder, first, std::min(together, texts - first), x);
      for (std::int64_t i = 0; i < encoder->layers; ++i) {
        texts_of_it.pass(layers[i], packed + i * size);
      }
    }
  });
}

}  // extern "C"
