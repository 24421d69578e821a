#include "core/integers.h"

#include <algorithm>
#include <cstring>

#include "core/thread_pool.h"

namespace octavo {

namespace {

constexpr int64_t kRows = 8;  // together: columns of words are read by half a line of the cache, and it stays there
constexpr int64_t kPadding = 192;  // bytes after a row, so that not all rows begin at the same places of the cache

// Runs body(first, last) for some rows each, in parallel.
template <class F>
void parallel_rows(int64_t rows, F&& body) {
  ThreadPool::instance().parallel_for((rows + kRows - 1) / kRows,
                                      [&](int64_t tile) { body(tile * kRows, std::min(rows, (tile + 1) * kRows)); });
}

// Runs body(row, bytes) for all rows, their words side by side, in parallel. Some bytes more may be read.
template <class F>
void parallel_words(const WordRows& words, F&& body) {
  parallel_rows(words.rows, [&](int64_t first, int64_t last) {
    thread_local std::vector<uint8_t> scratch;
    const int64_t stride = words.row_bytes + kPadding;
    scratch.resize(kRows * stride);
    uint8_t* bytes = scratch.data();
    const uint8_t* from = words.data + first * words.row_step;
    for (int64_t at = 0; at < words.row_bytes && words.word_step != 4; at += 4, from += words.word_step)
      for (int64_t row = 0; row < last - first; ++row)
        std::memcpy(bytes + row * stride + at, from + row * words.row_step, 4);
    for (int64_t row = 0; row < last - first; ++row, bytes += stride) {
      if (words.word_step == 4) std::memcpy(bytes, from + row * words.row_step, words.row_bytes);
      body(first + row, bytes);
    }
  });
}

template <int bits>
void unpack_row(const uint8_t* from, int64_t columns, uint8_t* out) {
  constexpr uint64_t kFour = (1ull << 4 * bits) - 1, kTwo = ((1ull << 2 * bits) - 1) * 0x0000000100000001,
                     kOne = ((1ull << bits) - 1) * 0x0001000100010001;
  for (int64_t column = 0; column < columns; column += 8, from += bits) {
    uint64_t x;  // eight integers, which are spread to a byte each
    std::memcpy(&x, from, sizeof x);
    x = (x & kFour) | (x >> 4 * bits & kFour) << 32;
    x = (x & kTwo) | (x >> 2 * bits & kTwo) << 16;
    x = (x & kOne) | (x >> bits & kOne) << 8;
    if (columns - column < 8) return void(std::memcpy(out + column, &x, columns - column));
    std::memcpy(out + column, &x, 8);
  }
}

constexpr void (*kUnpackRow[])(const uint8_t*, int64_t, uint8_t*) = {
    unpack_row<1>, unpack_row<2>, unpack_row<3>, unpack_row<4>,
    unpack_row<5>, unpack_row<6>, unpack_row<7>, unpack_row<8>,
};

// Those at one place of words.
void unpack_one(const uint8_t* words, int shift, int64_t columns, uint8_t* out) {
  for (int64_t column = 0; column < columns; ++column) {
    uint32_t word;
    std::memcpy(&word, words + 4 * column, sizeof word);
    out[column] = word >> shift & 15;
  }
}

// Pairs of codes, a multiple of 8, half of them apart.
void join_halves(const uint8_t* codes, int64_t half, uint8_t* out) {
  for (int64_t i = 0; i < half; i += 8) {
    uint64_t low, high;
    std::memcpy(&low, codes + i, sizeof low);
    std::memcpy(&high, codes + half + i, sizeof high);
    low |= high << 4;
    std::memcpy(out + i, &low, sizeof low);
  }
}

}  // namespace

void unpack(const WordRows& words, int bits, int64_t columns, uint8_t* out) {
  parallel_words(words,
                 [&](int64_t row, const uint8_t* bytes) { kUnpackRow[bits - 1](bytes, columns, out + row * columns); });
}

void unpack_eights(const WordRows& words, const std::array<uint8_t, 8>& places, uint8_t* out) {
  const int64_t columns = words.row_bytes / 4;
  parallel_words(words, [&](int64_t eight, const uint8_t* bytes) {
    for (int i = 0; i < 8; ++i) unpack_one(bytes, 4 * places[i], columns, out + (8 * eight + i) * columns);
  });
}

void to_blocks(const GroupedCodes& matrix, uint8_t* out) {
  const int64_t code_bytes = matrix.block * matrix.bits / 8;
  const int64_t block_bytes = 4 * static_cast<int64_t>(matrix.numbers.size()) + code_bytes;
  parallel_rows(matrix.rows, [&](int64_t first, int64_t last) {
    for (int64_t i = 0; i < matrix.blocks; ++i) {
      for (int64_t row = first; row < last; ++row) {
        uint8_t* to = out + (row * matrix.blocks + i) * block_bytes;
        for (const GroupNumbers& numbers : matrix.numbers) {
          std::memcpy(to, numbers.data + row * numbers.row_step + matrix.group_of_block[i] * numbers.group_step, 4);
          to += 4;
        }
        const uint8_t* codes = matrix.codes + (row * matrix.blocks + i) * matrix.block;
        uint8_t ordered[kLargestBlock];
        if (matrix.column_order) {
          const uint8_t* of_row = matrix.codes + row * matrix.blocks * matrix.block;
          for (int64_t j = 0; j < matrix.block; ++j) ordered[j] = of_row[matrix.column_order[i * matrix.block + j]];
          codes = ordered;
        }
        if (matrix.bits == 4)
          join_halves(codes, code_bytes, to);
        else
          std::memcpy(to, codes, code_bytes);
      }
    }
  });
}

}  // namespace octavo
