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

// The nearest float16, ties to even. Scaling by a power of two makes subnormals of those that have too few bits.
static inline uint16_t to_half(float x) {
  uint32_t bits, sign;
  memcpy(&bits, &x, 4);
  sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);   // NaN
  if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to infinity
  if (bits < 0x38800000) {                                   // below 2^-14
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;  // the last bit of float32 is worth 2^-24 there, as that of a subnormal float16
    memcpy(&bits, &magnitude, 4);
    return (uint16_t)(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return (uint16_t)(sign | ((bits - 0x38000000) >> 13));
}

static inline bf16 to_bf16(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return (bf16)((bits | 0x400000) >> 16);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace octavo
