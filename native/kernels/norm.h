// Norms of one row.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// out = x / sqrt(mean(x²) + eps) * weight. x, weight and out are padded to 16 columns with zeros.
template <class T>
void rms_norm(const float* x, const float* weight, float eps, int64_t n, bool floats, void* out) {
  F32 squares = zero();
  for (int64_t i = 0; i < n; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  const F32 scale = set1(1.0f) / sqrt(set1(reduce_add(squares) / (float)n + eps));
  for (int64_t i = 0; i < n; i += kLanes) store_as<T>(out, i, floats, load(x + i) * scale * load(weight + i));
}

// out = (x - mean) / sqrt(variance + eps) * weight + bias. x, weight, bias and out are padded to 16 columns with zeros.
template <class T>
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n, bool floats, void* out) {
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
  for (int64_t i = 0; i < n; i += kLanes)
    store_as<T>(out, i, floats, fma((load(x + i) - mean) * scale, load(weight + i), load(bias + i)));
}

// out = x / max(|x|, eps), for each of `groups` groups of `width` columns.
inline void normalise(const float* x, int64_t groups, int64_t width, float eps, float* out) {
  for (int64_t g = 0; g < groups; ++g, x += width, out += width) {
    F32 squares = zero();
    float rest[kLanes] = {};
    for (int64_t i = 0; i + kLanes <= width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
    memcpy(rest, x + width / kLanes * kLanes, width % kLanes * sizeof(float));
    squares = fma(load(rest), load(rest), squares);
    float length[kLanes] = {reduce_add(squares)};
    store(length, max(sqrt(load(length)), set1(eps)));
    for (int64_t i = 0; i < width; ++i) out[i] = x[i] / length[0];
  }
}

}  // namespace octavo::OCTAVO_ISA
