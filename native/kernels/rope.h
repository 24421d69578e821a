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
inline void store_token(const RotateAndStore& r) {
  using Value = typename T::Value;
  const int key_dim = r.cache.key_dim, value_dim = r.cache.value_dim;
  float rotated[kMaxHeadDim + kLanes];
  Value cast[kMaxHeadDim + kLanes] = {};
  const bool clear_partner = r.last_of_sequence && T::kPack == 2 && r.slot % 2 == 0;
  for (int h = 0; h < r.cache.kv_heads; ++h) {
    auto* keys = reinterpret_cast<Value*>(r.cache.head(r.page, h));
    rotate(r.rotation, r.k + h * key_dim, key_dim, rotated);
    store_floats<T>(cast, rotated, key_dim);
    write_key<T>(r.cache, keys, r.slot, cast);
    store_floats<T>(cast, r.v + h * value_dim, value_dim);
    write_value<T>(r.cache, keys + (int64_t)r.cache.page_tokens * round_up(key_dim, 2), r.slot, cast, clear_partner);
  }
}

inline void store_int8_token(const RotateAndStore& r) {
  float rotated[kMaxHeadDim];
  for (int h = 0; h < r.cache.kv_heads; ++h) {
    rotate(r.rotation, r.k + h * r.cache.key_dim, r.cache.key_dim, rotated);
    store_int8_head(r.cache, r.cache.head(r.page, h), r.slot, rotated, r.v + h * r.cache.value_dim);
  }
}

template <class T>
void rotate_and_store(const RotateAndStore& r) {
  const int key_dim = r.cache.key_dim;
  float rotated[kMaxHeadDim];
  for (int h = 0; r.q && h < r.heads; ++h) {
    rotate(r.rotation, r.q + h * key_dim, key_dim, rotated);
    store_floats<T>(static_cast<typename T::Value*>(r.q_out) + h * key_dim, rotated, key_dim);
  }
  if (!r.k) return;
  if (r.cache.dtype == DType::kInt8)
    store_int8_token(r);
  else
    store_token<T>(r);
}

}  // namespace octavo::OCTAVO_ISA
