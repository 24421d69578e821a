// One row of logits, looked at through the maxima of its blocks.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace octavo {

// The shortest prefix of a draw order whose mass reaches a target: the token that ends it, and its mass.
struct Prefix {
  int32_t last;
  double mass;
};

// The weight of a logit is exp((logit - max) * scale), where `scale` is 1 / temperature; a mass is a sum of
// weights. A row is reused for many rows of logits, so that its buffers are allocated once.
class LogitRow {
 public:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  static constexpr float kLowest = std::numeric_limits<float>::lowest();

  // The maxima of all blocks of a row, or of some of them: infinity where a logit is NaN or infinity.
  static void find_maxima(const float* logits, int64_t n, float* maxima);

  // Returns false where some logit is NaN or infinity: then nothing else may be asked. `logits` isn't copied, nor are
  // its `maxima`, if they are known.
  bool scan(const float* logits, int64_t n, const float* maxima = nullptr);

  float operator[](int64_t id) const { return x_[id]; }
  int64_t size() const { return n_; }
  float max() const { return max_; }
  bool is_masked() const { return max_ == -kInfinity; }  // every token is impossible

  int32_t argmax() const;

  // The mass of the logits that reach `threshold`.
  double mass(float scale, float threshold = kLowest);

  // By token id; `target` is above 0 and at most the mass that the last call of mass(scale) returned.
  int32_t find_by_id(float scale, double target) const;

  // By falling logit, among the logits that reach `floor`; `target` is at most their mass.
  Prefix find_by_logit(float scale, float floor, double target);

  // The ids of the k likeliest tokens that reach `floor`, by falling logit; valid until the next call.
  const std::vector<int32_t>& top(int64_t k, float floor = kLowest);

  // The same prefix as find_by_logit() in a list of tokens, which follows tokens of mass `before`.
  Prefix find_in(const std::vector<int32_t>& ids, float scale, double before, double target);

  // log(sum(exp(logits))) - max(): what logprob() needs
  double log_mass();

  float logprob(int32_t id, double log_mass) const;

  // 1 + the number of likelier tokens
  int32_t rank(int32_t id) const;

 private:
  const std::vector<int32_t>& sorted(float low, float high, int64_t limit);

  const float* x_ = nullptr;
  int64_t n_ = 0;
  float max_ = 0;
  const float* maxima_ = nullptr;  // per block
  std::vector<float> own_maxima_;
  std::vector<double> segments_;  // masses per segment
  std::vector<int32_t> collected_, ids_;
  std::vector<uint64_t> keys_;
  std::vector<float> logits_, weights_;
};

}  // namespace octavo
