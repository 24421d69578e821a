// Reading blocks of stored formats, and making a Format of a function that takes one apart.

#pragma once

#include <bit>
#include <cstring>

#include "core/bf16.h"
#include "core/dequantize.h"

namespace octavo {

inline uint16_t u16_at(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline uint32_t u32_at(const uint8_t* p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// The bits of the float32 that is `factor` times a float16: exact for powers of two, which a float16 may be too small
// or too large for.
inline uint32_t wide_half(uint16_t half, float factor = 1) {
  return std::bit_cast<uint32_t>(half_to_float(half) * factor);
}

// Low nibbles of the bytes of so many values, then the high ones.
template <int count = 32>
void nibbles(const uint8_t* b, uint8_t* q) {
  for (int i = 0; i < count / 2; ++i) {
    q[i] = b[i] & 15;
    q[i + count / 2] = b[i] >> 4;
  }
}

// Elements and bytes of a block; bits, group and offset of q.
struct Shape {
  Scaling scaling;
  int block, bytes, bits, group, offset;
  Codes codes = Codes::kIntegers;
  bool wide = false;

  constexpr bool has_minimum() const { return scaling == Scaling::kMinimum || scaling == Scaling::kSubMinimum; }
  constexpr bool has_sub_scales() const { return scaling == Scaling::kSubScale || scaling == Scaling::kSubMinimum; }
};

template <void read(const uint8_t*, Quants&), Shape s>
void decode(const uint8_t* src, int64_t count, float* dst) {
  const auto number = [](uint32_t bits) {
    return s.wide ? std::bit_cast<float>(bits) : half_to_float(static_cast<uint16_t>(bits));
  };
  for (int64_t i = 0; i < count; i += s.block, src += s.bytes) {
    uint8_t q[s.block];
    Quants x{.q = q};
    read(src, x);
    for (int g = 0; g < s.block / s.group; ++g) {
      float scale = number(x.d[s.has_sub_scales() ? 0 : g]), minimum = 0;
      if (s.scaling == Scaling::kMinimum) minimum = number(x.m);
      if (s.scaling == Scaling::kSubScale) scale *= static_cast<int8_t>(x.scale[g]);
      if (s.scaling == Scaling::kSubMinimum) scale *= x.scale[g], minimum = -(number(x.m) * x.minimum[g]);
      for (int e = g * s.group; e < (g + 1) * s.group; ++e) {
        const float q = s.codes == Codes::kIntegers ? static_cast<float>(x.q[e] - s.offset) : value_of(s.codes, x.q[e]);
        dst[i + e] = s.has_minimum() ? scale * q + minimum : scale * q;
      }
    }
  }
}

template <void read(const uint8_t*, Quants&), Shape s>
constexpr Format quantized(const char* name) {
  return {name, s.block, s.bytes, decode<read, s>, s.scaling, s.bits, s.group, s.offset, read, s.wide, s.codes};
}

}  // namespace octavo
