// How a page of the KV cache lies in memory, and what attention needs beside it.
#pragma once

#include "kernels/kernels.h"
#include "kernels/quantized_layout.h"

namespace octavo {

// One KV head's part of a page of int8. Keys are blocks of 16 tokens in the layout of int8 weights, in which each token
// has its scale. Values follow: the float32 scales of tokens, then [value_dim / 16][page_tokens / 4][16][4].
struct Int8Page {
  int64_t page_tokens, key_dim, value_dim;

  constexpr int64_t padded_key_dim() const { return round_up(key_dim, kInt8.unit()); }
  constexpr int64_t key_block_bytes() const { return kInt8.block_bytes(padded_key_dim()); }
  constexpr int64_t query_bytes() const { return channels_row_bytes(padded_key_dim()); }  // of one that is quantized
  constexpr int64_t value_scales_at() const { return page_tokens / 16 * key_block_bytes(); }
  constexpr int64_t values_at() const { return value_scales_at() + page_tokens * 4; }
  constexpr int64_t bytes() const { return values_at() + page_tokens * round_up(value_dim, 16); }
};

constexpr Int8Page int8_page(const KvCache& c) { return {c.page_tokens, c.key_dim, c.value_dim}; }

// Few columns of keys are much larger than all others. Before keys become int8 they are spread over all columns, as
// queries are, by a Walsh-Hadamard transform of blocks of so many columns, if that is more than one: a product of two
// such rows grows by that factor (Ashkboos et al. 2024, QuaRot).
constexpr int spread_size(int key_dim) { return key_dim % 16 ? 1 : key_dim & -key_dim; }

// Of one KV head's part of a page.
constexpr int64_t kv_head_bytes(DType dtype, int page_tokens, int key_dim, int value_dim) {
  if (dtype == DType::kInt8) return Int8Page{page_tokens, key_dim, value_dim}.bytes();
  return page_tokens * (round_up(key_dim, 2) + round_up(value_dim, 16)) * bytes_of(dtype);
}

// A thread's scratch memory for an item of `rows` rows, as offsets in bytes; rows are (query token, head of the group).
struct AttentionScratchLayout {
  int64_t q;       // [rows, key_dim], of the model's type
  int64_t scores;  // [rows, kSegment]
  int64_t p;       // [rows, kSegment] of the model's type or quantized: exp(score - maximum)
  int64_t sums;    // [rows, padded value_dim]: one segment's weighted values
  int64_t state;   // [rows, partial_stride]: maximum, sum of p, weighted values, over all segments so far
  int64_t q8;      // [rows, bytes of a quantized row]: queries …
  int64_t values;  // … and a segment's values, if the cache is int8
  int64_t bytes;
};

static inline AttentionScratchLayout attention_scratch(int64_t rows, const KvCache& cache) {
  AttentionScratchLayout at{};
  const auto take = [&](int64_t& offset, int64_t bytes) {
    offset = at.bytes;
    at.bytes += round_up(bytes, 64);
  };
  const int64_t columns = round_up(cache.value_dim, 16);
  take(at.q, rows * round_up(cache.key_dim, 16) * 4);
  take(at.scores, rows * kSegment * 4);
  take(at.p, rows * kSegment * 4);
  take(at.sums, rows * columns * 4);
  take(at.state, rows * partial_stride(cache.value_dim) * 4);
  if (cache.dtype != DType::kInt8) return at;
  take(at.q8, rows * int8_page(cache).query_bytes());
  take(at.values, columns / 16 * kInt8.block_bytes(kSegment));
  return at;
}

}  // namespace octavo
