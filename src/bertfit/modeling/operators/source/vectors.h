// Sixteen numbers at a time: bfloat16 in memory, float32 in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace bertfit {

using bf16 = std::uint16_t;
using Floats = __m512;  // 16 numbers; +, - and * work element by element
using Words = __m512i;  // 16 words of 32 bits

constexpr std::int64_t kLanes = 16;

inline Floats spread(float value) { return _mm512_set1_ps(value); }
inline Words spread_word(std::uint32_t word) {
  return _mm512_set1_epi32(static_cast<std::int32_t>(word));
}

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }

inline Floats widen(__m256i numbers) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

// Rounds to nearest, ties to even.
inline __m256i narrow(Floats values) { return (__m256i)_mm512_cvtneps_pbh(values); }

inline Floats load(const bf16* from) { return widen(_mm256_loadu_si256((const __m256i*)from)); }
inline void store(bf16* to, Floats values) { _mm256_storeu_si256((__m256i*)to, narrow(values)); }

inline __mmask16 first(std::int64_t count) {
  return static_cast<__mmask16>(count >= kLanes ? 0xffff : (1u << count) - 1u);
}
inline Floats load(const bf16* from, std::int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(first(count), from));
}
inline void store(bf16* to, Floats values, std::int64_t count) {
  _mm256_mask_storeu_epi16(to, first(count), narrow(values));
}

// Numbers that are written 32 at a time, past the caches where there are more than stay there until
// they are read: a cache would first read each line that it is to hold.
class Output {
 public:
  Output(bf16* to, std::int64_t count)
      : to_(to),
        is_past_caches_(count * static_cast<std::int64_t>(sizeof(bf16)) >= kKept &&
                        reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {}

  // `at` is a multiple of 32.
  void write(std::int64_t at, Words numbers) const {
    if (is_past_caches_) {
      _mm512_stream_si512(reinterpret_cast<Words*>(to_ + at), numbers);
    } else {
      _mm512_storeu_si512(to_ + at, numbers);
    }
  }
  // Lets other threads see what this one has written.
  static void finish() { _mm_sfence(); }

 private:
  static constexpr std::int64_t kKept = 4 << 20;  // bytes

  bf16* to_;
  bool is_past_caches_;
};

constexpr float kLog2E = 1.44269504f;

// 2^x to 2e-7 of it, for x below 128; 0 below -126, where numbers begin that the processor is slow
// with; NaN of NaN. The polynomial of degree 5 is the minimax one of 2^r for r from 0 to 1.
inline Floats power_of_two(Floats x) {
  const Floats lowest = spread(-126.0f);
  const Floats inside = _mm512_max_ps(lowest, x);  // gives the second where one is NaN
  const Floats rest = _mm512_reduce_ps(inside, _MM_FROUND_TO_NEG_INF);
  Floats sum = spread(1.877571269e-3f);
  sum = sum * rest + spread(8.989353176e-3f);
  sum = sum * rest + spread(5.582630707e-2f);
  sum = sum * rest + spread(2.401536208e-1f);
  sum = sum * rest + spread(6.931530728e-1f);
  sum = sum * rest + spread(9.999999251e-1f);
  // Scales by 2 to the floor of `inside`.
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ), sum, inside);
}

// 1 / x to about one unit in the last place.
inline Floats reciprocal(Floats x) {
  const Floats about = _mm512_rcp14_ps(x);
  return about * (spread(2.0f) - x * about);
}

// GELU, x · Φ(x), and its slope, Φ(x) + x · φ(x), to 1.5e-7 times x.
// Source: Abramowitz & Stegun 1964, formula 7.1.26, whose exponential φ needs as well.
struct Gelu {
  Floats value;
  Floats slope;
};

inline Gelu gelu(Floats x) {
  const Floats bell = power_of_two(x * x * spread(-0.5f * kLog2E));
  const Floats t =
      reciprocal(_mm512_abs_ps(x) * spread(0.3275911f * 0.70710678f) + spread(1.0f));
  Floats sum = spread(1.061405429f);
  sum = sum * t - spread(1.453152027f);
  sum = sum * t + spread(1.421413741f);
  sum = sum * t - spread(0.284496736f);
  sum = sum * t + spread(0.254829592f);
  const Floats tail = sum * t * bell * spread(0.5f);  // Φ(-|x|)
  const __mmask16 is_positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ);
  const Floats cumulative = _mm512_mask_sub_ps(tail, is_positive, spread(1.0f), tail);
  return {x * cumulative, cumulative + x * bell * spread(0.39894228f)};
}

// 64 bits of which each depends on all 64 of the word.
// Source: Steele, Lea & Flood 2014, Fast Splittable Pseudorandom Number Generators (SplitMix64).
inline std::uint64_t scatter(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

// Random words of 16 places in a row, out of a sequence that begins at `start` and goes on by the
// odd `stride`. No state, so any thread may draw any word, once or again.
// Source of the constants: Wellons 2018, hash-prospector ("lowbias32").
inline Words draw_words(std::uint32_t start, std::uint32_t stride, std::uint32_t place) {
  const Words lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Words first = spread_word(start + place * stride);
  Words word = _mm512_add_epi32(first, _mm512_mullo_epi32(lanes, spread_word(stride)));
  word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 16));
  word = _mm512_mullo_epi32(word, spread_word(0x7feb352du));
  word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 15));
  word = _mm512_mullo_epi32(word, spread_word(0x846ca68bu));
  return _mm512_xor_si512(word, _mm512_srli_epi32(word, 16));
}

}  // namespace bertfit
