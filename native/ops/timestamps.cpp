// octavo/sampling/rules/timestamps.py in C++.
#include <algorithm>
#include <cmath>

#include "ops/logits_rule.h"

namespace octavo {

namespace {

struct Timestamps : LogitsRule {
  int64_t begin, end_of_text, max_initial;

  explicit Timestamps(Parameters& given)
      : begin(given.number<int64_t>("begin", 1, given.vocab_size - 1.0)),
        end_of_text(given.number<int64_t>("end_of_text", 0, begin)),
        max_initial(given.number<int64_t>("max_initial", 0, std::numeric_limits<int32_t>::max())) {}

  void apply(float* logits, int64_t size, const TokenIds& output) const override {
    const auto ban = [&](int64_t from, int64_t to) {
      if (from < to) std::fill(logits + from, logits + std::min(to, size), kBanned);
    };
    const size_t n = output.size();
    const bool is_time = n > 0 && output[n - 1] >= begin;
    const bool was_time = n < 2 || output[n - 2] >= begin;
    if (n == 0) {
      ban(0, begin);
      ban(begin + max_initial + 1, size);
    } else if (is_time) {
      was_time ? ban(begin, size) : ban(0, end_of_text);
    }
    const auto latest = std::find_if(output.rbegin(), output.rend(), [&](int32_t token) { return token >= begin; });
    if (latest != output.rend()) ban(begin, int64_t{*latest} + (!is_time || was_time));
    const float text = *std::max_element(logits, logits + begin);
    const float peak = *std::max_element(logits + begin, logits + size);
    if (peak == kBanned) return;
    double mass = 0;
    for (int64_t i = begin; i < size; ++i) mass += std::exp(static_cast<double>(logits[i]) - peak);
    if (peak + std::log(mass) > text) ban(0, begin);
  }
};

const bool registered = register_rule<Timestamps>("timestamps");

}  // namespace

}  // namespace octavo
