// The vector kernels that sampling is made of, one set per instruction set. The logic above them is in
// ops/sampling.cpp.
//
// `x` is a row of `n` logits. Its blocks are runs of kSamplingBlock logits, the last one shorter, and
// `maxima` holds the largest logit of each: most of a row is never looked at again. Its segments are runs of
// kSamplingSegment logits. The weight of a logit is exp((x - max) * scale), where `max` is the row's largest
// and `scale` is 1 / temperature.
#pragma once

#include <cstdint>

namespace octavo {

constexpr int64_t kSamplingBlock = 64;
constexpr int64_t kSamplingSegment = 1024;
constexpr int64_t sampling_blocks(int64_t n) { return (n + kSamplingBlock - 1) / kSamplingBlock; }

struct SamplingKernels {
  // Fills `maxima`; returns whether every logit is a number below infinity (-inf may be among them).
  bool (*block_maxima)(const float* x, int64_t n, float* maxima);

  // Copies the x whose bits in `allowed` (bit i % 32 of word i / 32) are set, and -inf in place of the others. The x
  // are numbers below infinity, or -inf. Fills the `maxima` of the copy.
  void (*mask)(const float* x, int64_t n, const uint32_t* allowed, float* out, float* maxima);

  // How many x are at least `threshold`. `maxima` may be null.
  int64_t (*count_not_less)(const float* x, int64_t n, const float* maxima, float threshold);

  // Writes the positions of all x that are at least `threshold`, in order; returns how many. `ids` has room
  // for n.
  int64_t (*collect)(const float* x, int64_t n, const float* maxima, float threshold, int32_t* ids);

  // The weight of each x.
  void (*weights)(const float* x, int64_t n, float max, float scale, float* out);

  // Per segment, the sum of the weights of the x that are at least `threshold`.
  void (*masses)(const float* x, int64_t n, const float* maxima, float threshold, float max, float scale, double* sums);
};

}  // namespace octavo
