// Source of the formats: the block structures of ggml (ggml-common.h) and its reference decoders (ggml-quants.c).

#include "core/dequantize.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "core/bf16.h"

namespace octavo {

namespace {

uint16_t u16_at(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

void f32(const uint8_t* src, int64_t count, float* dst) { std::memcpy(dst, src, size_t(count) * sizeof(float)); }

void f16(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = half_to_float(u16_at(src + 2 * i));
}

void bf16(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = to_float(u16_at(src + 2 * i));
}

// Low nibbles of 16 bytes, then the high ones.
void nibbles(const uint8_t* b, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = b[i] & 15;
    q[i + 16] = b[i] >> 4;
  }
}

// The fifth bits of elements 0 to 7 are the bits of high[0], and so on.
void fifth_bits(const uint8_t* high, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] |= (high[i / 8] >> (i % 8) & 1) << 4;
}

void q4_0(const uint8_t* b, Quants& out) {
  out.d = u16_at(b);
  nibbles(b + 2, out.q);
}

void q4_1(const uint8_t* b, Quants& out) {
  out.d = u16_at(b), out.m = u16_at(b + 2);
  nibbles(b + 4, out.q);
}

void q5_0(const uint8_t* b, Quants& out) {
  out.d = u16_at(b);
  nibbles(b + 6, out.q);
  fifth_bits(b + 2, out.q);
}

void q5_1(const uint8_t* b, Quants& out) {
  out.d = u16_at(b), out.m = u16_at(b + 2);
  nibbles(b + 8, out.q);
  fifth_bits(b + 4, out.q);
}

void q8_0(const uint8_t* b, Quants& out) {
  out.d = u16_at(b);
  for (int i = 0; i < 32; ++i) out.q[i] = b[2 + i] ^ 128;  // from signed to an offset of 128
}

// K-quants: 256 elements. Sub-block j has its own scale; fields of 2 bits lie in 32 bytes per 128 elements.

void q2_k(const uint8_t* b, Quants& out) {
  out.d = u16_at(b + 80), out.m = u16_at(b + 82);
  for (int j = 0; j < 16; ++j) {
    out.scale[j] = b[j] & 15;
    out.minimum[j] = b[j] >> 4;
  }
  for (int i = 0; i < 256; ++i) out.q[i] = b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

void q3_k(const uint8_t* b, Quants& out) {
  out.d = u16_at(b + 108);
  const uint8_t* s = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    out.scale[j] = static_cast<uint8_t>((low | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int low = b[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    out.q[i] = low | (b[i % 32] >> (i / 32) & 1) << 2;
  }
}

// Scales and minima of Q4_K and Q5_K: 6 bits each, the upper two of the last four lying with the first four.
void sub_scales(const uint8_t* b, Quants& out) {
  out.d = u16_at(b), out.m = u16_at(b + 2);
  const uint8_t* s = b + 4;
  for (int j = 0; j < 4; ++j) {
    out.scale[j] = s[j] & 63;
    out.minimum[j] = s[j + 4] & 63;
    out.scale[j + 4] = (s[j + 8] & 15) | s[j] >> 6 << 4;
    out.minimum[j + 4] = s[j + 8] >> 4 | s[j + 4] >> 6 << 4;
  }
}

void q4_k(const uint8_t* b, Quants& out) {
  sub_scales(b, out);
  for (int i = 0; i < 256; ++i) out.q[i] = b[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}

void q5_k(const uint8_t* b, Quants& out) {
  sub_scales(b, out);
  for (int i = 0; i < 256; ++i) {
    const int low = b[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
    out.q[i] = low | (b[16 + i % 32] >> (i / 32) & 1) << 4;
  }
}

void q6_k(const uint8_t* b, Quants& out) {
  out.d = u16_at(b + 208);
  std::memcpy(out.scale, b + 192, 16);
  for (int i = 0; i < 256; ++i) {
    const int low = b[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
    out.q[i] = low | (b[128 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << 4;
  }
}

template <void read(const uint8_t*, Quants&), Scaling scaling, int block, int bytes, int group, int offset>
void decode(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; i += block, src += bytes) {
    Quants x;
    read(src, x);
    const float d = half_to_float(x.d);
    for (int g = 0; g < block / group; ++g) {
      float scale = d, minimum = 0;
      if (scaling == Scaling::kMinimum) minimum = half_to_float(x.m);
      if (scaling == Scaling::kSubScale) scale *= static_cast<int8_t>(x.scale[g]);
      if (scaling == Scaling::kSubMinimum) scale *= x.scale[g], minimum = -(half_to_float(x.m) * x.minimum[g]);
      for (int e = g * group; e < (g + 1) * group; ++e) {
        const float value = scale * static_cast<float>(x.q[e] - offset);
        dst[i + e] = scaling == Scaling::kMinimum || scaling == Scaling::kSubMinimum ? value + minimum : value;
      }
    }
  }
}

template <void read(const uint8_t*, Quants&), Scaling scaling, int block, int bytes, int bits, int group, int offset>
constexpr Format quantized(const char* name) {
  return {name, block, bytes, decode<read, scaling, block, bytes, group, offset>, scaling, bits, group, offset, read};
}

constexpr Format kFormats[] = {
    {"F32", 1, 4, f32},
    {"F16", 1, 2, f16},
    {"BF16", 1, 2, bf16},
    // Their scaling; elements and bytes of a block; bits, group and offset of q.
    quantized<q4_0, Scaling::kScale, 32, 18, 4, 32, 8>("Q4_0"),
    quantized<q4_1, Scaling::kMinimum, 32, 20, 4, 32, 0>("Q4_1"),
    quantized<q5_0, Scaling::kScale, 32, 22, 5, 32, 16>("Q5_0"),
    quantized<q5_1, Scaling::kMinimum, 32, 24, 5, 32, 0>("Q5_1"),
    quantized<q8_0, Scaling::kScale, 32, 34, 8, 32, 128>("Q8_0"),
    quantized<q2_k, Scaling::kSubMinimum, 256, 84, 2, 16, 0>("Q2_K"),
    quantized<q3_k, Scaling::kSubScale, 256, 110, 3, 16, 4>("Q3_K"),
    quantized<q4_k, Scaling::kSubMinimum, 256, 144, 4, 32, 0>("Q4_K"),
    quantized<q5_k, Scaling::kSubMinimum, 256, 176, 5, 32, 0>("Q5_K"),
    quantized<q6_k, Scaling::kSubScale, 256, 210, 6, 16, 32>("Q6_K"),
};

}  // namespace

const Format& format_of(std::string_view name) {
  for (const Format& format : kFormats)
    if (name == format.name) return format;
  throw std::invalid_argument("unknown weight format '" + std::string(name) + "'");
}

}  // namespace octavo
