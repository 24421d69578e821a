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
inline uint32_t mask_not_less(F32 a, F32 b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= (uint32_t)(a.v[i] >= b.v[i]) << i;
  return mask;
}

inline void store_bf16(bf16* p, F32 x) {
  for (int i = 0; i < kLanes; ++i) p[i] = to_bf16(x.v[i]);
}
inline F32 dot_bf16(F32 sum, const bf16* a, const bf16* b) {
  const float a0 = to_float(a[0]), a1 = to_float(a[1]);
  return each_lane([&](int i) { return sum.v[i] + a0 * to_float(b[2 * i]) + a1 * to_float(b[2 * i + 1]); });
}

constexpr int kTileRows = 2;
constexpr int kTileBlocks = 1;

}  // namespace octavo::OCTAVO_ISA
