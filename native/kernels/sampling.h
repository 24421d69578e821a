// Passes over a row of logits: see sampling_table.h. A row need not be a multiple of the vector's width: its
// last, partial block goes through a copy that is padded with -inf.
#pragma once

#include "kernels/sampling_table.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

constexpr float kLargest = 3.402823466e38f;

struct PaddedBlock {
  float x[kSamplingBlock];
  PaddedBlock(const float* from, int64_t count) {
    for (int64_t i = 0; i < kSamplingBlock; ++i) x[i] = i < count ? from[i] : kMinusInfinity;
  }
};

// Calls body(block, logits, number of logits) for the blocks [first, last) of a row; `logits` holds a whole
// block.
template <class F>
inline void each_block(const float* x, int64_t n, int64_t first, int64_t last, F&& body) {
  for (int64_t block = first; block < last; ++block) {
    const int64_t begin = block * kSamplingBlock, count = n - begin;
    if (count >= kSamplingBlock) {
      body(block, x + begin, kSamplingBlock);
    } else {
      const PaddedBlock padded(x + begin, count);
      body(block, padded.x, count);
    }
  }
}

inline bool block_maxima(const float* x, int64_t n, float* maxima) {
  // NaN compares as not below anything, so that the same test finds it and infinity.
  uint32_t finite = 0xffff;
  each_block(x, n, 0, sampling_blocks(n), [&](int64_t block, const float* p, int64_t) {
    F32 largest = load(p);
    finite &= mask_not_less(set1(kLargest), largest);
    for (int i = kLanes; i < kSamplingBlock; i += kLanes) {
      const F32 next = load(p + i);
      finite &= mask_not_less(set1(kLargest), next);
      largest = max(largest, next);
    }
    maxima[block] = reduce_max(largest);
  });
  return finite == 0xffff;
}

inline void mask(const float* x, int64_t n, const uint32_t* allowed, float* out, float* maxima) {
  const int64_t words = (n + 31) / 32;
  each_block(x, n, 0, sampling_blocks(n), [&](int64_t block, const float* p, int64_t count) {
    const int64_t word = block * (kSamplingBlock / 32);
    const uint64_t bits = allowed[word] | (uint64_t)(word + 1 < words ? allowed[word + 1] : 0) << 32;
    float result[kSamplingBlock];
    F32 largest = set1(kMinusInfinity);
    for (int i = 0; i < kSamplingBlock; i += kLanes) {
      const F32 kept = select_bits((uint32_t)(bits >> i), load(p + i), set1(kMinusInfinity));
      store(result + i, kept);
      largest = max(largest, kept);
    }
    memcpy(out + block * kSamplingBlock, result, (size_t)count * sizeof(float));
    maxima[block] = reduce_max(largest);
  });
}

inline int64_t count_not_less(const float* x, int64_t n, const float* maxima, float threshold) {
  int64_t found = 0;
  const int64_t blocks = sampling_blocks(n);
  for (int64_t block = 0; block < blocks; ++block) {
    if (maxima && maxima[block] < threshold) continue;
    each_block(x, n, block, block + 1, [&](int64_t, const float* p, int64_t) {
      for (int i = 0; i < kSamplingBlock; i += kLanes)
        found += __builtin_popcount(mask_not_less(load(p + i), set1(threshold)));
    });
  }
  return found;
}

inline int64_t collect(const float* x, int64_t n, const float* maxima, float threshold, int32_t* ids) {
  int64_t found = 0;
  const auto take = [&](int64_t block, const float* p, int64_t count) {
    for (int i = 0; i < kSamplingBlock; i += kLanes) {
      uint32_t hits = mask_not_less(load(p + i), set1(threshold));
      if (count < i + kLanes) hits &= count > i ? (1u << (count - i)) - 1 : 0;
      for (; hits; hits &= hits - 1) ids[found++] = (int32_t)(block * kSamplingBlock + i + __builtin_ctz(hits));
    }
  };
  const int64_t blocks = sampling_blocks(n);
  for (int64_t block = 0; block < blocks; ++block)
    if (maxima[block] >= threshold) each_block(x, n, block, block + 1, take);
  return found;
}

inline F32 weight(F32 x, float max, float scale) { return exp((x - set1(max)) * set1(scale)); }

inline void weights(const float* x, int64_t n, float max, float scale, float* out) {
  each_block(x, n, 0, sampling_blocks(n), [&](int64_t block, const float* p, int64_t count) {
    float* to = out + block * kSamplingBlock;
    float result[kSamplingBlock];
    for (int i = 0; i < kSamplingBlock; i += kLanes) store(result + i, weight(load(p + i), max, scale));
    memcpy(to, result, (size_t)count * sizeof(float));
  });
}

inline void masses(const float* x, int64_t n, const float* maxima, float threshold, float max, float scale,
                   double* sums) {
  constexpr int64_t kBlocks = kSamplingSegment / kSamplingBlock;
  const int64_t blocks = sampling_blocks(n);
  for (int64_t first = 0; first < blocks; first += kBlocks) {
    F32 sum[4] = {zero(), zero(), zero(), zero()};
    const int64_t last = first + kBlocks < blocks ? first + kBlocks : blocks;
    for (int64_t block = first; block < last; ++block) {
      if (maxima[block] < threshold) continue;
      each_block(x, n, block, block + 1, [&](int64_t, const float* p, int64_t) {
        for (int i = 0; i < 4; ++i) {
          const F32 logit = load(p + i * kLanes);
          sum[i] = sum[i] + select_less(logit, set1(threshold), zero(), weight(logit, max, scale));
        }
      });
    }
    sums[first / kBlocks] = reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}

constexpr SamplingKernels sampling_kernels = {
    .block_maxima = block_maxima,
    .mask = mask,
    .count_not_less = count_not_less,
    .collect = collect,
    .weights = weights,
    .masses = masses,
};

}  // namespace octavo::OCTAVO_ISA
