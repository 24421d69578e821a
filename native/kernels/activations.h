// Functions of single values between two matrices.
#pragma once

#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// x * σ(factor * x)
inline F32 gated_by_itself(F32 x, F32 factor) { return x / (set1(1.0f) + exp(zero() - factor * x)); }

inline F32 silu(F32 x) { return x / (set1(1.0f) + exp(zero() - x)); }

// x * Φ(x). 1 - erf(z) is exp(-z²) times a polynomial, within 1.5e-7 (Abramowitz and Stegun, 7.1.26).
inline F32 gelu(F32 x) {
  const F32 positive = max(x, zero() - x), z = positive * set1(0.70710678118654752f);
  const F32 t = set1(1.0f) / fma(set1(0.3275911f), z, set1(1.0f));
  F32 p = fma(set1(1.061405429f), t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const F32 erf = set1(1.0f) - p * t * exp(zero() - z * z);
  return set1(0.5f) * fma(positive, erf, x);
}

// x * (1 + tanh(u)) / 2 = x * σ(2u), with u = sqrt(2 / π) * (x + 0.044715 x³).
inline F32 gelu_tanh(F32 x) {
  return gated_by_itself(x, set1(1.5957691216f) * fma(set1(0.044715f) * x, x, set1(1.0f)));
}

inline F32 sigmoid(F32 x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

inline F32 relu(F32 x) { return select_less(x, zero(), zero(), x); }  // NaN stays NaN

inline F32 activate(Activation kind, F32 x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kSilu:
      return silu(x);
    case Activation::kGelu:
      return gelu(x);
    case Activation::kGeluTanh:
      return gelu_tanh(x);
    case Activation::kQuickGelu:
      return gated_by_itself(x, set1(1.702f));
    case Activation::kRelu:
      return relu(x);
    case Activation::kRelu2:
      return relu(x) * relu(x);
    case Activation::kSigmoid:
      return sigmoid(x);
    case Activation::kSwigluoai:
      break;
  }
  return x;
}

// activation(gate) * up, but where there are limits.
inline F32 glu(Activation kind, F32 gate, F32 up) {
  if (kind != Activation::kSwigluoai) return activate(kind, gate) * up;
  const F32 limit = set1(7), low = set1(-7);
  gate = select_less(limit, gate, limit, gate);  // NaN stays NaN
  up = select_less(up, low, low, select_less(limit, up, limit, up));
  return gated_by_itself(gate, set1(1.702f)) * (up + set1(1.0f));
}

// cap * tanh(x / cap)
inline F32 softcap(F32 x, float cap) {
  const F32 e = exp(x * set1(2.0f) / set1(cap));
  return set1(cap) - set1(2.0f) * set1(cap) / (e + set1(1.0f));
}

}  // namespace octavo::OCTAVO_ISA
