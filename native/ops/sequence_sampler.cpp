// The state of one sequence, and what it does to a row of logits before a token is drawn.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/sampling.h"

namespace octavo {

namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

void check_ids(const char* name, const std::vector<int32_t>& ids, int64_t vocab_size) {
  for (int32_t id : ids)
    if (id < 0 || id >= vocab_size)
      throw std::invalid_argument(std::string(name) + " has token " + std::to_string(id) + "; the vocabulary has " +
                                  std::to_string(vocab_size));
}

void check(bool holds, const char* rule) {
  if (!holds) throw std::invalid_argument(rule);
}

// The ranges of everything that is no list of tokens. NaN is in none of them.
void check_numbers(const SamplingOptions& o) {
  check(o.vocab_size >= 1 && o.vocab_size <= std::numeric_limits<int32_t>::max(), "vocab_size must be in 1..2^31-1");
  check(o.temperature >= 0, "temperature must be at least 0");
  check(o.top_p > 0 && o.top_p <= 1, "top_p must be above 0 and at most 1");
  check(o.top_k >= -1, "top_k must be at least -1");
  check(o.min_p >= 0 && o.min_p <= 1, "min_p must be in 0..1");
  check(std::isfinite(o.presence_penalty), "presence_penalty must be a number");
  check(std::isfinite(o.frequency_penalty), "frequency_penalty must be a number");
  check(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty must be above 0");
  check(o.num_logprobs >= -1, "num_logprobs must be at least -1");
  check(o.min_tokens >= 0, "min_tokens must be at least 0");
  check(std::none_of(o.bias_values.begin(), o.bias_values.end(), [](float bias) { return std::isnan(bias); }),
        "logit_bias must be numbers");
}

void check_timestamps(const TimestampRules& times, int64_t vocab_size) {
  check(times.begin >= 1 && times.begin < vocab_size, "timestamps must begin with a token that is not the first");
  check(times.end_of_text >= 0 && times.end_of_text <= times.begin,
        "timestamps: end_of_text must be a token of at most begin");
  check(times.max_initial >= 0, "timestamps: max_initial must be at least 0");
}

// The finalizer of splitmix64.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

SequenceSampler::SequenceSampler(SamplingOptions options, uint64_t seed, const std::vector<int32_t>& prompt_token_ids)
    : options_(std::move(options)), seed_(seed) {
  const int64_t vocab_size = options_.vocab_size;
  check_numbers(options_);
  options_.num_logprobs = std::min(options_.num_logprobs, vocab_size);
  if (options_.bias_ids.size() != options_.bias_values.size())
    throw std::invalid_argument("logit_bias needs one value for each token id");
  check_ids("logit_bias", options_.bias_ids, vocab_size);
  check_ids("allowed_token_ids", options_.allowed_ids, vocab_size);
  check_ids("early_stop_ids", options_.early_stop_ids, vocab_size);
  for (const auto& word : options_.bad_words) {
    if (word.empty()) throw std::invalid_argument("bad_words has an empty list");
    check_ids("bad_words", word, vocab_size);
  }
  if (options_.timestamps) check_timestamps(*options_.timestamps, vocab_size);
  if (options_.repetition_penalty != 1) {
    check_ids("prompt_token_ids", prompt_token_ids, vocab_size);
    for (int32_t token : prompt_token_ids) see(token, 0);
  }
}

void SequenceSampler::accept(int32_t token) {
  check_ids("the output", {token}, options_.vocab_size);
  output_.push_back(token);
  if (counts_tokens()) see(token, 1);
}

SequenceSampler SequenceSampler::fork(uint64_t seed) const {
  SequenceSampler copy = *this;
  copy.seed_ = seed;
  return copy;
}

bool SequenceSampler::counts_tokens() const {
  return options_.repetition_penalty != 1 || options_.presence_penalty != 0 || options_.frequency_penalty != 0;
}

void SequenceSampler::see(int32_t token, int32_t count) {
  const auto [place, is_new] = seen_at_.try_emplace(token, seen_.size());
  if (is_new) seen_.push_back({token, 0});
  seen_[place->second].count += count;
}

bool SequenceSampler::ends_bad_word(const std::vector<int32_t>& word) const {
  const size_t before = word.size() - 1;
  return before <= output_.size() && std::equal(word.begin(), word.end() - 1, output_.end() - before);
}

bool SequenceSampler::adjusts() const {
  const bool bans_stops = num_output() < options_.min_tokens && !options_.early_stop_ids.empty();
  return bans_stops || options_.timestamps || !options_.bias_ids.empty() || !options_.allowed_ids.empty() ||
         !seen_.empty() || std::any_of(options_.bad_words.begin(), options_.bad_words.end(), [this](const auto& word) {
           return ends_bad_word(word);
         });
}

void SequenceSampler::adjust(float* logits) const {
  for (size_t i = 0; i < options_.bias_ids.size(); ++i) logits[options_.bias_ids[i]] += options_.bias_values[i];
  if (!options_.allowed_ids.empty()) {
    std::vector<float> kept(options_.allowed_ids.size());
    for (size_t i = 0; i < kept.size(); ++i) kept[i] = logits[options_.allowed_ids[i]];
    std::fill_n(logits, options_.vocab_size, kBanned);
    for (size_t i = 0; i < kept.size(); ++i) logits[options_.allowed_ids[i]] = kept[i];
  }
  for (const auto& word : options_.bad_words)
    if (ends_bad_word(word)) logits[word.back()] = kBanned;
  if (num_output() < options_.min_tokens)
    for (int32_t token : options_.early_stop_ids) logits[token] = kBanned;
  for (const Seen& seen : seen_) {
    float& logit = logits[seen.token];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    if (seen.count == 0) continue;
    logit -= options_.frequency_penalty * static_cast<float>(seen.count);
    logit -= options_.presence_penalty;
  }
  if (options_.timestamps) apply_timestamps(logits);
}

void SequenceSampler::apply_timestamps(float* logits) const {
  const TimestampRules& rules = *options_.timestamps;
  const int64_t size = options_.vocab_size;
  const auto ban = [&](int64_t from, int64_t to) {
    if (from < to) std::fill(logits + from, logits + std::min(to, size), kBanned);
  };
  const size_t n = output_.size();
  const bool is_time = n > 0 && output_[n - 1] >= rules.begin;
  const bool was_time = n < 2 || output_[n - 2] >= rules.begin;
  if (n == 0) {
    ban(0, rules.begin);
    ban(int64_t{rules.begin} + rules.max_initial + 1, size);
  } else if (is_time) {
    was_time ? ban(rules.begin, size) : ban(0, rules.end_of_text);
  }
  for (size_t i = n; i-- > 0;) {
    if (output_[i] < rules.begin) continue;
    ban(rules.begin, int64_t{output_[i]} + (!is_time || was_time));
    break;
  }
  const float text = *std::max_element(logits, logits + rules.begin);
  const float peak = *std::max_element(logits + rules.begin, logits + size);
  if (peak == kBanned) return;
  double mass = 0;
  for (int64_t i = rules.begin; i < size; ++i) mass += std::exp(static_cast<double>(logits[i]) - peak);
  if (peak + std::log(mass) > text) ban(0, rules.begin);
}

double SequenceSampler::uniform() const {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const uint64_t bits = mix(mix(seed_ + kStep) + kStep * (static_cast<uint64_t>(num_output()) + 1));
  return static_cast<double>((bits >> 11) + 1) * 0x1p-53;
}

}  // namespace octavo
