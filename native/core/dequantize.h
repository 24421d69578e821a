// Decoding of stored weight formats into float.

#pragma once

#include <cstdint>
#include <string_view>

namespace octavo {

// Rows of values in blocks along the innermost axis.
struct Format {
  const char* name;
  int block;  // elements of a block
  int bytes;  // bytes of a block
  // Decodes `count` elements, a whole number of blocks, from `src` (of any alignment) to `dst`. Every product and sum
  // is rounded to float by itself, so that all machines and decoders agree bit for bit.
  void (*decode)(const uint8_t* src, int64_t count, float* dst);
};

// Throws std::invalid_argument if there is no format of that name.
const Format& format_of(std::string_view name);

}  // namespace octavo
