// Norms of one row.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

struct Moments {
  float mean, scale;  // 1 / sqrt(variance + eps)
};

// Of n columns; what follows them does not matter. Where they are not centred, the mean counts as 0.
template <bool kIsCentred>
inline Moments moments(const float* x, int64_t n, float eps) {
  const int64_t whole = n / kLanes * kLanes;
  float rest[kLanes] = {};
  if (n > whole) memcpy(rest, x + whole, (n - whole) * sizeof(float));
  float mean = 0;
  if (kIsCentred) {
    F32 sum = zero();
    for (int64_t i = 0; i < whole; i += kLanes) sum = sum + load(x + i);
    mean = reduce_add(sum + load(rest)) / (float)n;
    for (int64_t i = 0; i < n - whole; ++i) rest[i] -= mean;
  }
  F32 squares = zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const F32 centred = kIsCentred ? load(x + i) - set1(mean) : load(x + i);
    squares = fma(centred, centred, squares);
  }
  if (n > whole) squares = fma(load(rest), load(rest), squares);
  return {mean, 1 / __builtin_sqrtf(reduce_add(squares) / (float)n + eps)};
}

// 16 columns from `i` on: out = (x - mean) * scale * weight + bias.
template <class T, bool kIsCentred>
inline void put_norm(const NormRow& row, int64_t i, F32 mean, F32 scale) {
  const F32 x = load(row.x + i), weight = load(row.weight + i);
  if constexpr (kIsCentred)
    store_as<T>(row.out, i, row.floats, fma((x - mean) * scale, weight, load(row.bias + i)));
  else
    store_as<T>(row.out, i, row.floats, x * scale * weight);
}

// With the moments of each group of `width` columns.
template <class T, bool kIsCentred>
void norm(const NormRow& row) {
  const auto moments_at = [&](int64_t begin) { return moments<kIsCentred>(row.x + begin, row.width, row.eps); };
  if (row.width == row.columns || row.width % kLanes == 0) {
    for (int64_t begin = 0; begin < row.columns; begin += row.width) {
      const Moments group = moments_at(begin);
      const F32 mean = set1(group.mean), scale = set1(group.scale);
      for (int64_t i = begin; i < begin + row.width; i += kLanes) put_norm<T, kIsCentred>(row, i, mean, scale);
    }
    return;
  }
  Moments group = {};
  for (int64_t i = 0; i < row.columns; i += kLanes) {  // of which there may be several groups
    float means[kLanes], scales[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((i + lane) % row.width == 0 && i + lane < row.columns) group = moments_at(i + lane);
      means[lane] = group.mean;
      scales[lane] = group.scale;
    }
    put_norm<T, kIsCentred>(row, i, load(means), load(scales));
  }
}

template <class T>
void rms_norm(const NormRow& row) {
  norm<T, false>(row);
}
template <class T>
void layer_norm(const NormRow& row) {
  norm<T, true>(row);
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
