// Source of the formats: the block structures of ggml (ggml-common.h) and its reference decoders (ggml-quants.c).

#include "core/dequantize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>

#include "core/blocks.h"
#include "core/dequantize_iq.h"

namespace octavo {

namespace {

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

// The fifth bits of elements 0 to 7 are the bits of high[0], and so on.
void fifth_bits(const uint8_t* high, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] |= (high[i / 8] >> (i % 8) & 1) << 4;
}

void q4_0(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b);
  nibbles(b + 2, out.q);
}

void q4_1(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b), out.m = u16_at(b + 2);
  nibbles(b + 4, out.q);
}

void q5_0(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b);
  nibbles(b + 6, out.q);
  fifth_bits(b + 2, out.q);
}

void q5_1(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b), out.m = u16_at(b + 2);
  nibbles(b + 8, out.q);
  fifth_bits(b + 4, out.q);
}

void q8_0(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b);
  for (int i = 0; i < 32; ++i) out.q[i] = b[2 + i] ^ 128;  // from signed to an offset of 128
}

// K-quants: 256 elements, 32 of which, in a row, lie in the same bits of 32 bytes. Sub-block j has its own scale.

void put_field(const uint8_t* b, int shift, int mask, int to, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] |= (b[i] >> shift & mask) << to;
}

// Fields of 2 bits of 32 bytes for each 128 elements.
void pairs_of_bits(const uint8_t* b, uint8_t* q) {
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 32; ++i) q[32 * j + i] = b[j / 4 * 32 + i] >> (j % 4 * 2) & 3;
}

void q2_k(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b + 80), out.m = u16_at(b + 82);
  for (int j = 0; j < 16; ++j) {
    out.scale[j] = b[j] & 15;
    out.minimum[j] = b[j] >> 4;
  }
  pairs_of_bits(b + 16, out.q);
}

void q3_k(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b + 108);
  const uint8_t* s = b + 96;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
    out.scale[j] = static_cast<uint8_t>((low | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32);
  }
  pairs_of_bits(b + 32, out.q);
  for (int j = 0; j < 8; ++j) put_field(b, j, 1, 2, out.q + 32 * j);
}

// Scales and minima of Q4_K and Q5_K: 6 bits each, the upper two of the last four lying with the first four.
void sub_scales(const uint8_t* b, Quants& out) {
  out.d[0] = u16_at(b), out.m = u16_at(b + 2);
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
  for (int j = 0; j < 4; ++j) nibbles<64>(b + 16 + 32 * j, out.q + 64 * j);
}

void q5_k(const uint8_t* b, Quants& out) {
  sub_scales(b, out);
  for (int j = 0; j < 4; ++j) nibbles<64>(b + 48 + 32 * j, out.q + 64 * j);
  for (int j = 0; j < 8; ++j) put_field(b + 16, j, 1, 4, out.q + 32 * j);
}

void q6_k(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b + 208));
  std::memcpy(out.scale, b + 192, 16);
  for (int j = 0; j < 2; ++j) nibbles<128>(b + 64 * j, out.q + 128 * j);
  for (int j = 0; j < 8; ++j) put_field(b + 128 + j / 4 * 32, j % 4 * 2, 3, 4, out.q + 32 * j);
}

// Ternary formats, whose 256 values have one scale.

void tq1_0(const uint8_t* b, Quants& out) {
  std::fill_n(out.d, 8, u16_at(b + 52));
  // A byte is a fraction of 256, of whose digits in base 3 the first four or five are values; those of `width`
  // neighbouring bytes come together.
  const auto put = [&](const uint8_t* bytes, int width, int digits, uint8_t* q) {
    for (int i = 0; i < width; ++i) {
      uint8_t fraction = bytes[i];
      for (int digit = 0; digit < digits; ++digit, fraction *= 3) q[digit * width + i] = fraction * 3 >> 8;
    }
  };
  put(b, 32, 5, out.q);
  put(b + 32, 16, 5, out.q + 160);
  put(b + 48, 4, 4, out.q + 240);
}

void tq2_0(const uint8_t* b, Quants& out) {
  std::fill_n(out.d, 8, u16_at(b + 64));
  pairs_of_bits(b, out.q);
}

// E2M1, as doubled integers: half of a scale is never infinite.

void mxfp4(const uint8_t* b, Quants& out) {
  out.d[0] = std::bit_cast<uint32_t>(std::ldexp(1.0f, b[0] - 128));
  nibbles(b + 1, out.q);
}

