// Functions of single values.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

template <class T>
void cast(const float* x, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_as<T>(out, i, floats, load(x + i));
}

// out = activation(x), or, with y, the gated value of both, over n columns padded to 16.
template <class T>
void activate_row(Activation kind, const float* x, const float* y, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 value = load(x + i);
    store_as<T>(out, i, floats, y ? glu(kind, value, load(y + i)) : activate(kind, value));
  }
}

// out = beta x + positive x², or, where x is not above 0, beta x + negative (e^min(x, eps) - 1 - x).
template <class T>
void xielu(const Xielu& f, const float* x, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 v = load(x + i);
    const F32 above = set1(f.positive) * v * v;
    const F32 below = set1(f.negative) * (exp(min(v, set1(f.eps))) - set1(1.0f) - v);
    store_as<T>(out, i, floats, fma(set1(f.beta), v, select_less(zero(), v, above, below)));
  }
}

// out = F::of(x, y, params), over n columns padded to 16; where F has one argument, y is x.
template <class F, class T>
void each_value(const float* x, const float* y, const float* params, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_as<T>(out, i, floats, F::of(load(x + i), load(y + i), params));
}

struct Add {
  static F32 of(F32 x, F32 y, const float*) { return x + y; }
};
struct Softcap {
  static F32 of(F32 x, F32, const float* params) { return softcap(x, params[0]); }
};
struct Scale {
  static F32 of(F32 x, F32, const float* params) { return x * set1(params[0]); }
};
struct Clip {  // NaN stays NaN
  static F32 of(F32 x, F32, const float* params) {
    const F32 high = set1(params[0]), low = set1(-params[0]);
    return select_less(x, low, low, select_less(high, x, high, x));
  }
};

#define OCTAVO_POINTWISE(F) {each_value<F, Float32>, each_value<F, BFloat16>}

// A line for each op: its name, how many inputs it has, and its parameters in the order in which F finds them.
constexpr PointwiseKernel pointwise[] = {
    {"add", 2, {}, OCTAVO_POINTWISE(Add)},
    {"softcap", 1, {"cap"}, OCTAVO_POINTWISE(Softcap)},
    {"scale", 1, {"factor"}, OCTAVO_POINTWISE(Scale)},
    {"clip", 1, {"limit"}, OCTAVO_POINTWISE(Clip)},
};

}  // namespace octavo::OCTAVO_ISA
