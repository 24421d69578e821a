#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/cpu.h"
#include "core/thread_pool.h"
#include "ops/logit_row.h"

namespace octavo {

namespace {

constexpr double kGreedyBelow = 1e-5;
constexpr double kMaxTemperature = 1e30;  // all the same from here on, and 1 / temperature stays a number
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Each thread's working space.
struct Scratch {
  LogitRow raw, adjusted;
  std::vector<float> logits, maxima;
};

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

// The smallest logit that is at least x.
float float_not_below(double x) {
  if (x <= LogitRow::kLowest) return LogitRow::kLowest;
  const auto nearest = static_cast<float>(x);
  return nearest < x ? std::nextafter(nearest, LogitRow::kInfinity) : nearest;
}

// One of the k likeliest tokens.
int32_t draw_top_k(LogitRow& row, float scale, float floor, int64_t k, double top_p, double u) {
  const std::vector<int32_t>& ids = row.top(k, floor);
  double kept = row.find_in(ids, scale, 0, LogitRow::kInfinity).mass;
  if (top_p < 1) kept = row.find_in(ids, scale, 0, top_p * kept).mass;
  return row.find_in(ids, scale, 0, u * kept).last;
}

// One of the likeliest tokens that have probability top_p together.
int32_t draw_top_p(LogitRow& row, float scale, float floor, double top_p, double u) {
  double kept = row.mass(scale, floor);
  if (top_p < 1) kept = row.find_by_logit(scale, floor, top_p * kept).mass;
  return row.find_by_logit(scale, floor, u * kept).last;
}

int32_t draw(LogitRow& row, const SamplingOptions& options, double u) {
  if (options.temperature < kGreedyBelow) return row.argmax();
  const double temperature = std::min(options.temperature, kMaxTemperature);
  const auto scale = static_cast<float>(1 / temperature);
  const bool has_top_k = options.top_k > 0 && options.top_k < row.size();
  if (!has_top_k && options.top_p >= 1 && options.min_p <= 0) return row.find_by_id(scale, u * row.mass(scale));
  const float floor =
      options.min_p > 0 ? float_not_below(row.max() + temperature * std::log(options.min_p)) : LogitRow::kLowest;
  if (has_top_k) return draw_top_k(row, scale, floor, options.top_k, options.top_p, u);
  return draw_top_p(row, scale, floor, options.top_p, u);
}

TopTokens top_tokens(LogitRow& row, int64_t k, double log_mass) {
  TopTokens result;
  if (k < 1) return result;
  result.ids = row.top(k);
  for (int32_t id : result.ids) result.logprobs.push_back(row.logprob(id, log_mass));
  return result;
}

// The row that is drawn from: `space.raw`, or a copy that the mask and the rules have changed. Null where that has NaN
// or infinity.
LogitRow* adjust(Scratch& space, const float* logits, const uint32_t* allowed, const SequenceSampler& sampler) {
  const int64_t n = sampler.options().vocab_size;
  const bool has_rules = sampler.has_rules();
  if (!allowed && !has_rules) return &space.raw;
  space.logits.resize(n);
  if (allowed) {
    space.maxima.resize(sampling_blocks(n));
    kernels().sampling.mask(logits, n, allowed, space.logits.data(), space.maxima.data());
  } else {
    std::copy(logits, logits + n, space.logits.begin());
  }
  if (has_rules) sampler.apply_rules(space.logits.data());
  const float* maxima = has_rules ? nullptr : space.maxima.data();
  return space.adjusted.scan(space.logits.data(), n, maxima) ? &space.adjusted : nullptr;
}

void sample_row(const float* logits, const float* maxima, const uint32_t* allowed, const SequenceSampler& sampler,
                int64_t i, SampleResult& result) {
  const SamplingOptions& options = sampler.options();
  Scratch& space = scratch();
  if (!space.raw.scan(logits, options.vocab_size, maxima)) return;
  LogitRow* row = adjust(space, logits, allowed, sampler);
  if (!row) return;
  if (row->is_masked()) {
    result.tokens[i] = space.raw.is_masked() ? kUnusableLogits : kAllBanned;
    return;
  }
  const int32_t token = result.tokens[i] = draw(*row, options, sampler.uniform());
  if (options.num_logprobs < 0) return;
  LogitRow& reported = options.adjusted_logprobs ? *row : space.raw;
  const double log_mass = reported.log_mass();
  result.logprobs[i] = reported.logprob(token, log_mass);
  result.ranks[i] = reported.rank(token);
  result.top[i] = top_tokens(reported, options.num_logprobs, log_mass);
}

// The mask of row `row`; null for row -1.
const uint32_t* mask_of(const TokenMasks& masks, int64_t row) {
  return row < 0 ? nullptr : masks.bits + row * masks.words;
}

void check_masks(const TokenMasks& masks, const std::vector<int64_t>& mask_rows, size_t count, int64_t vocab_size) {
  if (mask_rows.empty()) return;
  if (mask_rows.size() != count) throw std::invalid_argument("mask_rows and samplers differ in length");
  if (masks.words != (vocab_size + 31) / 32) throw std::invalid_argument("a mask needs a bit for each token");
  if (std::any_of(mask_rows.begin(), mask_rows.end(), [&](int64_t row) { return row < -1 || row >= masks.num_rows; }))
    throw std::invalid_argument("a mask row is not in [-1, " + std::to_string(masks.num_rows) + ")");
}

void check_index(const char* name, int64_t index, int64_t size) {
  if (index < 0 || index >= size)
    throw std::invalid_argument(std::string(name) + " " + std::to_string(index) + " is not in [0, " +
                                std::to_string(size) + ")");
}

}  // namespace

SampleResult sample(const LogitRows& logits, const std::vector<int64_t>& rows,
                    const std::vector<const SequenceSampler*>& samplers, const TokenMasks& masks,
                    const std::vector<int64_t>& mask_rows) {
  const size_t count = samplers.size();
  if (rows.size() != count) throw std::invalid_argument("rows and samplers differ in length");
  check_masks(masks, mask_rows, count, logits.vocab_size);
  for (size_t i = 0; i < count; ++i) {
    check_index("row", rows[i], logits.num_rows);
    if (!samplers[i]) throw std::invalid_argument("a sampler is None");
    if (samplers[i]->options().vocab_size != logits.vocab_size)
      throw std::invalid_argument("a sampler's vocabulary is not that of the logits");
  }
  SampleResult result{std::vector<int32_t>(count, kUnusableLogits), std::vector<float>(count, kNaN),
                      std::vector<int32_t>(count, 0), std::vector<TopTokens>(count)};
  ThreadPool::instance().parallel_for(static_cast<int64_t>(count), [&](int64_t i) {
    const uint32_t* allowed = mask_rows.empty() ? nullptr : mask_of(masks, mask_rows[i]);
    sample_row(logits.row(rows[i]), logits.maxima_of(rows[i]), allowed, *samplers[i], i, result);
  });
  return result;
}

TopLogprobs top_logprobs(const LogitRows& logits, int64_t k, const std::vector<int32_t>& token_ids) {
  if (static_cast<int64_t>(token_ids.size()) != logits.num_rows)
    throw std::invalid_argument("token_ids needs one token for each row");
  for (int32_t token : token_ids) check_index("token", token, logits.vocab_size);
  k = std::clamp<int64_t>(k, 0, logits.vocab_size);
  const size_t count = token_ids.size(), cells = count * static_cast<size_t>(k);
  TopLogprobs result{k, std::vector<int32_t>(cells, -1), std::vector<float>(cells, kNaN),
                     std::vector<float>(count, kNaN), std::vector<int32_t>(count, 0)};
  ThreadPool::instance().parallel_for(logits.num_rows, [&](int64_t i) {
    LogitRow& row = scratch().raw;
    if (!row.scan(logits.row(i), logits.vocab_size) || row.is_masked()) return;
    const double log_mass = row.log_mass();
    const TopTokens top = top_tokens(row, k, log_mass);
    std::copy(top.ids.begin(), top.ids.end(), result.ids.begin() + i * k);
    std::copy(top.logprobs.begin(), top.logprobs.end(), result.logprobs.begin() + i * k);
    result.chosen[i] = row.logprob(token_ids[i], log_mass);
    result.ranks[i] = row.rank(token_ids[i]);
  });
  return result;
}

}  // namespace octavo
