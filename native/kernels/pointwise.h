// What happens to one row: embedding, norm, rotation, activation.
#pragma once

#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// Row `id` of a packed weight: the table is kept once, in the layout that the output projection reads.
template <class T>
void embed(const void* weight, int64_t k, int64_t id, int64_t columns, float* out) {
  const auto* row = static_cast<const typename T::Value*>(weight) + id / kLanes * k * kLanes + id % kLanes * T::kPack;
  for (int64_t i = 0; i < columns; ++i) out[i] = to_float(row[i / T::kPack * kLanes * T::kPack + i % T::kPack]);
}

// out = x / sqrt(mean(x²) + eps) * weight. x, weight and out are padded to 16 columns with zeros.
template <class T>
void rms_norm(const float* x, const float* weight, float eps, int64_t n, void* out) {
  F32 squares = zero();
  for (int64_t i = 0; i < n; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  const F32 scale = set1(1.0f) / sqrt(set1(reduce_add(squares) / (float)n + eps));
  auto* y = static_cast<typename T::Value*>(out);
  for (int64_t i = 0; i < n; i += kLanes) T::store16(y + i, load(x + i) * scale * load(weight + i));
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias. x, weight, bias and out are padded to 16 columns with zeros.
template <class T>
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n, void* out) {
  F32 sum = zero();
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + load(x + i);
  const F32 mean = set1(reduce_add(sum) / (float)n);
  F32 squares = zero();
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) {
    const F32 centred = load(x + i) - mean;
    squares = fma(centred, centred, squares);
  }
  float rest[kLanes] = {};  // columns past the last are no part of the variance
  for (int64_t i = n / kLanes * kLanes; i < n; ++i) rest[i % kLanes] = x[i] - reduce_add(sum) / (float)n;
  squares = fma(load(rest), load(rest), squares);
  const F32 scale = set1(1.0f) / sqrt(set1(reduce_add(squares) / (float)n + eps));
  auto* y = static_cast<typename T::Value*>(out);
  for (int64_t i = 0; i < n; i += kLanes)
    T::store16(y + i, fma((load(x + i) - mean) * scale, load(weight + i), load(bias + i)));
}

template <class T>
void gelu_row(const float* x, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    if (floats)
      store(static_cast<float*>(out) + i, gelu(load(x + i)));
    else
      T::store16(static_cast<typename T::Value*>(out) + i, gelu(load(x + i)));
  }
}

template <class T>
void silu_mul(const float* gate, const float* up, int64_t n, void* out) {
  auto* y = static_cast<typename T::Value*>(out);
  for (int64_t i = 0; i < n; i += kLanes) {
    T::store16(y + i, silu(load(gate + i)) * load(up + i));
  }
}

template <class T>
void narrow_row(const float* x, int64_t n, void* out) {
  auto* y = static_cast<typename T::Value*>(out);
  for (int64_t i = 0; i < n; i += kLanes) T::store16(y + i, load(x + i));
}

// y = x with its first rotary_dim columns rotated by pairs.
inline void rotate(const Rope& r, const float* x, float* y) {
  const int half = r.rotary_dim / 2;
  const int apart = r.interleaved ? 1 : half, step = r.interleaved ? 2 : 1;
  for (int i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    y[i * step] = a * r.cos[i] - b * r.sin[i];
    y[i * step + apart] = b * r.cos[i] + a * r.sin[i];
  }
  for (int i = r.rotary_dim; i < r.cache.head_dim; ++i) y[i] = x[i];
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

// Keys of one token: pairs along head_dim, 16 tokens side by side.
template <class T>
inline void write_key(const KvCache& cache, typename T::Value* keys, int slot, const typename T::Value* x) {
  const int steps = (cache.head_dim + T::kPack - 1) / T::kPack;
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
  for (int i = 0; i < cache.head_dim; ++i) {
    auto* at = to + i / kLanes * block + i % kLanes * T::kPack;
    at[0] = x[i];
    if (clear_partner) at[1] = 0;
  }
}

template <class T>
void rope(const Rope& r) {
  using Value = typename T::Value;
  const int d = r.cache.head_dim;
  float rotated[1024 + kLanes];
  Value narrow[1024 + kLanes] = {};
  const float* x = r.qkv;
  for (int h = 0; h < r.heads; ++h, x += d) {
    rotate(r, x, rotated);
    store_floats<T>(static_cast<Value*>(r.q_out) + h * d, rotated, d);
  }
  auto* base = static_cast<Value*>(r.cache.pool) + r.page * r.cache.page_stride + r.cache.layer_offset;
  for (int h = 0; h < r.kv_heads; ++h) {
    rotate(r, x + h * d, rotated);
    store_floats<T>(narrow, rotated, d);
    write_key<T>(r.cache, base + h * r.cache.head_stride, r.slot, narrow);
  }
  x += r.kv_heads * d;
  const bool clear_partner = r.last_of_sequence && T::kPack == 2 && r.slot % 2 == 0;
  const int64_t keys = (int64_t)r.cache.page_tokens * round_up(d, 2);
  for (int h = 0; h < r.kv_heads; ++h) {
    store_floats<T>(narrow, x + h * d, d);
    write_value<T>(r.cache, base + h * r.cache.head_stride + keys, r.slot, narrow, clear_partner);
  }
}

}  // namespace octavo::OCTAVO_ISA
