// Products of bfloat16 matrices in blocks of 32 x 32, summed in float32.
//
// An operand is cut into tiles of 1 KiB. A tile of the left operand has 16 rows of 32 numbers, in
// row-major order. A tile of the right operand has 16 rows of 16 pairs: row p holds the numbers
// (2p, 2p + 1) of the inner dimension for 16 columns. Tiles are multiplied by AMX or, if it is not
// enabled in the compiler, by AVX512-BF16 in the same layout.
//
// Source: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3
// (TDPBF16PS).
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace bertfit {

constexpr std::int64_t kSide = 32;         // rows and columns of a block
constexpr std::int64_t kBlock = kSide * kSide;
constexpr std::int64_t kTileRows = 16;     // rows of a tile
constexpr std::int64_t kTileSize = 512;    // numbers of a tile
constexpr std::int64_t kStepSize = 1024;   // numbers in the two tiles of one step of an operand

inline std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
inline std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return divide_up(value, step) * step;
}

// 32 rows of a left operand: in place in a row-major matrix, or packed, step after step.
struct Left {
  const bf16* from;
  std::int64_t stride = kSide;    // offset from one row to the next
  std::int64_t step = kStepSize;  // offset from one step to the next
};

// Whether the left operand of a product is read only once, so that it should not displace the right
// operand, which is read again, from the L1 cache.
enum class LeftUse { kAgain, kOnce };

#if defined(__AMX_BF16__)

// Asks the kernel to let this process use the tile registers; returns false if it does not.
inline bool ask_for_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2), asm/prctl.h
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Configures the tile registers of this thread and restores them at the end: other libraries
// (oneDNN) use them too and may rely on their configuration.
class TileScope {
 public:
  TileScope() {
    _tile_storeconfig(&before_);
    Config config;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_per_row[tile] = 64;
      config.rows[tile] = 16;
    }
    _tile_loadconfig(&config);
  }
  ~TileScope() {
    if (before_.palette == 0) {
      _tile_release();
    } else {
      _tile_loadconfig(&before_);
    }
  }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

 private:
  struct alignas(64) Config {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {};
    std::uint8_t rows[16] = {};
  };
  Config before_;
};

// c (32 x 32) = or += a (32 x 32·steps) · b (32·steps x 32). For each step, `b` holds the tile of
// the left columns, then that of the right ones. `meanwhile(step)` is called in each step, so that
// other arithmetic overlaps with the products.
template <bool kAdd, LeftUse kUse = LeftUse::kAgain, typename Meanwhile>
inline void multiply_block(const Left& a, const bf16* b, std::int64_t steps, float* c,
                           std::int64_t c_stride, Meanwhile meanwhile) {
  const bf16* upper = a.from;
  const bf16* lower = a.from + kTileRows * a.stride;
  const std::int64_t row_bytes = a.stride * 2;
  float* below = c + kTileRows * c_stride;
  const std::int64_t bytes = c_stride * 4;
  if constexpr (kAdd) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + kTileRows, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + kTileRows, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    if constexpr (kUse == LeftUse::kOnce) {
      _tile_stream_loadd(4, upper, row_bytes);
      _tile_stream_loadd(5, lower, row_bytes);
    } else {
      _tile_loadd(4, upper, row_bytes);
      _tile_loadd(5, lower, row_bytes);
    }
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kTileSize, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    upper += a.step;
    lower += a.step;
    b += kStepSize;
    meanwhile(step);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kTileRows, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + kTileRows, bytes);
}

#else

inline bool ask_for_tiles() { return true; }

class TileScope {
 public:
  TileScope() {}
};

