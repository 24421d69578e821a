// From the codes of 16 rows of weights to bfloat16, [pairs of columns][row][2], a unit at a time.
#pragma once

#include "kernels/quantized_values.h"

namespace octavo::OCTAVO_ISA {

// Codes of four neighbouring columns are a word: the first and the third are decoded together, and the second and the
// fourth. So rows of activations are reordered; `order` is its own inverse.
constexpr int order(int column) { return column % 4 == 1 ? column + 1 : column % 4 == 2 ? column - 1 : column; }

// The values of codes in bfloat16, in the layout's own units. Those of 4 bits come twice: the fifth bit of an index may
// be anything.
template <QuantizedLayout L>
struct CodeTable {
  alignas(64) bf16 values[L.bits == 4 ? 32 : 256];

  CodeTable() {
    for (int i = 0; i < (L.bits == 4 ? 32 : 256); ++i)
      values[i] = to_bf16(value_of(L.codes, (uint8_t)(L.bits == 4 ? i & 15 : i)));
  }
};

#ifdef __AVX512BF16__

inline void put_pair(bf16* out, int pair, __m512i values) { _mm512_store_si512(out + pair * 2 * kLanes, values); }

inline void decode_nibbles(const uint8_t* p, const bf16* table, bf16* out) {
  const __m512i values = _mm512_loadu_si512(table);
  for (int i = 0; i < 4; ++i) {
    const __m512i x = _mm512_loadu_si512(p + 64 * i);
    put_pair(out, 2 * i, _mm512_permutexvar_epi16(x, values));
    put_pair(out, 2 * i + 1, _mm512_permutexvar_epi16(_mm512_srli_epi16(x, 8), values));
    put_pair(out, 2 * i + 8, _mm512_permutexvar_epi16(_mm512_srli_epi16(x, 4), values));
    put_pair(out, 2 * i + 9, _mm512_permutexvar_epi16(_mm512_srli_epi16(x, 12), values));
    __builtin_prefetch(p + 64 * i + kPrefetch);
  }
}

// Bytes in the upper halves of words: sign, exponent and fraction move to their places. Without an exponent there is no
// leading one, and values are looked up.
inline __m512i decode_e4m3(__m512i x, __m512i table) {
  const __m512i size = _mm512_srli_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0x7f00)), 4);
  const __mmask32 is_small = _mm512_testn_epi16_mask(x, _mm512_set1_epi16(0x7800));
  const __m512i normal = _mm512_add_epi16(size, _mm512_set1_epi16(120 << 7));
  const __m512i value = _mm512_mask_permutexvar_epi16(normal, is_small, _mm512_srli_epi16(x, 8), table);
  const __m512i sign = _mm512_set1_epi16((short)0x8000);
  return _mm512_or_si512(_mm512_andnot_si512(sign, value), _mm512_and_si512(x, sign));
}

inline void decode_floats(const uint8_t* p, const bf16* table, bf16* out) {
  const __m512i small = _mm512_loadu_si512(table);
  for (int i = 0; i < 8; ++i) {
    const __m512i x = _mm512_loadu_si512(p + 64 * i);
    put_pair(out, 2 * i, decode_e4m3(_mm512_slli_epi16(x, 8), small));
    put_pair(out, 2 * i + 1, decode_e4m3(x, small));
    __builtin_prefetch(p + 64 * i + kPrefetch);
  }
}

#endif

template <QuantizedLayout L>
inline void decode_unit(const uint8_t* p, const bf16* table, bf16* out) {
#ifdef __AVX512BF16__
  if constexpr (L.bits == 4)
    decode_nibbles(p, table, out);
  else
    decode_floats(p, table, out);
#else
  for (int row = 0; row < kLanes; ++row)
    for (int column = 0; column < kUnit; ++column) {
      const int at = order(column);
      out[at / 2 * 2 * kLanes + row * 2 + at % 2] = table[code_at<L>(p, row, column)];
    }
#endif
}

}  // namespace octavo::OCTAVO_ISA
