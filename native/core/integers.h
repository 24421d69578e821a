// Integers of a few bits as checkpoints pack them, and as blocks of formats that have float32 numbers for each group.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace octavo {

// Rows of words of four bytes that may lie apart, as in a column of a file's array. Where they do not, `word_step` is
// 4, and a row may be of any number of bytes.
struct WordRows {
  const uint8_t* data;
  int64_t rows, row_bytes;
  int64_t row_step, word_step;  // in bytes
};

// The first `columns` integers of each row, a byte each. They lie side by side, the first in the lowest bits.
void unpack(const WordRows& words, int bits, int64_t columns, uint8_t* out);

// Words of eight rows, each of 4 bits in every one: row i at place places[i]. A byte each: [8 * rows, words of a row].
void unpack_eights(const WordRows& words, const std::array<uint8_t, 8>& places, uint8_t* out);

// float32 of each row and group, so many bytes apart.
struct GroupNumbers {
  const uint8_t* data;
  int64_t row_step, group_step;
};

constexpr int64_t kLargestBlock = 128;

// A matrix of codes that is to become blocks, each of the numbers of its group, and of codes. Of 4 bits, the low halves
// of all bytes come first.
struct GroupedCodes {
  const uint8_t* codes;         // [rows, blocks * block]
  int64_t rows, blocks, block;  // at most kLargestBlock columns, of 4 bits a multiple of 16
  int bits;                     // 4 or 8
  std::vector<GroupNumbers> numbers;
  const int32_t* group_of_block;
  const int32_t* column_order;  // column i of the blocks is the one that is column_order[i] of the codes; or none
};

void to_blocks(const GroupedCodes& matrix, uint8_t* out);

}  // namespace octavo
