// Words of 16 rows, side by side in lines: how all layouts begin.
#pragma once

#include <cstdint>
#include <cstring>

namespace octavo {

using Words [[gnu::vector_size(16)]] = uint32_t;

inline Words words_at(const void* p) {
  Words words;
  std::memcpy(&words, p, sizeof words);
  return words;
}

// Line i of `to` [4][16] gets word i of each row.
inline void put_lines(const Words* rows, uint32_t* to) {
  for (int row = 0; row < 16; row += 4) {
    const Words a = rows[row], b = rows[row + 1], c = rows[row + 2], d = rows[row + 3];
    const Words ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Words ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    const Words lines[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                            __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5),
                            __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7)};
    for (int i = 0; i < 4; ++i) std::memcpy(to + 16 * i + row, &lines[i], sizeof lines[i]);
  }
}

// Lines [count][16] of the words of 16 rows; rows without a place are zero.
inline void interleave(const void* const* rows, int64_t count, uint32_t* to) {
  int64_t done = 0;
  for (; done + 4 <= count; done += 4) {
    Words words[16];
    for (int row = 0; row < 16; ++row)
      words[row] = rows[row] ? words_at(static_cast<const uint32_t*>(rows[row]) + done) : Words{};
    put_lines(words, to + 16 * done);
  }
  for (; done < count; ++done)
    for (int row = 0; row < 16; ++row)
      if (rows[row]) std::memcpy(to + 16 * done + row, static_cast<const uint32_t*>(rows[row]) + done, 4);
}

}  // namespace octavo
