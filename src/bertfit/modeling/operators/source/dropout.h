// Which numbers dropout keeps: 16 random bits each, drawn anew wherever they are needed.
#pragma once

#include "vectors.h"

namespace bertfit {

// 32 numbers of which some are kept: the first 16 and the others.
struct Kept {
  __mmask16 low;
  __mmask16 high;
};

inline Floats keep(Floats values, __mmask16 kept) { return _mm512_maskz_mov_ps(kept, values); }

// One row of numbers in blocks of 32: a sequence of words of its own, of which any block can be had.
class DropoutRow {
 public:
  DropoutRow() = default;
  DropoutRow(std::uint64_t key, std::uint32_t threshold)
      : start_(static_cast<std::uint32_t>(key)),
        stride_(static_cast<std::uint32_t>(key >> 32) | 1),
        threshold_(threshold) {}

  Kept draw(std::int64_t block) const {
    if (threshold_ == 0) {
      return {0xffff, 0xffff};
    }
    const auto place = static_cast<std::uint32_t>(block * kLanes);
    const Words words = draw_words(start_, stride_, place);
    const Words threshold = spread_word(threshold_);
    const Words low = _mm512_and_si512(words, spread_word(0xffff));
    const Words high = _mm512_srli_epi32(words, 16);
    return {_mm512_cmpge_epu32_mask(low, threshold), _mm512_cmpge_epu32_mask(high, threshold)};
  }

 private:
  std::uint32_t start_;
  std::uint32_t stride_;
  std::uint32_t threshold_;
};

class Dropout {
 public:
  Dropout(std::uint64_t seed, float rate)
      : seed_(seed),
        threshold_(static_cast<std::uint32_t>(std::lround(rate * kLevels))),
        scale_(1.0f / (1.0f - rate)) {}

  // What is kept is multiplied by this.
  float scale() const { return scale_; }

  // Rows are numbered through all that one seed is for.
  DropoutRow row(std::int64_t number) const {
    return {scatter(seed_ + static_cast<std::uint64_t>(number) * 0x9e3779b97f4a7c15u), threshold_};
  }

 private:
  static constexpr float kLevels = 1 << 16;

  std::uint64_t seed_;
  std::uint32_t threshold_;
  float scale_;
};

}  // namespace bertfit
