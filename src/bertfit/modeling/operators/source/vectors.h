// Vectors of sixteen numbers: bfloat16 in memory, float32 in registers.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace bertfit {

using bf16 = std::uint16_t;
using Floats = __m512;  // 16 numbers; +, - and * are elementwise
using Words = __m512i;  // 16 words of 32 bits

constexpr std::int64_t kLanes = 16;

inline Floats spread(float value) { return _mm512_set1_ps(value); }
inline Words spread_word(std::uint32_t word) {
  return _mm512_set1_epi32(static_cast<std::int32_t>(word));
}

// x · y + z, rounded once. Left to the compiler, contraction could differ from place to place.
inline Floats multiply_add(Floats x, Floats y, Floats z) { return _mm512_fmadd_ps(x, y, z); }

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

// Output written 32 numbers at a time. Large outputs, which would be evicted before they are read,
// bypass the caches, which would otherwise read each line before it is overwritten.
class Output {
 public:
  Output() = default;
  Output(bf16* to, std::int64_t count)
      : to_(to),
        is_past_caches_(count * static_cast<std::int64_t>(sizeof(bf16)) >= kKept &&
                        reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {}

  // Writes 32 numbers; `at` is a multiple of 32.
  void write(std::int64_t at, Words numbers) const {
    if (is_past_caches_) {
      _mm512_stream_si512(reinterpret_cast<Words*>(to_ + at), numbers);
    } else {
      _mm512_storeu_si512(to_ + at, numbers);
    }
  }
  // Writes the first `count` numbers; `at` is arbitrary.
  void write(std::int64_t at, Words numbers, std::int64_t count) const {
    if (count >= 2 * kLanes && at % (2 * kLanes) == 0) {
      write(at, numbers);
    } else {
      const __mmask32 wanted = count >= 2 * kLanes ? ~0u : (1u << count) - 1u;
      _mm512_mask_storeu_epi16(to_ + at, wanted, numbers);
    }
  }
  // Makes this thread's writes visible to other threads.
  static void finish() { _mm_sfence(); }

 private:
  static constexpr std::int64_t kKept = 4 << 20;  // bytes

  bf16* to_ = nullptr;
  bool is_past_caches_ = false;
};

constexpr float kLog2E = 1.44269504f;

// 2^x with a relative error of 3e-6, for x below 128; 0 below -125, which avoids slow subnormals;
// NaN for NaN. The polynomial is the minimax approximation of 2^r for r from -1/2 to 1/2.
inline Floats power_of_two(Floats x) {
  const Floats lowest = spread(-125.0f);
  const Floats large = spread(12582912.0f);  // adding it rounds a number to an integer
  const Floats inside = _mm512_max_ps(lowest, x);  // returns the second operand if one is NaN
  const Floats shifted = inside + large;
  const Floats rest = inside - (shifted - large);
  Floats sum = spread(9.570101911e-3f);
  sum = multiply_add(sum, rest, spread(5.591786032e-2f));
  sum = multiply_add(sum, rest, spread(2.402474483e-1f));
  sum = multiply_add(sum, rest, spread(6.931218147e-1f));
  sum = multiply_add(sum, rest, spread(9.999992614e-1f));
  // Adds the integer part, the low bits of the shifted number, to the exponent.
  const Words power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  const __mmask16 is_inside = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
  return _mm512_castsi512_ps(
      _mm512_maskz_add_epi32(is_inside, _mm512_castps_si512(sum), power));
}

// A function on [0, 7.75] as 32 cubics, each for an eighth on both sides of a multiple of 1/4.
class Cubics {
 public:
  // Interpolates at four Chebyshev nodes of each piece.
  explicit Cubics(double (*function)(double)) {
    for (int piece = 0; piece < kPieces; ++piece) {
      double nodes[4], divided[4];
      for (int i = 0; i < 4; ++i) {
        nodes[i] = piece / 4.0 + std::cos((2 * i + 1) * 3.14159265358979 / 8.0) / 8.0;
        divided[i] = function(nodes[i]);
      }
      for (int order = 1; order < 4; ++order) {
        for (int i = 3; i >= order; --i) {
          divided[i] = (divided[i] - divided[i - 1]) / (nodes[i] - nodes[i - order]);
        }
      }
      double sum[4] = {divided[3], 0.0, 0.0, 0.0};  // Newton's form, expanded
      for (int i = 2; i >= 0; --i) {
        for (int power = 3; power > 0; --power) {
          sum[power] = sum[power - 1] - nodes[i] * sum[power];
        }
        sum[0] = divided[i] - nodes[i] * sum[0];
      }
      for (int power = 0; power < 4; ++power) {
        factors_[power][piece] = static_cast<float>(sum[power]);
      }
    }
  }

  // The piece of each number in the range: the low bits of a sum large enough to round four times
  // the number to an integer.
  static Words find_pieces(Floats x) {
    return _mm512_castps_si512(x * spread(4.0f) + spread(8388608.0f));
  }
  Floats at(Floats x, Words pieces) const {
    Floats sum = factor(3, pieces);
    for (int power = 2; power >= 0; --power) {
      sum = multiply_add(sum, x, factor(power, pieces));
    }
    return sum;
  }

 private:
  static constexpr int kPieces = 32;

  Floats factor(int power, Words pieces) const {
    const float* from = factors_[power];
    return _mm512_permutex2var_ps(_mm512_load_ps(from), pieces, _mm512_load_ps(from + kLanes));
  }

  alignas(64) float factors_[4][kPieces];
};

// Φ(-x) and φ(x) with an absolute error of 2e-6, and a relative one of 1e-3 where they are small.
inline const Cubics kTail([](double x) { return 0.5 * std::erfc(x * 0.70710678118654752); });
inline const Cubics kBell([](double x) { return 0.39894228040143268 * std::exp(-0.5 * x * x); });

// GELU, x · Φ(x), and its derivative, Φ(x) + x · φ(x).
struct Gelu {
  Floats value;
  Floats slope;
};

inline Gelu gelu(Floats x) {
  const Floats zero = _mm512_setzero_ps();
  const Floats inside = _mm512_min_ps(_mm512_abs_ps(x), spread(7.75f));
  const Words pieces = Cubics::find_pieces(inside);
  const Floats tail = kTail.at(inside, pieces);
  const Floats below = multiply_add(-inside, kBell.at(inside, pieces), tail);  // derivative at -|x|
  const __mmask16 is_positive = _mm512_cmp_ps_mask(x, zero, _CMP_GE_OQ);
  // max returns its second operand, x, if x is NaN.
  return {multiply_add(-inside, tail, _mm512_max_ps(zero, x)),
          _mm512_mask_sub_ps(below, is_positive, spread(1.0f), below)};
}

// 64 bits, each of which depends on all 64 bits of the word.
// Source: Steele, Lea & Flood 2014, Fast Splittable Pseudorandom Number Generators (SplitMix64).
inline std::uint64_t scatter(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

}  // namespace bertfit
