// 16 lanes in two registers.
#pragma once

#include <immintrin.h>

namespace octavo::OCTAVO_ISA {

struct F32 {
  __m256 lo, hi;
};

inline F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 sqrt(F32 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline F32 round(F32 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
inline __m256 scale_half(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
inline F32 scale_by_power_of_two(F32 a, F32 n) { return {scale_half(a.lo, n.lo), scale_half(a.hi, n.hi)}; }
inline F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline __m256 lanes_of(uint32_t bits) {  // all ones where a lane's bit is set
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}
inline F32 select_bits(uint32_t bits, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, lanes_of(bits)), _mm256_blendv_ps(no.hi, yes.hi, lanes_of(bits >> 8))};
}
inline uint32_t mask_not_less(F32 a, F32 b) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ)) |
         (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ)) << 8;
}

inline __m256i narrow(__m256 x) {  // round to nearest, ties to even; NaN stays NaN
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
// A square of 16 rows of 16 words of 4 bytes, whose columns become the rows of `to`.
inline void transpose_16_words(const char* rows, int64_t row_bytes, char* to) {
  for (int i = 0; i < 16; ++i)
    for (int t = 0; t < 16; ++t) memcpy(to + (i * 16 + t) * 4, rows + t * row_bytes + i * 4, 4);
}

inline void store_bf16(bf16* p, F32 x) {
  const __m256i packed = _mm256_packus_epi32(narrow(x.lo), narrow(x.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
inline __m256 load_bf16_half(const bf16* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F32 load_bf16(const bf16* p) { return {load_bf16_half(p), load_bf16_half(p + 8)}; }
inline __m256 dot_half(__m256 sum, __m256 a0, __m256 a1, __m256i pairs) {
  const __m256 b0 = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  const __m256 b1 = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
  return _mm256_fmadd_ps(a1, b1, _mm256_fmadd_ps(a0, b0, sum));
}
inline F32 dot_bf16(F32 sum, const bf16* a, const bf16* b) {
  const uint32_t low = (uint32_t)a[0] << 16, high = (uint32_t)a[1] << 16;
  float f0, f1;
  memcpy(&f0, &low, 4);
  memcpy(&f1, &high, 4);
  const __m256 a0 = _mm256_set1_ps(f0), a1 = _mm256_set1_ps(f1);
  return {dot_half(sum.lo, a0, a1, _mm256_loadu_si256((const __m256i*)b)),
          dot_half(sum.hi, a0, a1, _mm256_loadu_si256((const __m256i*)(b + 16)))};
}

// 16 lanes of integers, and of four bytes each.
struct I32 {
  __m256i lo, hi;
};
struct U8 {
  __m256i lo, hi;
};

inline __m256i load_integers(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline I32 set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I32 times_eight(I32 x) { return {_mm256_slli_epi32(x.lo, 3), _mm256_slli_epi32(x.hi, 3)}; }
inline F32 to_floats(I32 x) { return {_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
inline U8 load(const uint8_t* p) { return {load_integers(p), load_integers(p + 32)}; }
inline U8 low_nibbles(U8 x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.lo, mask), _mm256_and_si256(x.hi, mask)};
}
inline U8 high_nibbles(U8 x) { return low_nibbles({_mm256_srli_epi16(x.lo, 4), _mm256_srli_epi16(x.hi, 4)}); }
// Bytes of a table of 16, which is there four times.
inline U8 look_up(U8 table, U8 nibbles) {
  return {_mm256_shuffle_epi8(table.lo, nibbles.lo), _mm256_shuffle_epi8(table.hi, nibbles.hi)};
}
// The `bits` bits of each byte of x from bit `first` on, put above nibbles.
template <int bits, int first>
inline U8 above_nibbles(U8 nibbles, U8 x) {
  const auto above = [](__m256i nibbles, __m256i x) {
    const __m256i moved =
        first > 4 ? _mm256_srli_epi16(x, first > 4 ? first - 4 : 0) : _mm256_slli_epi16(x, first > 4 ? 0 : 4 - first);
    return _mm256_or_si256(nibbles, _mm256_and_si256(moved, _mm256_set1_epi8(((1 << bits) - 1) << 4)));
  };
  return {above(nibbles.lo, x.lo), above(nibbles.hi, x.hi)};
}
inline F32 load_halves(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_halves(uint16_t* p, F32 x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 to_floats(const uint8_t* p) {
  return to_floats(I32{_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
                       _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))});
}
inline F32 to_floats(const int8_t* p) {
  return to_floats(I32{_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
                       _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))});
}
// To the nearest integers, ties to even; they must be between -127 and 127.
inline void store_rounded(int8_t* p, F32 x) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  _mm_storeu_si128((__m128i*)p,
                   _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
}
template <bool small>
inline __m256i dot_half(__m256i sum, __m256i b, __m256i as) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(sum, b, as);
#else
  const __m256i ones = _mm256_set1_epi16(1), nibble = _mm256_set1_epi8(15);
  if (small) return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(b, as), ones));
  const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(b, nibble), as), ones);
  const __m256i above = _mm256_and_si256(_mm256_srli_epi16(b, 4), nibble);
  const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(above, as), _mm256_set1_epi16(16));
  return _mm256_add_epi32(sum, _mm256_add_epi32(low, high));
#endif
}
// sum[i] += b[4i] * a[0] + … + b[4i + 3] * a[3]. Without VNNI, pairs are summed in 16 bits, which `small` b can't
// exceed: those below 128.
template <bool small>
inline I32 dot(I32 sum, U8 b, const int8_t* a) {
  int32_t four;
  memcpy(&four, a, sizeof four);
  const __m256i as = _mm256_set1_epi32(four);
  return {dot_half<small>(sum.lo, b.lo, as), dot_half<small>(sum.hi, b.hi, as)};
}

constexpr int kRowsAtOnce = 4;  // of quantized activations
constexpr int kTileRows = 3;
constexpr int kTileBlocks = 2;

}  // namespace octavo::OCTAVO_ISA
