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

// Of rows of numbers in blocks of 32; each set of rows has a sequence of its own.
class Dropout {
 public:
  Dropout(std::uint64_t seed, std::int64_t sequence, float rate, std::int64_t blocks_per_row)
      : seed_(seed + static_cast<std::uint64_t>(sequence) * 0x9e3779b97f4a7c15u),
        threshold_(static_cast<std::uint32_t>(std::lround(rate * kLevels))),
        scale_(1.0f / (1.0f - rate)),
        words_per_row_(blocks_per_row * kLanes) {}

  // What is kept is multiplied by this.
  float scale() const { return scale_; }

  Kept draw_kept(std::int64_t row, std::int64_t block) const {
    if (threshold_ == 0) {
      return {0xffff, 0xffff};
    }
    const auto place = static_cast<std::uint32_t>(row * words_per_row_ + block * kLanes);
    const Words words = draw(seed_, place);
    const Words threshold = spread_word(threshold_);
    const Words low = _mm512_and_si512(words, spread_word(kLevels - 1));
    const Words high = _mm512_srli_epi32(words, 16);
    return {_mm512_cmpge_epu32_mask(low, threshold), _mm512_cmpge_epu32_mask(high, threshold)};
  }

 private:
  static constexpr std::uint32_t kLevels = 1 << 16;

  std::uint64_t seed_;
  std::uint32_t threshold_;
  float scale_;
  std::int64_t words_per_row_;
};

}  // namespace bertfit
