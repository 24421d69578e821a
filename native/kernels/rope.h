// Rotary positions, and the way of keys and values into the cache.
#pragma once

#include "kernels/int8_cache.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// y = x, a head of `d` columns, rotated.
inline void rotate(const Rotation& r, const float* x, int d, float* y) {
  const int apart = r.interleaved ? 1 : r.pairs, step = r.interleaved ? 2 : 1;
  for (int i = 0; i < r.pairs; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    y[i * step] = a * r.cos[i] - b * r.sin[i];
    y[i * step + apart] = b * r.cos[i] + a * r.sin[i];
  }
  for (int i = 2 * r.pairs; i < d; ++i) y[i] = x[i];
}

inline Rotation rotation_of(const RotateAndStore& r, int token) {
  Rotation rotation = r.rotation;
  rotation.cos += token * r.rotation_stride;
  rotation.sin += token * r.rotation_stride;
  return rotation;
}

inline void rotate_heads(const float* x, const Rotation& r, int heads, int head_dim, float* out) {
  for (int h = 0; h < heads; ++h) rotate(r, x + h * head_dim, head_dim, out + h * head_dim);
}

template <class T>
inline void store_floats(typename T::Value* out, const float* x, int n) {
  float lane[kLanes] = {};
  typename T::Value value[kLanes];
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) T::store16(out + i, load(x + i));
  if (i < n) {
    memcpy(lane, x + i, (n - i) * sizeof(float));
    T::store16(value, load(lane));
    memcpy(out + i, value, (n - i) * sizeof value[0]);
  }
}

constexpr int kMaxBlockDim = 256;  // columns of heads that are stored for 16 tokens at once

// Where a head's values begin, behind its keys.
inline int64_t values_at(const KvCache& cache) { return (int64_t)cache.page_tokens * round_up(cache.key_dim, 2); }

// Words of 4 bytes: `to` gets those of 16 rows side by side, of up to 16 columns.
inline void transpose_words(const void* rows, int64_t row_bytes, int columns, void* to) {
  const char* from = static_cast<const char*>(rows);
  if (columns >= kLanes) return transpose_16_words(from, row_bytes, static_cast<char*>(to));
  for (int i = 0; i < columns; ++i)
    for (int t = 0; t < kLanes; ++t) memcpy((char*)to + (i * kLanes + t) * 4, from + t * row_bytes + i * 4, 4);
}

// 16 columns of as many rows as a pack has.
template <class T>
inline void interleave(const typename T::Value* rows, int64_t stride, typename T::Value* to) {
  for (int i = 0; i < kLanes; ++i)
    for (int t = 0; t < T::kPack; ++t) to[i * T::kPack + t] = rows[t * stride + i];
}

// Keys of one token: pairs along key_dim, 16 tokens side by side.
template <class T>
inline void write_key(const KvCache& cache, typename T::Value* keys, int slot, const typename T::Value* x) {
  const int steps = (cache.key_dim + T::kPack - 1) / T::kPack;
  auto* to = keys + (int64_t)(slot / kLanes) * steps * kLanes * T::kPack + slot % kLanes * T::kPack;
  for (int s = 0; s < steps; ++s) memcpy(to + s * kLanes * T::kPack, x + s * T::kPack, T::kPack * sizeof *x);
}

// Values of one token: 16 columns side by side, tokens in pairs. A pair is read as a whole, so the first of one clears
// its partner, unless that is written in this very step.
template <class T>
inline void write_value(const KvCache& cache, typename T::Value* values, int slot, const typename T::Value* x,
                        bool clear_partner) {
  const int64_t block = (int64_t)cache.page_tokens * kLanes;
  auto* to = values + slot / T::kPack * kLanes * T::kPack + slot % T::kPack;
  for (int i = 0; i < cache.value_dim; ++i) {
    auto* at = to + i / kLanes * block + i % kLanes * T::kPack;
    at[0] = x[i];
    if (clear_partner) at[1] = 0;
  }
}

