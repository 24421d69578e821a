// How quantized weights lie in memory, as layouts/ packs them and kernels/quantized.h reads them.
//
// 16 rows lie together: first their scales, padded to whole cache lines, then their codes, 32 columns at a time. Four
// neighbouring codes of a row are a word, and a word of each of the 16 rows a cache line. Of codes of fewer than 8
// bits, four bits of columns 0 to 15 are the low halves of the bytes, and those of columns 16 to 31 the high ones.
// Behind them lie the fifth bits, or the fifth and sixth, of the eight words of 4 columns, the first word's lowest.
#pragma once

#include <cstdint>

#include "core/dequantize.h"
#include "kernels/kernels.h"

namespace octavo {

constexpr int kUnit = 32;  // columns
// Values are quantized to zeros where the largest is not above this: float32 has no factor that makes them integers.
constexpr float kTiny = 0x1p-111f;

struct QuantizedLayout {
  Scaling scaling;
  int bits;           // of a code: 4, 5, 6 or 8
  int group;          // columns that have a scale in common, of activations at least
  bool wide = false;  // scales and minima are float32
  Codes codes = Codes::kIntegers;
  bool by_table = false;  // codes of 4 bits stand for integers of 8: 16 bytes, four times, before the codes

  constexpr int integer_bits() const { return by_table ? 8 : bits; }
  constexpr bool has_minimum() const { return scaling == Scaling::kMinimum || scaling == Scaling::kSubMinimum; }
  // Scales are integers, which are multiplied with those of 256 columns.
  constexpr bool has_sub_scales() const { return scaling == Scaling::kSubScale || scaling == Scaling::kSubMinimum; }
  // One float32 scale for each row.
  constexpr bool is_by_channel() const { return scaling == Scaling::kChannel; }
  constexpr int offset() const { return has_minimum() || codes != Codes::kIntegers ? 0 : 1 << (integer_bits() - 1); }
  constexpr int unit() const { return is_by_channel() ? 2 * kUnit : kUnit; }  // columns that k is padded to
  constexpr int sums() const { return group < kUnit ? group : kUnit; }        // columns that are summed as integers

  // Of 16 rows: float16 or float32 scales and minima, or integers behind the floats of their 256 columns.
  constexpr int64_t head_bytes() const { return has_sub_scales() ? (wide ? 64 : 32) * (has_minimum() ? 2 : 1) : 0; }
  constexpr int64_t scale_bytes() const { return (has_sub_scales() ? 16 : wide ? 64 : 32) * (has_minimum() ? 2 : 1); }
  constexpr int64_t head_at(int64_t group_number) const {
    return group_number * group / 256 * (head_bytes() + 256 / group * scale_bytes());
  }
  constexpr int64_t scale_at(int64_t group_number) const {
    if (is_by_channel()) return 0;
    if (!has_sub_scales()) return group_number * scale_bytes();
    return head_at(group_number) + head_bytes() + group_number % (256 / group) * scale_bytes();
  }
  constexpr int64_t values_at(int64_t k) const {
    if (is_by_channel()) return 64;
    const int64_t scales =
        has_sub_scales() ? head_at(round_up(k, 256) / group) : scale_at((round_up(k, kUnit) + group - 1) / group);
    return round_up(scales, 64) + (by_table ? 64 : 0);
  }
  constexpr int64_t unit_bytes() const { return 16 * kUnit * bits / 8; }
  constexpr int64_t block_bytes(int64_t k) const { return values_at(k) + round_up(k, unit()) / kUnit * unit_bytes(); }
};

inline constexpr QuantizedLayout kInt8{Scaling::kChannel, 8, 32}, kInt4G32{Scaling::kScale, 4, 32},
    kInt5G32{Scaling::kScale, 5, 32}, kInt8G32{Scaling::kScale, 8, 32}, kUint4G32{Scaling::kMinimum, 4, 32},
    kUint5G32{Scaling::kMinimum, 5, 32}, kInt4K16{Scaling::kSubScale, 4, 16}, kInt6K16{Scaling::kSubScale, 6, 16, true},
    kUint4K16{Scaling::kSubMinimum, 4, 16}, kUint4K32{Scaling::kSubMinimum, 4, 32},
    kUint5K32{Scaling::kSubMinimum, 5, 32}, kAffine4G32{Scaling::kMinimum, 4, 32, true},
    kAffine4G64{Scaling::kMinimum, 4, 64, true}, kAffine4G128{Scaling::kMinimum, 4, 128, true},
    kAffine8G32{Scaling::kMinimum, 8, 32, true}, kAffine8G64{Scaling::kMinimum, 8, 64, true},
    kAffine8G128{Scaling::kMinimum, 8, 128, true}, kTable4G16{Scaling::kScale, 4, 16, true, Codes::kIntegers, true},
    kTable4G32{Scaling::kScale, 4, 32, true, Codes::kIntegers, true},
    kTable4K16{Scaling::kSubScale, 4, 16, true, Codes::kIntegers, true},
    kTable4K32{Scaling::kSubScale, 4, 32, true, Codes::kIntegers, true},
    kE4m3G32{Scaling::kScale, 8, 32, true, Codes::kE4m3}, kE4m3G64{Scaling::kScale, 8, 64, true, Codes::kE4m3},
    kE4m3G128{Scaling::kScale, 8, 128, true, Codes::kE4m3}, kNf4G64{Scaling::kScale, 4, 64, true, Codes::kNf4},
    kFp4G64{Scaling::kScale, 4, 64, true, Codes::kFp4};

// What follows the two bytes of each value of an activation row that int8 weights are multiplied with: 256 * high + low
// is `scale` times smaller than the row. Weights are bytes with an offset, so sums of products begin with minus the
// sums of the bytes times the offset.
struct RowSums {
  float scale;
  int32_t high, low;
};

constexpr int64_t channels_row_bytes(int64_t k) { return round_up(2 * k + int64_t{sizeof(RowSums)}, 64); }

}  // namespace octavo
