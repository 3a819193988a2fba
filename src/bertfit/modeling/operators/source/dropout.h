// Dropout masks, drawn from a seed and a position, so that the backward pass can redraw them.
#pragma once

#include "vectors.h"

#if !defined(__VAES__)
#error "the processor has no VAES, which dropout is drawn with"
#endif

namespace bertfit {

// Which of 32 numbers are kept: the first 16 and the last 16.
struct Kept {
  __mmask16 low;
  __mmask16 high;
};

inline Floats keep(Floats values, __mmask16 kept) { return _mm512_maskz_mov_ps(kept, values); }

// The dropout mask of a row, drawn for 32 numbers at a time, in any order and repeatably: three
// rounds of AES mix the row's key with the index of the draw, giving 16 bits per number.
// Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (ARS, which has more
// rounds, for higher quality).
class DropoutRow {
 public:
  DropoutRow() = default;
  // Drops a number with probability threshold / 65,536.
  DropoutRow(std::uint64_t key, std::uint16_t threshold)
      : start_(_mm512_set_epi64(3, number(key), 2, number(key), 1, number(key), 0, number(key))),
        threshold_(threshold) {}

  Kept draw(std::int64_t block) const {
    if (threshold_ == 0) {
      return {0xffff, 0xffff};
    }
    // Into the low 32 bits of the 64 that the key leaves free in each 128-bit lane.
    Words words = _mm512_add_epi32(
        start_, _mm512_maskz_set1_epi32(0x4444, static_cast<std::int32_t>(4 * block)));
    words = _mm512_aesenc_epi128(words, repeat(0x243f6a8885a308d3, 0x13198a2e03707344));
    words = _mm512_aesenc_epi128(words, repeat(0xa4093822299f31d0, 0x082efa98ec4e6c89));
    words = _mm512_aesenc_epi128(words, repeat(0x452821e638d01377, 0xbe5466cf34e90c6c));
    const __mmask32 kept = _mm512_cmpge_epu16_mask(
        words, _mm512_set1_epi16(static_cast<std::int16_t>(threshold_)));
    return {static_cast<__mmask16>(kept), static_cast<__mmask16>(kept >> 16)};
  }

 private:
  static long long number(std::uint64_t bits) { return static_cast<long long>(bits); }
  // Round keys: digits of pi.
  static Words repeat(std::uint64_t low, std::uint64_t high) {
    return _mm512_set4_epi64(number(high), number(low), number(high), number(low));
  }

  Words start_;
  std::uint16_t threshold_;
};

class Dropout {
 public:
  Dropout(std::uint64_t seed, float rate)
      : seed_(seed),
        threshold_(static_cast<std::uint16_t>(std::min(std::lround(rate * 65536.0f), 65535l))),
        scale_(1.0f / (1.0f - rate)) {}

  // Factor of the kept numbers.
  float scale() const { return scale_; }

  // Rows are numbered consecutively across everything that uses the same seed.
  DropoutRow row(std::int64_t number) const {
    return {scatter(seed_ + static_cast<std::uint64_t>(number) * 0x9e3779b97f4a7c15u), threshold_};
  }

 private:
  std::uint64_t seed_;
  std::uint16_t threshold_;
  float scale_;
};

}  // namespace bertfit
