// Scores of experts.
#pragma once

#include "kernels/activations.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// The softmax of n logits, or the sigmoid of each. `out` has room for whole lanes.
inline void scores(bool are_sigmoid, const float* logits, int64_t n, float* out) {
  const int64_t whole = n / kLanes * kLanes;
  float rest[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) rest[lane] = whole + lane < n ? logits[whole + lane] : -__builtin_inff();
  if (are_sigmoid) {
    for (int64_t i = 0; i < whole; i += kLanes) store(out + i, sigmoid(load(logits + i)));
    if (n > whole) store(out + whole, sigmoid(load(rest)));
    return;
  }
  F32 high = load(rest), sum = zero();
  for (int64_t i = 0; i < whole; i += kLanes) high = max(high, load(logits + i));
  high = set1(reduce_max(high));
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 exponential = exp(load(i < whole ? logits + i : rest) - high);
    store(out + i, exponential);
    sum = sum + exponential;
  }
  const F32 factor = set1(1 / reduce_add(sum));
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, load(out + i) * factor);
}

}  // namespace octavo::OCTAVO_ISA
