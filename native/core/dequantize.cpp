// Source of the layouts: the block structures of ggml (ggml-common.h) and its reference decoders
// (ggml-quants.c).

#include "core/dequantize.h"

#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace octavo {
namespace {

uint16_t load_u16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// float16 to float by bits. Subnormals are scaled up by a multiplication that is exact.
float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const uint32_t magnitude = uint32_t(h & 0x7fff) << 13;
  const uint32_t exponent = magnitude & 0x0f800000;
  const uint32_t normal = magnitude + ((127 - 15) << 23);
  const uint32_t special = magnitude + ((255 - 31) << 23);  // infinities and NaNs keep their payload
  const uint32_t subnormal = std::bit_cast<uint32_t>(float(magnitude >> 13) * 0x1p-24f);
  const uint32_t bits = exponent == 0x0f800000 ? special : exponent == 0 ? subnormal : normal;
  return std::bit_cast<float>(sign | bits);
}

float half_at(const uint8_t* p) { return half_to_float(load_u16(p)); }

void f32(const uint8_t* src, int64_t count, float* dst) { std::memcpy(dst, src, size_t(count) * sizeof(float)); }

void f16(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = half_at(src + 2 * i);
}

void bf16(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = std::bit_cast<float>(uint32_t(load_u16(src + 2 * i)) << 16);
}

void q4_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float((b[2 + i] & 15) - 8);
    y[i + 16] = d * float((b[2 + i] >> 4) - 8);
  }
}

void q4_1(const uint8_t* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(b[4 + i] & 15) + m;
    y[i + 16] = d * float(b[4 + i] >> 4) + m;
  }
}

// The fifth bits of elements 0 to 7 are the bits of high[0], and so on.
int fifth_bit(const uint8_t* high, int i) { return (high[i / 8] >> (i % 8) & 1) << 4; }

void q5_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(((b[6 + i] & 15) | fifth_bit(b + 2, i)) - 16);
    y[i + 16] = d * float((b[6 + i] >> 4 | fifth_bit(b + 2, i + 16)) - 16);
  }
}

void q5_1(const uint8_t* b, float* y) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float((b[8 + i] & 15) | fifth_bit(b + 4, i)) + m;
    y[i + 16] = d * float(b[8 + i] >> 4 | fifth_bit(b + 4, i + 16)) + m;
  }
}

void q8_0(const uint8_t* b, float* y) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) y[i] = d * float(int8_t(b[2 + i]));
}

// K-quants: 256 elements. Sub-block j has its own scale; fields of 2 bits lie in 32 bytes per 128 elements.

void q2_k(const uint8_t* b, float* y) {
  const float d = half_at(b + 80), m = half_at(b + 82);
  for (int j = 0; j < 16; ++j) {
    const uint8_t* q = b + 16 + j / 8 * 32 + j % 2 * 16;
    const int shift = j % 8 / 2 * 2;
    const float scale = d * float(b[j] & 15), minimum = m * float(b[j] >> 4);
    for (int i = 0; i < 16; ++i) y[16 * j + i] = scale * float(q[i] >> shift & 3) - minimum;
  }
}

void q3_k(const uint8_t* b, float* y) {
  const float d = half_at(b + 108);
  const uint8_t* s = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    const int high = s[8 + j % 4] >> (j / 4 * 2) & 3;
    const float scale = d * float((low | high << 4) - 32);
    const uint8_t* third = b + j % 2 * 16;
    const uint8_t* q = b + 32 + j / 8 * 32 + j % 2 * 16;
    const int shift = j % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      y[16 * j + i] = scale * float(((q[i] >> shift & 3) | (third[i] >> (j / 2) & 1) << 2) - 4);
    }
  }
}

struct ScaleAndMinimum {
  float scale, minimum;
};

// Sub-block j of a Q4_K or Q5_K block: 6 bits each, the upper two of the last four lying with the first four.
ScaleAndMinimum scale_and_minimum(const uint8_t* b, int j) {
  const float d = half_at(b), m = half_at(b + 2);
  const uint8_t* s = b + 4;
  if (j < 4) return {d * float(s[j] & 63), m * float(s[j + 4] & 63)};
  return {d * float((s[j + 4] & 15) | s[j - 4] >> 6 << 4), m * float(s[j + 4] >> 4 | s[j] >> 6 << 4)};
}

void q4_k(const uint8_t* b, float* y) {
  for (int j = 0; j < 8; ++j) {
    const auto [scale, minimum] = scale_and_minimum(b, j);
    const uint8_t* q = b + 16 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) y[32 * j + i] = scale * float(q[i] >> shift & 15) - minimum;
  }
}

void q5_k(const uint8_t* b, float* y) {
  for (int j = 0; j < 8; ++j) {
    const auto [scale, minimum] = scale_and_minimum(b, j);
    const uint8_t* fifth = b + 16;
    const uint8_t* q = b + 48 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      y[32 * j + i] = scale * float((q[i] >> shift & 15) | (fifth[i] >> j & 1) << 4) - minimum;
    }
  }
}

void q6_k(const uint8_t* b, float* y) {
  const float d = half_at(b + 208);
  for (int j = 0; j < 16; ++j) {
    const float scale = d * float(int8_t(b[192 + j]));
    const uint8_t* low = b + j / 8 * 64 + j % 4 * 16;  // 64 bytes: the low nibbles first, then the high ones
    const uint8_t* high = b + 128 + j / 8 * 32 + j % 2 * 16;
    const int low_shift = j % 8 / 4 * 4, high_shift = j % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      y[16 * j + i] = scale * float(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    }
  }
}

template <void decode(const uint8_t*, float*), int block, int bytes>
void blocks(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count / block; ++i) decode(src + i * bytes, dst + i * block);
}

template <void decode(const uint8_t*, float*), int block, int bytes>
constexpr Format blocks_of(const char* name) {
  return {name, block, bytes, blocks<decode, block, bytes>};
}

constexpr Format kFormats[] = {
    {"F32", 1, 4, f32},
    {"F16", 1, 2, f16},
    {"BF16", 1, 2, bf16},
    blocks_of<q4_0, 32, 18>("Q4_0"),
    blocks_of<q4_1, 32, 20>("Q4_1"),
    blocks_of<q5_0, 32, 22>("Q5_0"),
    blocks_of<q5_1, 32, 24>("Q5_1"),
    blocks_of<q8_0, 32, 34>("Q8_0"),
    blocks_of<q2_k, 256, 84>("Q2_K"),
    blocks_of<q3_k, 256, 110>("Q3_K"),
    blocks_of<q4_k, 256, 144>("Q4_K"),
    blocks_of<q5_k, 256, 176>("Q5_K"),
    blocks_of<q6_k, 256, 210>("Q6_K"),
};

}  // namespace

const Format& format_of(std::string_view name) {
  for (const Format& format : kFormats)
    if (name == format.name) return format;
  throw std::invalid_argument("unknown weight format '" + std::string(name) + "'");
}

}  // namespace octavo
