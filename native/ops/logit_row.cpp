#include "ops/logit_row.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/cpu.h"

namespace octavo {

namespace {

constexpr float kVanishing = 88;  // exp(-88) is 0 in the kernels
constexpr int64_t kBand = 1024;   // tokens that find_by_logit() sorts without a thought

// Integers in the order of the floats.
int64_t ordinal(float x) {
  const auto bits = std::bit_cast<int32_t>(x + 0.0f);  // -0 becomes 0
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

float from_ordinal(int64_t i) {
  const auto bits = static_cast<int32_t>(i);
  return std::bit_cast<float>(bits < 0 ? bits ^ 0x7fffffff : bits);
}

// Integers in the order of falling logits, then rising ids.
uint64_t sort_key(float logit, int32_t id) {
  return static_cast<uint64_t>(INT32_MAX - ordinal(logit)) << 32 | static_cast<uint32_t>(id);
}

// A number that at least `wanted` of the x reach, if so many are above -inf, and not many more.
float threshold_for(int64_t wanted, const float* x, int64_t n) {
  int64_t low = ordinal(LogitRow::kLowest), high = ordinal(LogitRow::kInfinity);
  while (wanted < n && high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const int64_t count = kernels().sampling.count_not_less(x, n, nullptr, from_ordinal(middle));
    (count < wanted ? high : low) = middle;
    if (count >= wanted && count <= wanted + wanted / 4) break;
  }
  return from_ordinal(low);
}

}  // namespace

void LogitRow::find_maxima(const float* logits, int64_t n, float* maxima) {
  if (!kernels().sampling.block_maxima(logits, n, maxima)) std::fill_n(maxima, sampling_blocks(n), kInfinity);
}

bool LogitRow::scan(const float* logits, int64_t n, const float* maxima) {
  x_ = logits;
  n_ = n;
  if (!maxima) {
    own_maxima_.resize(sampling_blocks(n));
    find_maxima(logits, n, own_maxima_.data());
  }
  maxima_ = maxima ? maxima : own_maxima_.data();
  segments_.resize((n + kSamplingSegment - 1) / kSamplingSegment);
  collected_.resize(n);
  max_ = *std::max_element(maxima_, maxima_ + sampling_blocks(n));
  return max_ < kInfinity;
}

int32_t LogitRow::argmax() const {
  const auto block = std::find(maxima_, maxima_ + sampling_blocks(n_), max_) - maxima_;
  return static_cast<int32_t>(std::find(x_ + block * kSamplingBlock, x_ + n_, max_) - x_);
}

double LogitRow::mass(float scale, float threshold) {
  kernels().sampling.masses(x_, n_, maxima_, threshold, max_, scale, segments_.data());
  double sum = 0;
  for (double segment : segments_) sum += segment;
  return sum;
}

double LogitRow::log_mass() { return std::log(mass(1)); }

float LogitRow::logprob(int32_t id, double log_mass) const {
  return static_cast<float>(static_cast<double>(x_[id]) - max_ - log_mass);
}

int32_t LogitRow::rank(int32_t id) const {
  const float next = std::nextafter(x_[id], kInfinity);
  return 1 + static_cast<int32_t>(kernels().sampling.count_not_less(x_, n_, maxima_, next));
}

// In both searches rounding may leave the sum short of the target: then the last possible token is taken.
int32_t LogitRow::find_by_id(float scale, double target) const {
  int64_t found = 0;
  for (size_t segment = 0; segment < segments_.size(); ++segment) {
    if (segments_[segment] == 0) continue;
    found = static_cast<int64_t>(segment);
    if (segments_[segment] >= target) break;
    target -= segments_[segment];
  }
  const int64_t begin = found * kSamplingSegment, count = std::min(kSamplingSegment, n_ - begin);
  float weights[kSamplingSegment];
  kernels().sampling.weights(x_ + begin, count, max_, scale, weights);
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count && sum < target; ++i) {
    if (weights[i] == 0) continue;
    sum += weights[i];
    last = i;
  }
  return static_cast<int32_t>(begin + last);
}

Prefix LogitRow::find_in(const std::vector<int32_t>& ids, float scale, double before, double target) {
  const size_t count = ids.size();
  logits_.resize(count);
  weights_.resize(count);
  for (size_t i = 0; i < count; ++i) logits_[i] = x_[ids[i]];
  kernels().sampling.weights(logits_.data(), static_cast<int64_t>(count), max_, scale, weights_.data());
  Prefix prefix{ids[0], before + weights_[0]};
  for (size_t i = 1; i < count && prefix.mass < target && weights_[i] > 0; ++i)
    prefix = {ids[i], prefix.mass + weights_[i]};
  return prefix;
}

// Narrows [low, high) around the logit that ends the prefix until few enough are inside to sort them: first
// among the likeliest tokens, where it nearly always is, then by halves.
Prefix LogitRow::find_by_logit(float scale, float floor, double target) {
  const auto blocks = sampling_blocks(n_);
  float low = std::max({floor, max_ - kVanishing / scale, kLowest}), high = kInfinity;
  double above = 0;  // mass of the logits that reach `high`
  const auto narrow = [&](float middle) {
    const double reached = mass(scale, middle);
    if (reached >= target) {
      low = middle;
    } else {
      high = middle;
      above = reached;
    }
    return low == middle;
  };
  for (int64_t wanted = 64; 2 * wanted <= blocks; wanted *= 4) {
    const float guess = threshold_for(wanted, maxima_, blocks);
    if (guess <= low || narrow(guess)) break;
  }
  const auto reaching = [&](float threshold) { return kernels().sampling.count_not_less(x_, n_, maxima_, threshold); };
  while (reaching(low) - reaching(high) > kBand) {
    const float middle = low / 2 + std::min(high, max_) / 2;
    if (middle <= low || middle >= high) break;
    narrow(middle);
  }
  return find_in(sorted(low, high, n_), scale, above, target);
}

const std::vector<int32_t>& LogitRow::top(int64_t k, float floor) {
  const auto blocks = sampling_blocks(n_);
  const bool few = 2 * k <= blocks;  // the k-th largest maximum is at most the k-th largest logit, and near it
  const float low = few ? threshold_for(k, maxima_, blocks) : threshold_for(k, x_, n_);
  return sorted(std::max(low, floor), kInfinity, k);
}

const std::vector<int32_t>& LogitRow::sorted(float low, float high, int64_t limit) {
  const int64_t found = kernels().sampling.collect(x_, n_, maxima_, low, collected_.data());
  keys_.clear();
  for (int64_t i = 0; i < found; ++i) {
    const int32_t id = collected_[i];
    if (x_[id] < high) keys_.push_back(sort_key(x_[id], id));
  }
  if (static_cast<int64_t>(keys_.size()) > limit) {
    std::nth_element(keys_.begin(), keys_.begin() + limit, keys_.end());
    keys_.resize(limit);
  }
  std::sort(keys_.begin(), keys_.end());
  ids_.resize(keys_.size());
  std::transform(keys_.begin(), keys_.end(), ids_.begin(), [](uint64_t key) { return static_cast<int32_t>(key); });
  return ids_;
}

}  // namespace octavo
