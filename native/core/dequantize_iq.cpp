// Source of the formats: the block structures of ggml (ggml-common.h) and its reference decoders (ggml-quants.c). Where
// they multiply with fractions, d is divided instead, so that scales and values are integers.

#include "core/dequantize_iq.h"

#include "core/blocks.h"
#include "core/grids.h"

namespace octavo {

namespace {

// The codes of point `i`: its digits, below as many bits as they need, and a sign for each.
template <int bits>
void put_signed(const Grid& grid, int i, uint8_t signs, uint8_t* q) {
  for (int e = 0; e < grid.width; ++e) q[e] = grid.digits[i * grid.width + e] | (signs >> e & 1) << bits;
}

// Seven signs, and an eighth that makes the number of minuses even.
uint8_t even_signs(uint32_t bits) {
  const uint8_t seven = bits & 127;
  return static_cast<uint8_t>(seven | (std::popcount(seven) & 1) << 7);
}

// Scales are odd numbers.
int odd(uint32_t x) { return static_cast<int>(2 * x + 1); }

// 16 scales of 4 bits, two of a byte.
void odd_nibbles(const uint8_t* b, int count, Quants& out) {
  for (int g = 0; g < count; ++g) out.scale[g] = odd(b[g / 2] >> (g % 2 * 4) & 15);
}

void iq2_xxs(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b), 1.0f / 8);
  for (int g = 0; g < 8; ++g) {
    const uint8_t* points = b + 2 + 8 * g;
    const uint32_t rest = u32_at(points + 4);
    out.scale[g] = odd(rest >> 28);
    for (int i = 0; i < 4; ++i)
      put_signed<2>(kIq2XxsGrid, points[i], even_signs(rest >> 7 * i), out.q + 32 * g + 8 * i);
  }
}

void iq2_xs(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b), 1.0f / 8);
  odd_nibbles(b + 66, 16, out);
  for (int i = 0; i < 32; ++i) {
    const uint16_t word = u16_at(b + 2 + 2 * i);
    put_signed<2>(kIq2XsGrid, word & 511, even_signs(word >> 9), out.q + 8 * i);
  }
}

void iq2_s(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b), 1.0f / 8);
  odd_nibbles(b + 74, 16, out);
  for (int i = 0; i < 32; ++i) {
    const int high = b[66 + i / 4] >> (i % 4 * 2) & 3;
    put_signed<2>(kIq2SGrid, b[2 + i] | high << 8, b[34 + i], out.q + 8 * i);
  }
}

void iq3_xxs(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b), 1.0f / 4);
  for (int g = 0; g < 8; ++g) {
    const uint32_t rest = u32_at(b + 66 + 4 * g);
    out.scale[g] = odd(rest >> 28);
    for (int i = 0; i < 8; ++i) {
      const uint8_t signs = even_signs(rest >> i / 2 * 7) >> i % 2 * 4;
      put_signed<3>(kIq3XxsGrid, b[2 + 8 * g + i], signs, out.q + 32 * g + 4 * i);
    }
  }
}

void iq3_s(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b));
  odd_nibbles(b + 106, 8, out);
  for (int i = 0; i < 64; ++i) {
    const int high = b[66 + i / 8] >> (i % 8) & 1;
    put_signed<3>(kIq3SGrid, b[2 + i] | high << 8, b[74 + i / 2] >> i % 2 * 4, out.q + 4 * i);
  }
}

// Points of IQ1 are moved by an eighth of their scale, all up or all down.

void iq1_s(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b), 1.0f / 8);
  for (int i = 0; i < 32; ++i) {
    const uint16_t high = u16_at(b + 34 + i / 4 * 2);
    out.scale[i / 4] = odd(high >> 12 & 7);
    put_signed<2>(kIq1Grid, b[2 + i] | (high >> i % 4 * 3 & 7) << 8, high >> 15 ? 255 : 0, out.q + 8 * i);
  }
}

void iq1_m(const uint8_t* b, Quants& out) {
  uint16_t d = 0;  // its nibbles lie with the scales
  for (int i = 0; i < 4; ++i) d |= u16_at(b + 48 + 2 * i) >> 12 << 4 * i;
  out.d[0] = wide_half(d, 1.0f / 8);
  for (int g = 0; g < 16; ++g) out.scale[g] = odd(u16_at(b + 48 + g / 4 * 2) >> g % 4 * 3 & 7);
  for (int i = 0; i < 32; ++i) {
    const int high = b[32 + i / 2] >> i % 2 * 4;
    put_signed<2>(kIq1Grid, b[i] | (high & 7) << 8, high & 8 ? 255 : 0, out.q + 8 * i);
  }
}

void iq4_nl(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b));
  nibbles(b + 2, out.q);
}

void iq4_xs(const uint8_t* b, Quants& out) {
  out.d[0] = wide_half(u16_at(b));
  const uint16_t high = u16_at(b + 2);
  for (int g = 0; g < 8; ++g) {
    const int low = b[4 + g / 2] >> g % 2 * 4 & 15;
    out.scale[g] = static_cast<uint8_t>((low | (high >> 2 * g & 3) << 4) - 32);
    nibbles(b + 8 + 16 * g, out.q + 32 * g);
  }
}

constexpr Shape by(int group, int bytes, Codes codes) {
  return {Scaling::kSubScale, 256, bytes, 4, group, 0, codes, true};
}

constexpr Format kFormats[] = {
    quantized<iq1_s, by(32, 50, Codes::kIq1)>("IQ1_S"),
    quantized<iq1_m, by(16, 56, Codes::kIq1)>("IQ1_M"),
    quantized<iq2_xxs, by(32, 66, Codes::kIq2)>("IQ2_XXS"),
    quantized<iq2_xs, by(16, 74, Codes::kIq2)>("IQ2_XS"),
    quantized<iq2_s, by(16, 82, Codes::kIq2)>("IQ2_S"),
    quantized<iq3_xxs, by(32, 98, Codes::kIq3Xxs)>("IQ3_XXS"),
    quantized<iq3_s, by(32, 110, Codes::kOdd)>("IQ3_S"),
    quantized<iq4_nl, Shape{Scaling::kScale, 32, 18, 4, 32, 0, Codes::kIq4, true}>("IQ4_NL"),
    quantized<iq4_xs, by(32, 136, Codes::kIq4)>("IQ4_XS"),
};

}  // namespace

std::span<const Format> iq_formats() { return kFormats; }

}  // namespace octavo
