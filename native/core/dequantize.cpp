// Source of the formats: the block structures of ggml (ggml-common.h) and its reference decoders (ggml-quants.c).

#include "core/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
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

uint32_t u32_at(const uint8_t* p) {
  uint32_t value;
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

void i8(const uint8_t* src, int64_t count, float* dst) {
  for (int64_t i = 0; i < count; ++i) dst[i] = static_cast<int8_t>(src[i]);
}

// Low nibbles of the bytes of so many values, then the high ones.
template <int count = 32>
void nibbles(const uint8_t* b, uint8_t* q) {
  for (int i = 0; i < count / 2; ++i) {
    q[i] = b[i] & 15;
    q[i + count / 2] = b[i] >> 4;
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

// What checkpoints with scales apart are rearranged to: a group, with its scale and its minimum in float32.
template <int bits, int group, bool has_minimum>
void grouped(const uint8_t* b, Quants& out) {
  out.d = u32_at(b);
  if (has_minimum) out.m = u32_at(b + 4);
  b += has_minimum ? 8 : 4;
  if (bits == 4)
    nibbles<group>(b, out.q);
  else
    std::memcpy(out.q, b, group);
}

// Elements and bytes of a block; bits, group and offset of q.
struct Shape {
  Scaling scaling;
  int block, bytes, bits, group, offset;
  Codes codes = Codes::kIntegers;
  bool wide = false;

  constexpr bool has_minimum() const { return scaling == Scaling::kMinimum || scaling == Scaling::kSubMinimum; }
};

template <void read(const uint8_t*, Quants&), Shape s>
void decode(const uint8_t* src, int64_t count, float* dst) {
  const auto number = [](uint32_t bits) {
    return s.wide ? std::bit_cast<float>(bits) : half_to_float(static_cast<uint16_t>(bits));
  };
  for (int64_t i = 0; i < count; i += s.block, src += s.bytes) {
    Quants x;
    read(src, x);
    for (int g = 0; g < s.block / s.group; ++g) {
      float scale = number(x.d), minimum = 0;
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

template <int bits, int group>
constexpr Format affine(const char* name) {
  constexpr int kBytes = 8 + group * bits / 8;
  return quantized<grouped<bits, group, true>,
                   Shape{Scaling::kMinimum, group, kBytes, bits, group, 0, Codes::kIntegers, true}>(name);
}

template <Codes codes, int group>
constexpr Format coded(const char* name) {
  constexpr int kBits = codes == Codes::kE4m3 ? 8 : 4;
  return quantized<grouped<kBits, group, false>,
                   Shape{Scaling::kScale, group, 4 + group * kBits / 8, kBits, group, 0, codes, true}>(name);
}

constexpr Format kFormats[] = {
    {"F32", 1, 4, f32},
    {"F16", 1, 2, f16},
    {"BF16", 1, 2, bf16},
    {"I8", 1, 1, i8, Scaling::kChannel, 8},
    quantized<q4_0, Shape{Scaling::kScale, 32, 18, 4, 32, 8}>("Q4_0"),
    quantized<q4_1, Shape{Scaling::kMinimum, 32, 20, 4, 32, 0}>("Q4_1"),
    quantized<q5_0, Shape{Scaling::kScale, 32, 22, 5, 32, 16}>("Q5_0"),
    quantized<q5_1, Shape{Scaling::kMinimum, 32, 24, 5, 32, 0}>("Q5_1"),
    quantized<q8_0, Shape{Scaling::kScale, 32, 34, 8, 32, 128}>("Q8_0"),
    quantized<q2_k, Shape{Scaling::kSubMinimum, 256, 84, 2, 16, 0}>("Q2_K"),
    quantized<q3_k, Shape{Scaling::kSubScale, 256, 110, 3, 16, 4}>("Q3_K"),
    quantized<q4_k, Shape{Scaling::kSubMinimum, 256, 144, 4, 32, 0}>("Q4_K"),
    quantized<q5_k, Shape{Scaling::kSubMinimum, 256, 176, 5, 32, 0}>("Q5_K"),
    quantized<q6_k, Shape{Scaling::kSubScale, 256, 210, 6, 16, 32}>("Q6_K"),
    affine<4, 32>("U4_G32"),
    affine<4, 64>("U4_G64"),
    affine<4, 128>("U4_G128"),
    affine<8, 32>("U8_G32"),
    affine<8, 64>("U8_G64"),
    affine<8, 128>("U8_G128"),
    coded<Codes::kE4m3, 32>("E4M3_G32"),
    coded<Codes::kE4m3, 64>("E4M3_G64"),
    coded<Codes::kE4m3, 128>("E4M3_G128"),
    coded<Codes::kE2m1, 16>("E2M1_G16"),
    coded<Codes::kE2m1, 32>("E2M1_G32"),
    coded<Codes::kNf4, 64>("NF4_G64"),
    coded<Codes::kFp4, 64>("FP4_G64"),
};

constexpr float kE2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
constexpr float kFp4[8] = {0, 1.0f / 192, 2.0f / 3, 1, 1.0f / 3, 0.5f, 1.0f / 6, 0.25f};
constexpr float kNf4[16] = {
    -1,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1,
};

}  // namespace

float value_of(Codes codes, uint8_t q) {
  const auto with_sign = [](bool negative, float x) { return negative ? -x : x; };
  switch (codes) {
    case Codes::kE2m1:
      return with_sign(q & 8, kE2m1[q & 7]);
    case Codes::kFp4:
      return with_sign(q & 8, kFp4[q & 7]);
    case Codes::kNf4:
      return kNf4[q & 15];
    case Codes::kE4m3: {
      const int exponent = q >> 3 & 15, fraction = q & 7;
      if ((q & 127) == 127) return with_sign(q & 128, std::numeric_limits<float>::quiet_NaN());
      return with_sign(q & 128, exponent ? std::ldexp(1 + fraction / 8.0f, exponent - 7) : fraction / 512.0f);
    }
    default:
      return q;
  }
}

uint8_t to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), size = bits & 0x7fffffff;
  const uint32_t rounded = (size + 0x7ffff + (size >> 20 & 1)) >> 20;  // three bits of the fraction are left
  const bool is_small = std::fabs(x) < 1.0f / 64;                      // those have no exponent
  const uint32_t code = is_small ? static_cast<uint32_t>(std::nearbyint(std::fabs(x) * 512)) : rounded - (120 << 3);
  return static_cast<uint8_t>(code | bits >> 31 << 7);
}

const Format& format_of(std::string_view name) {
  for (const Format& format : kFormats)
    if (name == format.name) return format;
  throw std::invalid_argument("unknown weight format '" + std::string(name) + "'");
}

}  // namespace octavo
