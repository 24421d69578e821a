// What layers compute from a state of each sequence: convolutions over its last tokens, and the gated delta rule.
#pragma once

#include "kernels/activations.h"
#include "kernels/kernels.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

// out = activation(bias + sum of weight[j] * rows[j]), over columns padded to 16.
inline void causal_conv(const CausalConvRow& c) {
  const int64_t padded = round_up(c.columns, kLanes);
  for (int64_t i = 0; i < padded; i += kLanes) {
    F32 sum = load(c.bias + i);
    for (int j = 0; j < c.kernel; ++j)
      if (c.rows[j]) sum = fma(load(c.weight + j * padded + i), load(c.rows[j] + i), sum);
    store(c.out + i, activate(c.activation, sum));
  }
}

inline float dot(const float* x, const float* y, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  F32 sum = zero();
  for (int64_t i = 0; i < whole; i += kLanes) sum = fma(load(x + i), load(y + i), sum);
  if (n > whole) {
    float x_rest[kLanes] = {}, y_rest[kLanes] = {};
    memcpy(x_rest, x + whole, (n - whole) * sizeof(float));
    memcpy(y_rest, y + whole, (n - whole) * sizeof(float));
    sum = fma(load(x_rest), load(y_rest), sum);
  }
  return reduce_add(sum);
}

// What a token's q and k, as they are, have to be multiplied with, and their product.
struct DeltaScales {
  float q, k, product;
};

constexpr int kDeltaVectors = kDeltaColumns / kLanes;

// One pass over a state: it takes in a token's change (S <- decay S + k ⊗ change), or is read by the next one
// (Sᵀ k, Sᵀ q), or both. Each column has one chain of sums, over key_dim in rising order.
template <bool kChanges, bool kReads>
inline void sweep(float* state, int64_t key_dim, float decay, const float* changed_k, const F32* change, const float* k,
                  const float* q, F32* from_k, F32* from_q) {
  F32 now[kDeltaVectors], of_k[kDeltaVectors], of_q[kDeltaVectors];
  for (int j = 0; j < kDeltaVectors; ++j) now[j] = kChanges ? change[j] : zero(), of_k[j] = of_q[j] = zero();
  const F32 factor = set1(decay);
  for (int64_t i = 0; i < key_dim; ++i, state += kDeltaColumns) {
    for (int j = 0; j < kDeltaVectors; ++j) {
      F32 s = load(state + j * kLanes);
      if constexpr (kChanges) {
        s = fma(set1(changed_k[i]), now[j], s * factor);
        store(state + j * kLanes, s);
      }
      if constexpr (kReads) {
        of_k[j] = fma(set1(k[i]), s, of_k[j]);
        of_q[j] = fma(set1(q[i]), s, of_q[j]);
      }
    }
  }
  for (int j = 0; j < kDeltaVectors && kReads; ++j) from_k[j] = of_k[j], from_q[j] = of_q[j];
}

// Columns [column, column + columns) of the values. A token reads the state before its own change, in the pass that
// takes in the one before: what it would read after is S'ᵀ q = decay Sᵀ q + (k · q) change.
inline void delta_columns(const Delta& d, const DeltaScales* scales, int64_t column, int64_t columns, float* state) {
  F32 change[kDeltaVectors], from_k[kDeltaVectors], from_q[kDeltaVectors];
  const float* last_k = nullptr;
  for (int t = 0; t < d.tokens; ++t) {
    const float *q = d.q + t * d.q_stride, *k = d.k + t * d.k_stride;
    if (t == 0)
      sweep<false, true>(state, d.key_dim, 0, nullptr, nullptr, k, q, from_k, from_q);
    else
      sweep<true, true>(state, d.key_dim, d.decay[t - 1], last_k, change, k, q, from_k, from_q);
    last_k = k;
    float v[kDeltaColumns] = {}, out[kDeltaColumns];
    memcpy(v, d.v + t * d.v_stride + column, columns * sizeof(float));
    const DeltaScales& by = scales[t];
    const F32 forgotten = set1(-d.decay[t] * by.k), learnt = set1(d.beta[t] * by.k), decay = set1(d.decay[t]);
    for (int j = 0; j < kDeltaVectors; ++j) {
      change[j] = fma(forgotten, from_k[j], load(v + j * kLanes)) * learnt;
      store(out + j * kLanes, set1(by.q) * fma(set1(by.product), change[j], decay * from_q[j]));
    }
    memcpy(d.out + t * d.out_stride + column, out, columns * sizeof(float));
  }
  sweep<true, false>(state, d.key_dim, d.decay[d.tokens - 1], last_k, change, nullptr, nullptr, nullptr, nullptr);
}

inline void delta(const Delta& d) {
  DeltaScales scales[kDeltaTokens];
  for (int t = 0; t < d.tokens; ++t) {
    const float *q = d.q + t * d.q_stride, *k = d.k + t * d.k_stride;
    const float q_length = __builtin_sqrtf(dot(q, q, d.key_dim) + d.eps);
    scales[t] = {1 / (q_length * __builtin_sqrtf((float)d.key_dim)), 1 / __builtin_sqrtf(dot(k, k, d.key_dim) + d.eps),
                 dot(q, k, d.key_dim)};
  }
  float* state = d.state;
  for (int64_t column = 0; column < d.columns; column += kDeltaColumns, state += d.key_dim * kDeltaColumns) {
    const int64_t columns = d.columns - column < kDeltaColumns ? d.columns - column : kDeltaColumns;
    delta_columns(d, scales, column, columns, state);
  }
}

}  // namespace octavo::OCTAVO_ISA
