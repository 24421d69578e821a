// octavo/sampling/rules/tokens.py in C++.
#include <algorithm>
#include <unordered_map>

#include "ops/logits_rule.h"

namespace octavo {

namespace {

struct LogitBias : LogitsRule {
  TokenIds token_ids;
  std::vector<float> values;

  explicit LogitBias(Parameters& given) : token_ids(given.token_ids("token_ids")), values(given.numbers("values")) {
    if (token_ids.size() != values.size()) given.fail("values", "must have one value for each token id");
  }

  void apply(float* logits, int64_t, const TokenIds&) const override {
    for (size_t i = 0; i < token_ids.size(); ++i) logits[token_ids[i]] += values[i];
  }
};

struct AllowedTokens : LogitsRule {
  TokenIds token_ids;

  explicit AllowedTokens(Parameters& given) : token_ids(given.token_ids("token_ids")) {}

  void apply(float* logits, int64_t size, const TokenIds&) const override {
    std::vector<float> kept(token_ids.size());
    for (size_t i = 0; i < kept.size(); ++i) kept[i] = logits[token_ids[i]];
    std::fill_n(logits, size, kBanned);
    for (size_t i = 0; i < kept.size(); ++i) logits[token_ids[i]] = kept[i];
  }
};

struct SuppressedTokens : LogitsRule {
  TokenIds token_ids;
  size_t min_tokens;

  explicit SuppressedTokens(Parameters& given)
      : token_ids(given.token_ids("token_ids")),
        min_tokens(given.number<size_t>("min_tokens", 0, Parameters::kMaxInteger)) {}

  bool applies(const TokenIds& output) const override { return output.size() < min_tokens; }

  void apply(float* logits, int64_t, const TokenIds&) const override {
    for (int32_t token : token_ids) logits[token] = kBanned;
  }
};

struct BadWords : LogitsRule {
  std::vector<TokenIds> words;

  explicit BadWords(Parameters& given) : words(given.words("words")) {}

  bool applies(const TokenIds& output) const override {
    return std::any_of(words.begin(), words.end(), [&](const TokenIds& word) { return ends(output, word); });
  }

  void apply(float* logits, int64_t, const TokenIds& output) const override {
    for (const TokenIds& word : words)
      if (ends(output, word)) logits[word.back()] = kBanned;
  }

  // Whether the output ends with all of the word but its last token.
  static bool ends(const TokenIds& output, const TokenIds& word) {
    const size_t before = word.size() - 1;
    return before <= output.size() && std::equal(word.begin(), word.end() - 1, output.end() - before);
  }
};

struct Penalties : LogitsRule {
  struct Seen {
    int32_t token;
    int32_t count;  // in the output; 0 where only the prompt has it
  };
  float repetition, frequency, presence;
  std::vector<Seen> seen;                       // every token that a penalty touches …
  std::unordered_map<int32_t, size_t> seen_at;  // … and its place there

  explicit Penalties(Parameters& given)
      : repetition(given.number<float>("repetition", Parameters::kMinFloat, Parameters::kMaxFloat)),
        frequency(given.number<float>("frequency", -Parameters::kMaxFloat, Parameters::kMaxFloat)),
        presence(given.number<float>("presence", -Parameters::kMaxFloat, Parameters::kMaxFloat)) {
    for (int32_t token : given.token_ids("prompt_token_ids")) see(token, 0);
  }

  void accept(int32_t token) override { see(token, 1); }

  bool applies(const TokenIds&) const override { return !seen.empty(); }

  void apply(float* logits, int64_t, const TokenIds&) const override {
    for (const auto& [token, count] : seen) {
      float& logit = logits[token];
      logit = logit > 0 ? logit / repetition : logit * repetition;
      if (count == 0) continue;
      logit -= frequency * static_cast<float>(count);
      logit -= presence;
    }
  }

  void see(int32_t token, int32_t count) {
    const auto [place, is_new] = seen_at.try_emplace(token, seen.size());
    if (is_new) seen.push_back({token, 0});
    seen[place->second].count += count;
  }
};

const bool registered = register_rule<LogitBias>("logit_bias") && register_rule<AllowedTokens>("allowed_tokens") &&
                        register_rule<SuppressedTokens>("suppressed_tokens") && register_rule<BadWords>("bad_words") &&
                        register_rule<Penalties>("penalties");

}  // namespace

}  // namespace octavo
