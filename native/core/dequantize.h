// Stored weight formats: decoded into float, or taken apart into the numbers that they consist of.

#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace octavo {

// A float32 of this size has no fraction: a sum with it is rounded to an integer, which is in its last bits.
constexpr float kInteger = 0x1.8p23f;

// What the values of a quantized format are made of, for groups g of values:
enum class Scaling : uint8_t {
  kNone,        // they are plain numbers
  kChannel,     // one d for a whole row, which lies apart: d * q
  kScale,       // d * (q - offset)
  kMinimum,     // d * q + m
  kSubScale,    // (d * scale[g]) * (q - offset); scales are signed
  kSubMinimum,  // (d * scale[g]) * q - m * minimum[g]
};

// What q stands for. From kIq1 on, 4 bits stand for integers of 8.
enum class Codes : uint8_t { kIntegers, kNf4, kFp4, kE4m3, kIq1, kIq2, kIq3Xxs, kOdd, kIq4, kDoubledE2m1 };

// One block, taken apart. d and m are the bits of float16, or, of wide formats, of float32. There is one m, and one d,
// or, where groups have no other scale, one for each group.
struct Quants {
  uint8_t* q;  // where the reader puts those of the whole block
  uint32_t d[8], m;
  uint8_t scale[16], minimum[16];
};

// Rows of values in blocks along the innermost axis.
struct Format {
  const char* name;
  int block;  // elements of a block
  int bytes;  // bytes of a block
  // Decodes `count` elements, a whole number of blocks, from `src` (of any alignment) to `dst`. Every product and sum
  // is rounded to float by itself, so that all machines and decoders agree bit for bit.
  void (*decode)(const uint8_t* src, int64_t count, float* dst);

  Scaling scaling = Scaling::kNone;
  int bits = 0;    // of q
  int group = 0;   // values that have a scale in common
  int offset = 0;  // of q
  void (*read)(const uint8_t* block, Quants& out) = nullptr;
  bool wide = false;
  Codes codes = Codes::kIntegers;
};

// The integers that 16 codes stand for; none for others.
const int8_t* integers_of(Codes codes);

// The value of a code.
float value_of(Codes codes, uint8_t q);
// The 8-bit float nearest to x, of those two the even one; |x| is at most 448, the largest.
inline uint8_t to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), size = bits & 0x7fffffff;
  const uint32_t rounded = (size + 0x7ffff + (size >> 20 & 1)) >> 20;  // three bits of the fraction are left
  // Those below 1/64 have no exponent: they are multiples of 1/512.
  const uint32_t steps = std::bit_cast<uint32_t>(std::bit_cast<float>(size) * 512 + kInteger);
  return static_cast<uint8_t>((size < 121u << 23 ? steps : rounded - (120 << 3)) | bits >> 31 << 7);
}

// Throws std::invalid_argument if there is no format of that name.
const Format& format_of(std::string_view name);

}  // namespace octavo
