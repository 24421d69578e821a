// Functions of single values.
#pragma once

#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

template <class T>
void cast(const float* x, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_as<T>(out, i, floats, load(x + i));
}

// out = F::of(x, y, params), over n columns padded to 16; where F has one argument, y is x.
template <class F, class T>
void each_value(const float* x, const float* y, const float* params, int64_t n, bool floats, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_as<T>(out, i, floats, F::of(load(x + i), load(y + i), params));
}

struct Add {
  static F32 of(F32 x, F32 y, const float*) { return x + y; }
};
struct Glu {
  static F32 of(F32 gate, F32 up, const float*) { return silu(gate) * up; }
};
struct Gelu {
  static F32 of(F32 x, F32, const float*) { return gelu(x); }
};
struct Softcap {
  static F32 of(F32 x, F32, const float* params) {
    const F32 cap = set1(params[0]), e = exp(x * set1(2.0f) / cap);
    return cap - set1(2.0f) * cap / (e + set1(1.0f));
  }
};

#define OCTAVO_POINTWISE(F) {each_value<F, Float32>, each_value<F, BFloat16>}

// A line for each op: its name, how many inputs it has, and its parameters in the order in which F finds them.
constexpr PointwiseKernel pointwise[] = {
    {"add", 2, {}, OCTAVO_POINTWISE(Add)},
    {"glu", 2, {}, OCTAVO_POINTWISE(Glu)},
    {"gelu", 1, {}, OCTAVO_POINTWISE(Gelu)},
    {"softcap", 1, {"cap"}, OCTAVO_POINTWISE(Softcap)},
};

}  // namespace octavo::OCTAVO_ISA
