// What a step computes, as its caller says it, and what ops see of it while it runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "kernels/kernels.h"

namespace octavo {

// Pages of each sequence, one row of `stride` for each; in it, `width` for each group of layers.
struct BlockTables {
  const int32_t* pages = nullptr;
  int64_t stride = 0, width = 0;

  BlockTables of(int group) const { return {pages + group * width, stride, width}; }
};

// What is kept of a sequence beside its pages lies in `slot`. What there was of it after its first `kept_tokens` is
// left in `kept_slot`, too, unless that is 0.
struct StateUse {
  int32_t slot, kept_tokens, kept_slot;
};

// Sequences follow each other on one ragged axis of tokens. Of an encoder it is one sequence: the positions of a
// source; and it may be computed in several runs, each of some operations, for some of the tokens.
struct Step {
  int num_tokens = 0, num_sequences = 0, num_logit_rows = 0, num_copies = 0;
  const int32_t* tokens = nullptr;  // [num_tokens]
  const int32_t* starts = nullptr;  // [num_sequences] position of each one's first token
  const int32_t* counts = nullptr;  // [num_sequences] its tokens
  BlockTables blocks;
  const int32_t* logit_rows = nullptr;  // [num_logit_rows] tokens whose logits are wanted
  const int32_t* copies = nullptr;      // [num_copies, 2] pages to copy first: from, to
  BlockTables source_blocks;
  const int32_t* source_lengths = nullptr;  // [num_sequences]
  const StateUse* states = nullptr;         // [num_sequences]
  const int32_t* second_starts = nullptr;   // [num_sequences] position of a second text's first token, or 0
  const float* features = nullptr;          // [rows, features_stride] what an encoder reads, padded to 16 columns
  int64_t features_stride = 0;
  int first_op = 0, last_op = 1 << 30;        // the operations to run are [first_op, last_op) …
  int first_token = 0, last_token = 1 << 30;  // … for these tokens; others have been, or will be computed
};

// The first row of a sequence.
inline int64_t first_row(const Step& step, int sequence) {
  int64_t row = 0;
  for (int s = 0; s < sequence; ++s) row += step.counts[s];
  return row;
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  // Part `tile` of `count` even ones.
  Range part(int64_t tile, int64_t count) const {
    return {begin + tile * size() / count, begin + (tile + 1) * size() / count};
  }
};

// Rows that an op reads or writes: of `columns` values, padded to 16; some for each token, or one for each logit row.
struct Value {
  char* memory = nullptr;
  int64_t columns = 0, stride = 0;  // stride: elements from row to row
  DType dtype = DType::kFloat32;
  bool logit_rows = false;
  int rows_per_token = 1;

  void* row(int64_t i) const { return memory + i * stride * bytes_of(dtype); }
  const float* floats(int64_t i) const { return static_cast<const float*>(row(i)); }
};

struct TokenPlace {
  int sequence, position;
  bool last_of_sequence;
};

// A step in progress.
struct Run {
  Step step;
  int threads = 1;
  std::vector<TokenPlace> places;      // of the tokens
  std::vector<int32_t> scratch_pages;  // of the scratch pool, which a step has to itself: [num_sequences, stride]
  BlockTables scratch_blocks;
  std::vector<Buffer> scratch;  // a thread's own

  Range tokens() const {
    return {std::min(step.first_token, step.num_tokens), std::min(step.last_token, step.num_tokens)};
  }
  // Rows of `out` that are to be computed.
  Range rows_of(const Value& out) const {
    if (out.logit_rows) return {0, step.num_logit_rows};
    return {tokens().begin * out.rows_per_token, tokens().end * out.rows_per_token};
  }
  // Rows are taken in tiles of several, four tiles to a thread.
  int64_t row_tiles(Range rows) const { return std::min<int64_t>(rows.size(), 4 * threads); }
};

}  // namespace octavo
