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
  float rest[kLanes] = {}, scale[kLanes];
  memcpy(rest, x + whole, (n - whole) * sizeof(float));
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
  squares = fma(load(rest), load(rest), squares);
  store(scale, set1(1.0f) / sqrt(set1(reduce_add(squares) / (float)n + eps)));
  return {mean, scale[0]};
}

// out = (x - mean) * scale * weight + bias, with the moments of each group of `width` columns. Groups whose width is no
// multiple of 16 meet in the lanes of one register.
template <class T, bool kIsCentred>
void norm(const NormRow& row) {
  float means[kLanes], scales[kLanes];
  Moments group = {};
  int64_t begin = 0, end = 0;  // of the group
  bool in_all_lanes = false;
  for (int64_t i = 0; i < row.columns; i += kLanes) {
    if (!in_all_lanes || i + kLanes > end) {
      for (int lane = 0; lane < kLanes; ++lane) {
        if (i + lane == end && end < row.columns) {
          begin = end;
          end += row.width;
          group = moments<kIsCentred>(row.x + begin, row.width, row.eps);
        }
        means[lane] = group.mean;
        scales[lane] = group.scale;
      }
      in_all_lanes = begin <= i;
    }
    const F32 x = load(row.x + i), weight = load(row.weight + i);
    if constexpr (kIsCentred)
      store_as<T>(row.out, i, row.floats, fma((x - load(means)) * load(scales), weight, load(row.bias + i)));
    else
      store_as<T>(row.out, i, row.floats, x * load(scales) * weight);
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
