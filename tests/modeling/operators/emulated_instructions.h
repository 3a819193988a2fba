// Instructions that the operators need and this processor may not have, done by others of AVX-512.
//
// Included before each of the operators' sources. With EMULATED_AMX they see a processor with AMX,
// without it one that has AVX512-BF16 alone, whatever this one has.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (VDPBF16PS,
// VCVTNEPS2BF16, VAESENC); Architecture Instruction Set Extensions Programming Reference, chapter 3
// (AMX).
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace emulated {

// The first and the second number of each pair.
inline __m512 even(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 odd(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
}

inline __m512 add_products(__m512 sums, __m512i a, __m512i b) {
  sums = _mm512_fmadd_ps(odd(a), odd(b), sums);
  return _mm512_fmadd_ps(even(a), even(b), sums);
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline __m256i narrow(__m512 values) {
  const __m512i words = _mm512_castps_si512(values);
  const __m512i is_odd = _mm512_and_si512(_mm512_srli_epi32(words, 16), _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(is_odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_add_epi32(words, half);
  const __m512i quiet = _mm512_or_si512(words, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(
      _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16));
}
inline __m512i narrow(__m512 high, __m512 low) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(low)), narrow(high), 1);
}

inline __m512i encrypt(__m512i states, __m512i keys) {
  alignas(64) __m128i state[4], key[4];
  _mm512_store_si512(state, states);
  _mm512_store_si512(key, keys);
  for (int lane = 0; lane < 4; ++lane) {
    state[lane] = _mm_aesenc_si128(state[lane], key[lane]);
  }
  return _mm512_load_si512(state);
}

}  // namespace emulated

#define _mm512_dpbf16_ps(sums, a, b) emulated::add_products(sums, (__m512i)(a), (__m512i)(b))
#define _mm512_cvtneps_pbh(values) emulated::narrow(values)
#define _mm512_cvtne2ps_pbh(high, low) emulated::narrow(high, low)
#define _mm512_aesenc_epi128(states, keys) emulated::encrypt(states, keys)
#undef __VAES__
#define __VAES__ 1
#undef __AMX_BF16__

#ifdef EMULATED_AMX
#define __AMX_BF16__ 1

namespace emulated {

// The tile registers of a thread. Those of a thread that has not configured them cannot be used.
struct Tiles {
  alignas(64) std::uint8_t numbers[8][16][64] = {};
  std::uint8_t config[64] = {};
};
inline thread_local Tiles tiles;

inline void check_config() {
  if (tiles.config[0] != 1) {
    __builtin_trap();
  }
}

inline void load(int tile, const void* from, std::int64_t stride) {
  check_config();
  for (int row = 0; row < 16; ++row) {
    std::memcpy(tiles.numbers[tile][row], static_cast<const char*>(from) + row * stride, 64);
  }
}

inline void store(int tile, void* to, std::int64_t stride) {
  check_config();
  for (int row = 0; row < 16; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, tiles.numbers[tile][row], 64);
  }
}

inline void multiply(int sums, int a, int b) {
  check_config();
  for (int row = 0; row < 16; ++row) {
    __m512 sum = _mm512_load_ps(tiles.numbers[sums][row]);
    for (int pair = 0; pair < 16; ++pair) {
      std::int32_t both;
      std::memcpy(&both, &tiles.numbers[a][row][4 * pair], 4);
      const __m512i right = _mm512_load_si512(tiles.numbers[b][pair]);
      sum = add_products(sum, _mm512_set1_epi32(both), right);
    }
    _mm512_store_ps(tiles.numbers[sums][row], sum);
  }
}

}  // namespace emulated

#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_storeconfig
#undef _tile_release
#define _tile_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stream_loadd(tile, from, stride) emulated::load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated::store(tile, to, stride)
#define _tile_zero(tile) std::memset(emulated::tiles.numbers[tile], 0, 1024)
#define _tile_dpbf16ps(sums, a, b) emulated::multiply(sums, a, b)
#define _tile_loadconfig(from) std::memcpy(emulated::tiles.config, from, 64)
#define _tile_storeconfig(to) std::memcpy(to, emulated::tiles.config, 64)
#define _tile_release() std::memset(emulated::tiles.config, 0, 64)
#define syscall(...) 0  // the kernel need not be asked for tiles
#endif