// Of an 8-bit float without its sign, as if it were a number always.
float e4m3_size(uint8_t code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  return exponent ? std::ldexp(1 + fraction / 8.0f, exponent - 7) : fraction / 512.0f;
}

void nvfp4(const uint8_t* b, Quants& out) {
  for (int g = 0; g < 4; ++g) {
    out.d[g] = std::bit_cast<uint32_t>(b[g] == 127 ? 0 : e4m3_size(b[g]) / 2);
    nibbles<16>(b + 4 + 8 * g, out.q + 16 * g);
  }
}

// What checkpoints with scales apart are rearranged to: a group, with its scale and its minimum in float32.
template <int bits, int group, bool has_minimum>
void grouped(const uint8_t* b, Quants& out) {
  out.d[0] = u32_at(b);
  if (has_minimum) out.m = u32_at(b + 4);
  b += has_minimum ? 8 : 4;
  if (bits == 4)
    nibbles<group>(b, out.q);
  else
    std::memcpy(out.q, b, group);
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

template <int group>
void halved(const uint8_t* b, Quants& out) {
  grouped<4, group, false>(b, out);
  out.d[0] = std::bit_cast<uint32_t>(std::bit_cast<float>(out.d[0]) / 2);
}

template <int group>
constexpr Format e2m1(const char* name) {
  return quantized<halved<group>, Shape{Scaling::kScale, group, 4 + group / 2, 4, group, 0, Codes::kDoubledE2m1, true}>(
      name);
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
    quantized<q6_k, Shape{Scaling::kSubScale, 256, 210, 6, 16, 32, Codes::kIntegers, true}>("Q6_K"),
    quantized<tq1_0, Shape{Scaling::kScale, 256, 54, 2, 32, 1}>("TQ1_0"),
    quantized<tq2_0, Shape{Scaling::kScale, 256, 66, 2, 32, 1}>("TQ2_0"),
    quantized<mxfp4, Shape{Scaling::kScale, 32, 17, 4, 32, 0, Codes::kDoubledE2m1, true}>("MXFP4"),
    quantized<nvfp4, Shape{Scaling::kScale, 64, 36, 4, 16, 0, Codes::kDoubledE2m1, true}>("NVFP4"),
    affine<4, 32>("U4_G32"),
    affine<4, 64>("U4_G64"),
    affine<4, 128>("U4_G128"),
    affine<8, 32>("U8_G32"),
    affine<8, 64>("U8_G64"),
    affine<8, 128>("U8_G128"),
    coded<Codes::kE4m3, 32>("E4M3_G32"),
    coded<Codes::kE4m3, 64>("E4M3_G64"),
    coded<Codes::kE4m3, 128>("E4M3_G128"),
    e2m1<16>("E2M1_G16"),
    e2m1<32>("E2M1_G32"),
    coded<Codes::kNf4, 64>("NF4_G64"),
    coded<Codes::kFp4, 64>("FP4_G64"),
};

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

const int8_t* integers_of(Codes codes) {
  static constexpr int8_t kIq1[16] = {-7, 1, 9, 0, -9, -1, 7}, kIq2[16] = {8, 25, 43, 0, -8, -25, -43},
                          kIq3Xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62},
                          kOdd[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15},
                          kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
                          kDoubledE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  switch (codes) {
    case Codes::kIq1:
      return kIq1;
    case Codes::kIq2:
      return kIq2;
    case Codes::kIq3Xxs:
      return kIq3Xxs;
    case Codes::kOdd:
      return kOdd;
    case Codes::kIq4:
      return kIq4;
    case Codes::kDoubledE2m1:
      return kDoubledE2m1;
    default:
      return nullptr;
  }
}

float value_of(Codes codes, uint8_t q) {
  const auto with_sign = [](bool negative, float x) { return negative ? -x : x; };
  switch (codes) {
    case Codes::kFp4:
      return with_sign(q & 8, kFp4[q & 7]);
    case Codes::kNf4:
      return kNf4[q & 15];
    case Codes::kE4m3:
      return with_sign(q & 128, (q & 127) == 127 ? std::numeric_limits<float>::quiet_NaN() : e4m3_size(q));
    default:
      const int8_t* integers = integers_of(codes);
      return integers ? integers[q & 15] : q;
  }
}

const Format& format_of(std::string_view name) {
  for (const auto formats : {std::span<const Format>(kFormats), iq_formats()})
    for (const Format& format : formats)
      if (name == format.name) return format;
  throw std::invalid_argument("unknown weight format '" + std::string(name) + "'");
}

}  // namespace octavo
