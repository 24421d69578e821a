// Keys and values as int8, each with a scale for its token and head. Queries, and the probabilities of keys times the
// scales of their values, are quantized too: scores and sums over values are products with quantized weights.
#pragma once

#include "kernels/cache_layout.h"
#include "kernels/channels.h"

namespace octavo::OCTAVO_ISA {

// Up to kSegment keys of one KV head, and the pages that they lie in.
struct Segment {
  const KvCache& cache;
  const int32_t* table;
  int kv_head, keys;

  int key_blocks() const { return (keys + kLanes - 1) / kLanes; }
  const char* page(int64_t i) const { return cache.head(table[i], kv_head); }
};

struct HadamardMatrix {
  float row[kLanes][kLanes];

  constexpr HadamardMatrix() : row{} {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < kLanes; ++j) row[i][j] = __builtin_parity(i & j) ? -1 : 1;
  }
};
constexpr HadamardMatrix kHadamard;

// A Walsh-Hadamard transform of blocks of spread_size(n) columns, in place: first of lanes, then across vectors.
inline void spread(float* x, int n) {
  const int size = spread_size(n);
  for (int i = 0; i < n && size > 1; i += kLanes) {
    F32 sum = zero();
    for (int j = 0; j < kLanes; ++j) sum = fma(set1(x[i + j]), load(kHadamard.row[j]), sum);
    store(x + i, sum);
  }
  for (int step = kLanes; step < size; step *= 2)
    for (int i = 0; i < n; i += kLanes) {
      if (i & step) continue;
      const F32 a = load(x + i), b = load(x + i + step);
      store(x + i, a + b);
      store(x + i + step, a - b);
    }
}

// out = x / scale, as bytes with the layout's offset; returns the scale, with which the largest is 127. NaN and
// infinity make the scale NaN, and so all that is read of the head. x is padded with zeros, and out is, to whole lanes.
inline float quantize_head(const float* x, int n, uint8_t* out) {
  F32 largest = zero(), probe = zero();
  for (int i = 0; i < n; i += kLanes) {
    const F32 v = load(x + i);
    largest = max(largest, max(v, zero() - v));
    probe = fma(v, zero(), probe);
  }
  const float top = reduce_max(largest), factor = top > 1e-30f ? 127 / top : 0;
  for (int i = 0; i < n; i += kLanes) store_rounded((int8_t*)out + i, load(x + i) * set1(factor));
  for (int i = 0; i < round_up(n, kLanes); ++i) out[i] ^= kInt8.offset();
  return top / 127 + reduce_add(probe);
}

// A head of floats, padded with zeros to whole lanes.
struct PaddedHead {
  float x[kMaxHeadDim + kLanes];

  PaddedHead(const float* values, int n) {
    memcpy(x, values, n * sizeof(float));
    memset(x + n, 0, kLanes * sizeof(float));
  }
};

// The key and the value of the token in `slot` of a page.
inline void store_int8_head(const KvCache& cache, char* head, int slot, const float* key, const float* value) {
  const Int8Page page = int8_page(cache);
  const int lane = slot % kLanes;
  uint8_t bytes[kMaxHeadDim + kLanes];
  PaddedHead k(key, cache.key_dim);
  const PaddedHead v(value, cache.value_dim);
  spread(k.x, cache.key_dim);
  char* block = head + slot / kLanes * page.key_block_bytes();
  ((float*)block)[lane] = quantize_head(k.x, cache.key_dim, bytes) / (float)spread_size(cache.key_dim);
  char* keys = block + kInt8.values_at(0) + lane * 4;
  for (int i = 0; i < cache.key_dim; i += 4) memcpy(keys + i * kLanes, bytes + i, 4);

  ((float*)(head + page.value_scales_at()))[slot] = quantize_head(v.x, cache.value_dim, bytes);
  char* values = head + page.values_at() + slot / 4 * 64 + slot % 4;
  for (int i = 0; i < cache.value_dim; ++i)
    values[i / kLanes * page.page_tokens * kLanes + i % kLanes * 4] = (char)bytes[i];
}

// A query, as a row of the left side of products with keys.
template <class T>
inline void quantize_query(const KvCache& cache, const typename T::Value* q, int8_t* out) {
  float x[kMaxHeadDim + kLanes] = {};
  for (int i = 0; i < cache.key_dim; ++i) x[i] = to_float(q[i]);
  spread(x, cache.key_dim);
  prepare_channels_row<Float32>(x, cache.key_dim, int8_page(cache).padded_key_dim(), out);
}

inline void prefetch(const char* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

// scores[rows, kSegment]. A page is soon computed with, and the next one is elsewhere: memory is asked for the next
// keys meanwhile, and for these keys' values.
inline void multiply_int8_keys(const Segment& segment, int rows, const int8_t* q, float* scores) {
  const Int8Page page = int8_page(segment.cache);
  const int blocks_of_page = segment.cache.page_tokens / kLanes, blocks = segment.key_blocks();
  for (int i = 0; i < blocks; i += blocks_of_page) {
    const int now = blocks - i < blocks_of_page ? blocks - i : blocks_of_page;
    const char* keys = segment.page(i / blocks_of_page);
    prefetch(keys + page.value_scales_at(), page.bytes() - page.value_scales_at());
    if (i + now < blocks) prefetch(segment.page(i / blocks_of_page + 1), page.value_scales_at());
    multiply_channels_any(rows, now, q, page.query_bytes(), (const uint8_t*)keys, page.padded_key_dim(),
                          scores + i * kLanes, kSegment);
  }
}

// Of whole pages.
inline void read_value_scales(const Segment& segment, float* scales) {
  const Int8Page page = int8_page(segment.cache);
  for (int64_t i = 0; i * page.page_tokens < segment.keys; ++i)
    memcpy(scales + i * page.page_tokens, segment.page(i) + page.value_scales_at(), page.page_tokens * sizeof(float));
}

// Zero stays zero: there may be no token yet, and anything as its scale.
inline F32 scale_p(F32 p, const float* scales) { return select_less(zero(), p, p * load(scales), zero()); }

// sums[rows, padded value_dim] with p[rows, kSegment], which are quantized to p8. The pages' values are put together in
// `values`, as blocks of 16 columns with a scale of one.
inline void multiply_int8_values(const Segment& segment, int rows, const float* p, int8_t* p8, uint8_t* values,
                                 float* sums) {
  const Int8Page page = int8_page(segment.cache);
  const int64_t k = round_up(segment.keys, kInt8.unit()), columns = round_up(page.value_dim, kLanes);
  const int64_t block_bytes = kInt8.block_bytes(k), p8_bytes = channels_row_bytes(kSegment);
  for (int r = 0; r < rows; ++r)
    prepare_channels_row<Float32>(p + r * kSegment, segment.key_blocks() * kLanes, k, p8 + r * p8_bytes);
  for (int64_t j = 0; j < columns / kLanes; ++j) store((float*)(values + j * block_bytes), set1(1));
  for (int64_t token = 0; token < segment.keys; token += page.page_tokens) {
    const int64_t left = segment.keys - token, now = left < page.page_tokens ? round_up(left, 4) : page.page_tokens;
    const char* from = segment.page(token / page.page_tokens) + page.values_at();
    uint8_t* to = values + kInt8.values_at(k) + token * kLanes;
    for (int64_t j = 0; j < columns / kLanes; ++j)
      memcpy(to + j * block_bytes, from + j * page.page_tokens * kLanes, now * kLanes);
  }
  multiply_channels_any(rows, (int)(columns / kLanes), p8, p8_bytes, values, k, sums, columns);
}

}  // namespace octavo::OCTAVO_ISA
