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
// Bit i tells whether a[i] >= b[i].
inline uint32_t mask_not_less(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }

#ifdef OCTAVO_ISA_avx512bf16

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

constexpr int kTileRows = 6;    // rows of a matmul's register tile …
constexpr int kTileBlocks = 4;  // … times blocks of 16 columns: 24 sums, 4 weights, the rest for broadcasts

}  // namespace octavo::OCTAVO_ISA
