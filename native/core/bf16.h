// bfloat16 and float16 as bits. Static on purpose: kernels are compiled per instruction set, and must not share a copy.
#pragma once

#include <stdint.h>
#include <string.h>

namespace octavo {

using bf16 = uint16_t;

static inline float to_float(float x) { return x; }

static inline float to_float(bf16 x) {
  const uint32_t bits = (uint32_t)x << 16;
  float r;
  memcpy(&r, &bits, 4);
  return r;
}

// Of a float16. Subnormals are scaled up by a multiplication that is exact; infinities and NaNs keep their payload.
static inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13, exponent = magnitude & 0x0f800000;
  uint32_t bits = magnitude + ((exponent == 0x0f800000 ? 255 - 31 : 127 - 15) << 23);
  if (exponent == 0) {
    const float subnormal = (float)(magnitude >> 13) * 0x1p-24f;
    memcpy(&bits, &subnormal, 4);
  }
  bits |= (uint32_t)(h & 0x8000) << 16;
  float r;
  memcpy(&r, &bits, 4);
  return r;
}

static inline bf16 to_bf16(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return (bf16)((bits | 0x400000) >> 16);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace octavo
