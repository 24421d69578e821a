// 16 lanes in one register. With AVX-512-BF16, dot products of bf16 pairs are one instruction.
#pragma once

#include <immintrin.h>

namespace octavo::OCTAVO_ISA {

struct F32 {
  __m512 v;
};

inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 set1(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 sqrt(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
inline F32 round(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
inline F32 scale_by_power_of_two(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// a < b ? yes : no, lane by lane
inline F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
// Bit i ? yes : no, lane by lane
inline F32 select_bits(uint32_t bits, F32 yes, F32 no) { return {_mm512_mask_blend_ps((__mmask16)bits, no.v, yes.v)}; }
// Bit i tells whether a[i] >= b[i].
inline uint32_t mask_not_less(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }

inline F32 load_bf16(const bf16* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}

// A square of 16 rows of 16 words of 4 bytes, whose columns become the rows of `to`.
inline void transpose_16_words(const char* rows, int64_t row_bytes, char* to) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows + i * row_bytes);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {  // a[i + c] now has, in its quarter q, column 4 q + c of four rows
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
  for (int c = 0; c < 4; ++c) {
    const __m512i low[2] = {_mm512_shuffle_i32x4(a[c], a[4 + c], 0x44), _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee)};
    const __m512i high[2] = {_mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44),
                             _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee)};
    for (int half = 0; half < 2; ++half) {
      _mm512_storeu_si512(to + (8 * half + c) * 64, _mm512_shuffle_i32x4(low[half], high[half], 0x88));
      _mm512_storeu_si512(to + (8 * half + 4 + c) * 64, _mm512_shuffle_i32x4(low[half], high[half], 0xdd));
    }
  }
}

#ifdef __AVX512BF16__

inline void store_bf16(bf16* p, F32 x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x.v)); }
inline F32 dot_bf16(F32 sum, const bf16* a, const bf16* b) {
  int pair;
  memcpy(&pair, a, sizeof pair);
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_loadu_si512(b))};
}

#else

inline void store_bf16(bf16* p, F32 x) {  // round to nearest, ties to even; NaN stays NaN
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i result = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(result));
}
inline F32 dot_bf16(F32 sum, const bf16* a, const bf16* b) {
  const __m512i pairs = _mm512_loadu_si512(b);
  const uint32_t low = (uint32_t)a[0] << 16, high = (uint32_t)a[1] << 16;
  float a0, a1;
  memcpy(&a0, &low, 4);
  memcpy(&a1, &high, 4);
  const __m512 b0 = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  const __m512 b1 = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
  return {_mm512_fmadd_ps(_mm512_set1_ps(a1), b1, _mm512_fmadd_ps(_mm512_set1_ps(a0), b0, sum.v))};
}

#endif

// 16 lanes of integers, and of four bytes each.
struct I32 {
  __m512i v;
};
struct U8 {
  __m512i v;
};

inline I32 set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 times_eight(I32 x) { return {_mm512_slli_epi32(x.v, 3)}; }
inline F32 to_floats(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline I32 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline U8 load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline U8 low_nibbles(U8 x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
inline U8 high_nibbles(U8 x) { return {_mm512_and_si512(_mm512_srli_epi16(x.v, 4), _mm512_set1_epi8(15))}; }
// Bytes of a table of 16, which is there four times.
inline U8 look_up(U8 table, U8 nibbles) { return {_mm512_shuffle_epi8(table.v, nibbles.v)}; }
// The `bits` bits of each byte of x from bit `first` on, put above nibbles.
template <int bits, int first>
inline U8 above_nibbles(U8 nibbles, U8 x) {
  const __m512i moved =
      first > 4 ? _mm512_srli_epi16(x.v, first > 4 ? first - 4 : 0) : _mm512_slli_epi16(x.v, first > 4 ? 0 : 4 - first);
  return {_mm512_ternarylogic_epi32(nibbles.v, moved, _mm512_set1_epi8(((1 << bits) - 1) << 4), 0xf8)};
}
inline F32 load_halves(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_halves(uint16_t* p, F32 x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 to_floats(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline F32 to_floats(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
// To the nearest integers, ties to even; they must be between -127 and 127.
inline void store_rounded(int8_t* p, F32 x) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
// sum[i] += b[4i] * a[0] + … + b[4i + 3] * a[3]. Without VNNI, pairs are summed in 16 bits, which `small` b can't
// exceed: those below 128.
template <bool small>
inline I32 dot(I32 sum, U8 b, const int8_t* a) {
  int32_t four;
  memcpy(&four, a, sizeof four);
  const __m512i as = _mm512_set1_epi32(four);
#ifdef __AVX512VNNI__
  return {_mm512_dpbusd_epi32(sum.v, b.v, as)};
#else
  const __m512i ones = _mm512_set1_epi16(1);
  if (small) return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(_mm512_maddubs_epi16(b.v, as), ones))};
  const __m512i low = _mm512_madd_epi16(_mm512_maddubs_epi16(low_nibbles(b).v, as), ones);
  const __m512i high = _mm512_madd_epi16(_mm512_maddubs_epi16(high_nibbles(b).v, as), _mm512_set1_epi16(16));
  return {_mm512_add_epi32(sum.v, _mm512_add_epi32(low, high))};
#endif
}

constexpr int kRowsAtOnce = 8;  // of quantized activations
constexpr int kTileRows = 6;    // rows of a matmul's register tile …
constexpr int kTileBlocks = 4;  // … times blocks of 16 columns: 24 sums, 4 weights, the rest for broadcasts

}  // namespace octavo::OCTAVO_ISA
