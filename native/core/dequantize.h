// Decoding of stored weight formats into float.

#pragma once

#include <cstdint>
#include <string_view>

namespace octavo {

// The numbers are an index into the table behind format_info().
enum class Format : uint8_t { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K };

struct FormatInfo {
  const char* name;
  int block;  // elements of a block
  int bytes;  // bytes of a block
};

const FormatInfo& format_info(Format format);

// Throws std::invalid_argument if there is no format of that name.
Format format_of(std::string_view name);

// Decodes `count` elements, a whole number of blocks, from `src` (of any alignment) to `dst`.
// Every product and sum is rounded to float by itself, so that all machines and decoders agree bit for bit.
void dequantize_row(Format format, const uint8_t* src, int64_t count, float* dst);

}  // namespace octavo
