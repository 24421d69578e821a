// One SIMD vocabulary: 16 float lanes, whatever the registers are. Kernels are written once over it and compiled once
// per instruction set, so this header (and every kernel) must not include templates of the standard library: the
// linker would be free to keep a copy compiled for the wrong machine.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

namespace octavo {

constexpr int kLanes = 16;
constexpr float kMinusInfinity = -__builtin_inff();

}  // namespace octavo

#if defined(__AVX512F__)
#include "kernels/simd_avx512.h"
#elif defined(__AVX2__)
#include "kernels/simd_avx2.h"
#else
#include "kernels/simd_portable.h"
#endif

namespace octavo::OCTAVO_ISA {

// e^x by Cody-Waite reduction and a degree-6 polynomial; relative error below 2e-7, exp(0) is exactly 1, and anything
// under -87.3 (also -inf) gives exactly 0. NaN stays NaN.
inline F32 exp(F32 x) {
  const F32 low = set1(-87.3365f);
  const F32 n = round(min(set1(88.3f), x) * set1(1.44269504f));
  F32 r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F32 p = set1(1.0f / 720);
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return select_less(x, low, zero(), scale_by_power_of_two(p, n));
}

// Both sums and maxima over the lanes reduce as a tree of fixed shape: halves, quarters, pairs.
inline float reduce_add(F32 x) {
  float lane[kLanes];
  store(lane, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

inline float reduce_max(F32 x) {
  float lane[kLanes];
  store(lane, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

inline F32 to_half_and_back(F32 x) {
  uint16_t bits[kLanes];
  store_halves(bits, x);
  return load_halves(bits);
}

// The two element types of activations, weights and KV cache. `kPack` neighbours along K sit side by side, so that one
// dot() consumes them; `Word` holds that many.
struct Float32 {
  using Value = float;
  static constexpr int kPack = 1;
  static inline F32 dot(F32 sum, const Value* a, const Value* b) { return fma(set1(a[0]), load(b), sum); }
  static inline F32 load16(const Value* p) { return load(p); }
  static inline void store16(Value* p, F32 x) { store(p, x); }
};

struct BFloat16 {
  using Value = bf16;
  static constexpr int kPack = 2;
  // sum[i] += a[0] * b[2i] + a[1] * b[2i + 1]
  static inline F32 dot(F32 sum, const Value* a, const Value* b) { return dot_bf16(sum, a, b); }
  static inline F32 load16(const Value* p) { return load_bf16(p); }
  static inline void store16(Value* p, F32 x) { store_bf16(p, x); }
};

// Calls f with n as a constant, 1 <= n <= Max.
template <int Max, class F>
inline void with_constant(int n, F&& f) {
  if constexpr (Max > 1)
    if (n < Max) return with_constant<Max - 1>(n, f);
  f.template operator()<Max>();
}

// Calls f with 0, 1, … n - 1 as constants.
template <int n, class F>
inline void for_each_constant(F&& f) {
  if constexpr (n > 0) {
    for_each_constant<n - 1>(f);
    f.template operator()<n - 1>();
  }
}

// 16 lanes at element i of a row: in float32, or in the element type.
template <class T>
inline void store_as(void* out, int64_t i, bool floats, F32 x) {
  if (floats)
    store(static_cast<float*>(out) + i, x);
  else
    T::store16(static_cast<typename T::Value*>(out) + i, x);
}

}  // namespace octavo::OCTAVO_ISA
