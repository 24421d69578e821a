// 16 lanes in an array: plain loops that any compiler turns into what the machine has.
#pragma once

#include <math.h>

namespace octavo::OCTAVO_ISA {

struct F32 {
  float v[kLanes];
};

template <class F>
inline F32 each_lane(F f) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}

inline F32 zero() { return {}; }
inline F32 set1(float x) {
  return each_lane([&](int) { return x; });
}
inline F32 load(const float* p) {
  return each_lane([&](int i) { return p[i]; });
}
inline void store(float* p, F32 x) { memcpy(p, x.v, sizeof x.v); }
inline F32 operator+(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32 operator-(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32 operator*(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32 operator/(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
inline F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
inline F32 max(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 min(F32 a, F32 b) {
  return each_lane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 sqrt(F32 a) {
  return each_lane([&](int i) { return sqrtf(a.v[i]); });
}
inline F32 round(F32 a) {
  return each_lane([&](int i) { return nearbyintf(a.v[i]); });
}
inline F32 scale_by_power_of_two(F32 a, F32 n) {
  return each_lane([&](int i) {
    const float power = n.v[i] > -127 ? n.v[i] : -127;  // also for -inf and NaN, which no integer holds
    const uint32_t bits = (uint32_t)((int32_t)power + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return a.v[i] * scale;
  });
}
inline F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  return each_lane([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}
inline F32 select_bits(uint32_t bits, F32 yes, F32 no) {
  return each_lane([&](int i) { return bits >> i & 1 ? yes.v[i] : no.v[i]; });
}
inline uint32_t mask_not_less(F32 a, F32 b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= (uint32_t)(a.v[i] >= b.v[i]) << i;
  return mask;
}

inline F32 load_bf16(const bf16* p) {
  return each_lane([&](int i) { return to_float(p[i]); });
}
// A square of 16 rows of 16 words of 4 bytes, whose columns become the rows of `to`.
inline void transpose_16_words(const char* rows, int64_t row_bytes, char* to) {
  for (int i = 0; i < 16; ++i)
    for (int t = 0; t < 16; ++t) memcpy(to + (i * 16 + t) * 4, rows + t * row_bytes + i * 4, 4);
}

inline void store_bf16(bf16* p, F32 x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_bf16(x.v[i]);
}
inline F32 dot_bf16(F32 sum, const bf16* a, const bf16* b) {
  const float a0 = to_float(a[0]), a1 = to_float(a[1]);
  return each_lane([&](int i) { return sum.v[i] + a0 * to_float(b[2 * i]) + a1 * to_float(b[2 * i + 1]); });
}

// 16 lanes of integers, and of four bytes each.
struct I32 {
  int32_t v[kLanes];
};
struct U8 {
  uint8_t v[4 * kLanes];
};

inline I32 set1_int(int32_t x) {
  I32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = x;
  return r;
}
inline I32 operator+(I32 a, I32 b) {
  for (int i = 0; i < kLanes; ++i) a.v[i] += b.v[i];
  return a;
}
inline I32 times_eight(I32 x) {
  for (int i = 0; i < kLanes; ++i) x.v[i] *= 8;
  return x;
}
inline F32 to_floats(I32 x) {
  return each_lane([&](int i) { return (float)x.v[i]; });
}
inline U8 load(const uint8_t* p) {
  U8 r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
inline U8 low_nibbles(U8 x) {
  for (int i = 0; i < 4 * kLanes; ++i) x.v[i] &= 15;
  return x;
}
inline U8 high_nibbles(U8 x) {
  for (int i = 0; i < 4 * kLanes; ++i) x.v[i] >>= 4;
  return x;
}
// Bytes of a table of 16, which is there four times.
inline U8 look_up(U8 table, U8 nibbles) {
  for (int i = 0; i < 4 * kLanes; ++i) nibbles.v[i] = table.v[nibbles.v[i]];
  return nibbles;
}
// The `bits` bits of each byte of x from bit `first` on, put above nibbles.
template <int bits, int first>
inline U8 above_nibbles(U8 nibbles, U8 x) {
  for (int i = 0; i < 4 * kLanes; ++i) nibbles.v[i] |= (x.v[i] >> first & ((1 << bits) - 1)) << 4;
  return nibbles;
}
inline F32 load_halves(const uint16_t* p) {
  return each_lane([&](int i) { return half_to_float(p[i]); });
}
inline void store_halves(uint16_t* p, F32 x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_half(x.v[i]);
}
inline F32 to_floats(const uint8_t* p) {
  return each_lane([&](int i) { return (float)p[i]; });
}
inline F32 to_floats(const int8_t* p) {
  return each_lane([&](int i) { return (float)p[i]; });
}
// To the nearest integers, ties to even; they must be between -127 and 127.
inline void store_rounded(int8_t* p, F32 x) {
  for (int i = 0; i < kLanes; ++i) p[i] = (int8_t)(x.v[i] == x.v[i] ? nearbyintf(x.v[i]) : 0);
}
// sum[i] += b[4i] * a[0] + … + b[4i + 3] * a[3]
template <bool small>
inline I32 dot(I32 sum, U8 b, const int8_t* a) {
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 4; ++k) sum.v[i] += b.v[4 * i + k] * a[k];
  return sum;
}

constexpr int kRowsAtOnce = 2;  // of quantized activations
constexpr int kTileRows = 2;
constexpr int kTileBlocks = 1;

}  // namespace octavo::OCTAVO_ISA