template <bool kAdd, LeftUse kUse = LeftUse::kAgain, typename Meanwhile>
inline void multiply_block(const Left& a, const bf16* b, std::int64_t steps, float* c,
                           std::int64_t c_stride, Meanwhile meanwhile) {
  constexpr int kRows = 8;
  for (int row = 0; row < kSide; row += kRows) {
    __m512 sums[kRows][2];
    for (int i = 0; i < kRows; ++i) {
      for (int half = 0; half < 2; ++half) {
        sums[i][half] = kAdd ? _mm512_loadu_ps(c + (row + i) * c_stride + half * kTileRows)
                             : _mm512_setzero_ps();
      }
    }
    for (std::int64_t step = 0; step < steps; ++step) {
      const bf16* left = a.from + step * a.step + row * a.stride;
      const bf16* right = b + step * kStepSize;
      for (int pair = 0; pair < kTileRows; ++pair) {
        const auto first = (__m512bh)_mm512_loadu_si512(right + pair * kSide);
        const auto second = (__m512bh)_mm512_loadu_si512(right + kTileSize + pair * kSide);
        for (int i = 0; i < kRows; ++i) {
          std::int32_t two;
          std::memcpy(&two, left + i * a.stride + pair * 2, 4);
          const auto both = (__m512bh)_mm512_set1_epi32(two);
          sums[i][0] = _mm512_dpbf16_ps(sums[i][0], both, first);
          sums[i][1] = _mm512_dpbf16_ps(sums[i][1], both, second);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int half = 0; half < 2; ++half) {
        _mm512_storeu_ps(c + (row + i) * c_stride + half * kTileRows, sums[i][half]);
      }
    }
  }
  for (std::int64_t step = 0; step < steps; ++step) {
    meanwhile(step);
  }
}

#endif

template <bool kAdd>
inline void multiply_block(const Left& a, const bf16* b, std::int64_t steps, float* c,
                           std::int64_t c_stride) {
  multiply_block<kAdd>(a, b, steps, c, c_stride, [](std::int64_t) {});
}

// Transposes 16 x 16 words of 32 bits in registers.
inline void transpose_words(Words rows[16]) {
  Words t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// Loads up to 16 rows of up to 32 numbers each; the rest is 0.
inline void load_words(const bf16* from, std::int64_t stride, std::int64_t num_rows,
                       std::int64_t num_numbers, Words rows[16]) {
  const auto mask =
      static_cast<__mmask32>(num_numbers >= 32 ? ~0u : (1u << num_numbers) - 1u);
  for (std::int64_t i = 0; i < 16; ++i) {
    rows[i] = i < num_rows ? _mm512_maskz_loadu_epi16(mask, from + i * stride)
                           : _mm512_setzero_si512();
  }
}

inline void store_words(const Words words[16], bf16* tile) {
  for (int i = 0; i < 16; ++i) {
    _mm512_storeu_si512(tile + 32 * i, words[i]);
  }
}

// The part of a matrix that an operand is made of: `num_rows` x `num_columns` numbers starting at
// `from`. Tiles are padded with zeros.
struct Part {
  const bf16* from;
  std::int64_t stride;
  std::int64_t num_rows;
  std::int64_t num_columns;

  Part at(std::int64_t row, std::int64_t column) const {
    return {from + row * stride + column, stride, std::max<std::int64_t>(num_rows - row, 0),
            std::max<std::int64_t>(num_columns - column, 0)};
  }
};

// Prefetches 32 numbers, a cache line, into the L2 cache.
inline void fetch_ahead(const bf16* line) {
  _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
}

// The same for a row of a part, if it exists.
inline void fetch_ahead(const Part& part, std::int64_t row, std::int64_t column) {
  if (row < part.num_rows) {
    fetch_ahead(part.from + row * part.stride + column);
  }
}

// Packs one step, each tile from 16 rows of 32 numbers, whose 32-bit words may be transposed.
template <bool kTransposed>
inline void pack_rows(const Part& part, bf16* step) {
  for (int half = 0; half < 2; ++half) {
    const Part rows = part.at(half * kTileRows, 0);
    Words words[16];
    load_words(rows.from, rows.stride, rows.num_rows, rows.num_columns, words);
    if constexpr (kTransposed) {
      transpose_words(words);
    }
    store_words(words, step + half * kTileSize);
  }
}

// Interleaves two rows of 32 numbers: returns the words of the first or the last 16 columns.
inline Words interleave(Words even, Words odd, int half) {
  const Words order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const Words next = _mm512_add_epi16(order, _mm512_set1_epi16(16));
  return _mm512_permutex2var_epi16(even, half == 0 ? order : next, odd);
}

// Packs one step, each tile from 32 rows of 16 numbers, interleaved in pairs of rows.
template <bool kTransposed>
inline void pack_pairs(const Part& part, bf16* step) {
  const Part below = part.at(kTileRows, 0);
  Words upper[16], lower[16];
  load_words(part.from, part.stride, part.num_rows, part.num_columns, upper);
  load_words(below.from, below.stride, below.num_rows, below.num_columns, lower);
  for (int half = 0; half < 2; ++half) {
    Words words[16];
    for (int pair = 0; pair < 8; ++pair) {
      words[pair] = interleave(upper[2 * pair], upper[2 * pair + 1], half);
      words[pair + 8] = interleave(lower[2 * pair], lower[2 * pair + 1], half);
    }
    if constexpr (kTransposed) {
      transpose_words(words);
    }
    store_words(words, step + half * kTileSize);
  }
}

// Pack a step of a left operand, whose 32 rows are the rows of the part, or its columns.
inline void pack_left(const Part& part, bf16* step) { pack_rows<false>(part, step); }
inline void pack_left_transposed(const Part& part, bf16* step) { pack_pairs<true>(part, step); }

// Pack a step of a right operand, whose inner dimension is the rows of the part, or its columns.
inline void pack_right(const Part& part, bf16* step) { pack_pairs<false>(part, step); }
inline void pack_right_transposed(const Part& part, bf16* step) { pack_rows<true>(part, step); }

// Rounds 32 numbers of a row to bfloat16.
inline Words narrow_row(Floats low, Floats high) { return (Words)_mm512_cvtne2ps_pbh(high, low); }
inline Words narrow_row(const float* row) { return narrow_row(load(row), load(row + kLanes)); }

}  // namespace bertfit
