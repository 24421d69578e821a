// Weights that are quantized while they are loaded: 16 rows at once, one in each lane.
#pragma once

#include "kernels/kernels.h"
#include "kernels/quantized_layout.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// A choice of d and m for d * q + m, and the sum of its squared errors.
struct Affine {
  F32 scale, minimum, error;
};

// The numbers from 0 to 15 of which d * q + m is nearest to x; NaN becomes one of them, too.
struct Nearest {
  F32 minimum, factor;

  explicit Nearest(const Affine& a)
      : minimum(a.minimum), factor(select_less(zero(), a.scale, set1(1.0f) / a.scale, zero())) {}
  F32 operator()(F32 x) const { return max(min(round((x - minimum) * factor), set1(15)), zero()); }
};

// d and m as float16 holds them, and what the values that are nearest to x are wrong by.
inline Affine measure_affine(const F32* x, F32 scale, F32 minimum) {
  Affine found{to_half_and_back(scale), to_half_and_back(minimum), zero()};
  const Nearest nearest(found);
  for (int i = 0; i < kUnit; ++i) {
    const F32 wrong = fma(nearest(x[i]), found.scale, found.minimum) - x[i];
    found.error = fma(wrong, wrong, found.error);
  }
  return found;
}

// The d and m of least squared error for the q that `guess` gives.
inline Affine refine_affine(const F32* x, const Affine& guess) {
  const Nearest nearest(guess);
  F32 sum_q = zero(), sum_qq = zero(), sum_x = zero(), sum_qx = zero();
  for (int i = 0; i < kUnit; ++i) {
    const F32 q = nearest(x[i]);
    sum_q = sum_q + q;
    sum_qq = fma(q, q, sum_qq);
    sum_x = sum_x + x[i];
    sum_qx = fma(q, x[i], sum_qx);
  }
  const F32 n = set1(kUnit), spread = n * sum_qq - sum_q * sum_q;
  const F32 scale = select_less(zero(), spread, (n * sum_qx - sum_q * sum_x) / spread, guess.scale);
  return measure_affine(x, scale, (sum_x - scale * sum_q) * set1(1.0f / kUnit));
}

inline Affine better(const Affine& a, const Affine& b) {
  return {select_less(b.error, a.error, b.scale, a.scale), select_less(b.error, a.error, b.minimum, a.minimum),
          min(b.error, a.error)};
}

// One group of kUnit columns, x[kUnit][16], in 4 bits: q[kUnit][16], and d and m of each row. The range of values, and
// ranges that leave out a little of it at both ends, are where the search begins; least squares improves each. A row
// with NaN or infinity gets a NaN for its d.
inline void quantize_affine(const float* values, uint8_t* q, uint16_t* d, uint16_t* m) {
  constexpr int kStarts = 4;
  F32 x[kUnit], low = load(values), high = low, probe = zero();
  for (int i = 0; i < kUnit; ++i) {
    x[i] = load(values + i * kLanes);
    low = min(low, x[i]);
    high = max(high, x[i]);
    probe = fma(x[i], zero(), probe);
  }
  const F32 range = high - low;
  Affine best = measure_affine(x, range * set1(1.0f / 15), low);
  for (int i = 0; i < kStarts; ++i) {
    const F32 cut = range * set1(0.02f * (float)i);
    const Affine start = measure_affine(x, (range - cut - cut) * set1(1.0f / 15), low + cut);
    const Affine once = refine_affine(x, start);
    best = better(better(best, start), better(once, refine_affine(x, once)));
  }
  const Nearest nearest(best);
  for (int i = 0; i < kUnit; ++i) {
    int8_t lane[kLanes];
    store_rounded(lane, nearest(x[i]));
    memcpy(q + i * kLanes, lane, kLanes);
  }
  store_halves(d, best.scale + probe);
  store_halves(m, best.minimum);
}

}  // namespace octavo::OCTAVO_ISA