// The keys and values of one token, of all heads.
template <class T>
inline void store_token(const RotateAndStore& r, int token) {
  using Value = typename T::Value;
  const int key_dim = r.cache.key_dim, value_dim = r.cache.value_dim, slot = r.slot + token;
  const float *k = r.k + token * r.k_stride, *v = r.v + token * r.v_stride;
  float rotated[kMaxHeadDim + kLanes];
  Value cast[kMaxHeadDim + kLanes] = {};
  const bool is_last = r.last_of_sequence && token == r.count - 1;
  for (int h = 0; h < r.cache.kv_heads; ++h) {
    auto* keys = reinterpret_cast<Value*>(r.cache.head(r.page, h));
    rotate(rotation_of(r, token), k + h * key_dim, key_dim, rotated);
    store_floats<T>(cast, rotated, key_dim);
    write_key<T>(r.cache, keys, slot, cast);
    store_floats<T>(cast, v + h * value_dim, value_dim);
    const bool clear_partner = is_last && T::kPack == 2 && slot % 2 == 0;
    write_value<T>(r.cache, keys + values_at(r.cache), slot, cast, clear_partner);
  }
}

// The same of 16 tokens, the first of which has a multiple of 16 as its slot: nothing is written value by value.
template <class T>
inline void store_block(const RotateAndStore& r) {
  using Value = typename T::Value;
  constexpr int kRow = kMaxBlockDim + kLanes;
  const int key_dim = r.cache.key_dim, value_dim = r.cache.value_dim;
  const int steps = (key_dim + T::kPack - 1) / T::kPack;
  float rotated[kRow];
  alignas(64) Value cast[kLanes * kRow];
  for (int h = 0; h < r.cache.kv_heads; ++h) {
    auto* keys = reinterpret_cast<Value*>(r.cache.head(r.page, h));
    for (int t = 0; t < kLanes; ++t) {
      rotate(rotation_of(r, t), r.k + t * r.k_stride + h * key_dim, key_dim, rotated);
      store_floats<T>(cast + t * kRow, rotated, key_dim);
    }
    auto* to = keys + (int64_t)(r.slot / kLanes) * steps * kLanes * T::kPack;
    for (int s = 0; s < steps; s += kLanes)
      transpose_words(cast + s * T::kPack, kRow * sizeof(Value), steps - s, to + (int64_t)s * kLanes * T::kPack);

    for (int t = 0; t < kLanes; ++t) store_floats<T>(cast + t * kRow, r.v + t * r.v_stride + h * value_dim, value_dim);
    auto* values = keys + values_at(r.cache) + r.slot * kLanes;
    for (int i = 0; i < value_dim; i += kLanes, values += (int64_t)r.cache.page_tokens * kLanes)
      for (int t = 0; t < kLanes; t += T::kPack) interleave<T>(cast + t * kRow + i, kRow, values + t * kLanes);
  }
}

inline void store_int8_token(const RotateAndStore& r, int token) {
  float rotated[kMaxHeadDim];
  const float *k = r.k + token * r.k_stride, *v = r.v + token * r.v_stride;
  for (int h = 0; h < r.cache.kv_heads; ++h) {
    rotate(rotation_of(r, token), k + h * r.cache.key_dim, r.cache.key_dim, rotated);
    store_int8_head(r.cache, r.cache.head(r.page, h), r.slot + token, rotated, v + h * r.cache.value_dim);
  }
}

template <class T>
void rotate_and_store(const RotateAndStore& r) {
  const int key_dim = r.cache.key_dim;
  float rotated[kMaxHeadDim];
  for (int t = 0; r.q && t < r.count; ++t) {
    auto* out = static_cast<typename T::Value*>(r.q_out) + t * r.q_out_stride;
    for (int h = 0; h < r.heads; ++h) {
      rotate(rotation_of(r, t), r.q + t * r.q_stride + h * key_dim, key_dim, rotated);
      store_floats<T>(out + h * key_dim, rotated, key_dim);
    }
  }
  if (!r.k) return;
  const bool is_int8 = r.cache.dtype == DType::kInt8;
  const bool fits = key_dim <= kMaxBlockDim && r.cache.value_dim <= kMaxBlockDim && r.cache.value_dim % kLanes == 0;
  if (r.count == kLanes && fits && !is_int8) return store_block<T>(r);
  for (int t = 0; t < r.count; ++t) {
    if (is_int8)
      store_int8_token(r, t);
    else
      store_token<T>(r, t);
  }
}

}  // namespace octavo::OCTAVO_ISA
