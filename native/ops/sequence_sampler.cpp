// The state of one sequence: what it wants of a draw, its rules, its random stream.
#include <algorithm>
#include <limits>
#include <stdexcept>

#include "ops/sampling.h"

namespace octavo {

namespace {

// The finalizer of splitmix64.
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::unique_ptr<LogitsRule> make_rule(const std::string& name, Parameters::Values values, int64_t vocab_size) {
  const auto found = rule_makers().find(name);
  if (found == rule_makers().end()) throw std::invalid_argument("there is no rule on logits named " + name);
  Parameters given(name, std::move(values), vocab_size);
  auto rule = found->second(given);
  given.finish();
  return rule;
}

}  // namespace

std::map<std::string, RuleMaker>& rule_makers() {
  static std::map<std::string, RuleMaker> makers;
  return makers;
}

SamplingOptions::SamplingOptions(Parameters given)
    : vocab_size(given.number<int64_t>("vocab_size", 1, std::numeric_limits<int32_t>::max())),
      temperature(given.number("temperature", 0, std::numeric_limits<double>::infinity())),
      top_p(given.number("top_p", std::numeric_limits<double>::denorm_min(), 1)),
      top_k(given.number<int64_t>("top_k", -1, Parameters::kMaxInteger)),
      min_p(given.number("min_p", 0, 1)),
      num_logprobs(std::min(given.number<int64_t>("num_logprobs", -1, Parameters::kMaxInteger), vocab_size)),
      adjusted_logprobs(given.number("adjusted_logprobs", 0, 1) != 0) {
  given.finish();
}

SequenceSampler::SequenceSampler(Parameters::Values options, Rules rules, uint64_t seed)
    : options_(Parameters("a sampler", std::move(options))), seed_(seed) {
  for (auto& [name, values] : rules) rules_.push_back(make_rule(name, std::move(values), options_.vocab_size));
}

void SequenceSampler::accept(int32_t token) {
  if (token < 0 || token >= options_.vocab_size)
    throw std::invalid_argument("token " + std::to_string(token) + " is not in the vocabulary, which has " +
                                std::to_string(options_.vocab_size));
  output_.push_back(token);
  for (const auto& rule : rules_) rule->accept(token);
}

bool SequenceSampler::has_rules() const {
  return std::any_of(rules_.begin(), rules_.end(), [&](const auto& rule) { return rule->applies(output_); });
}

void SequenceSampler::apply_rules(float* logits) const {
  for (const auto& rule : rules_)
    if (rule->applies(output_)) rule->apply(logits, options_.vocab_size, output_);
}

double SequenceSampler::uniform() const {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  const uint64_t bits = mix(mix(seed_ + kStep) + kStep * (static_cast<uint64_t>(num_output()) + 1));
  return static_cast<double>((bits >> 11) + 1) * 0x1p-53;
}

}  // namespace octavo
