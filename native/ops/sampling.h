// From logits to tokens. The order of the pipeline is vLLM's: bias, allowed tokens, bans, penalties; then
// temperature, min_p, top_k, top_p and a draw. octavo/sampling/reference.py is the same thing in its plainest
// form.
//
// Nothing here sorts a vocabulary. One pass over a row leaves the maximum of every 64 logits; whatever asks
// for the likeliest tokens finds a threshold among those maxima, and sorts the few tokens that reach it.
//
// A draw inverts the cumulative distribution: it is the first token, in draw order, at which the kept mass
// reaches u * (the kept mass). Draw order is by falling logit where top_k, top_p or min_p is on (equal
// logits: lower token id first), else by token id. `u` depends on the sequence's seed and position only, so
// the batch never matters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <unordered_map>
#include <vector>

namespace octavo {

// The rules of timestamps in Whisper's output; see octavo/sampling/timestamps.py.
struct TimestampRules {
  int32_t begin, end_of_text, max_initial;
};

struct SamplingOptions {
  int64_t vocab_size = 0;
  double temperature = 1;  // below 1e-5: greedy
  double top_p = 1;
  int64_t top_k = 0;  // below 1: all
  double min_p = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  int64_t num_logprobs = -1;       // likeliest tokens to report; 0: only the chosen one's logprob; -1: nothing
  bool adjusted_logprobs = false;  // report what adjust() leaves, and not the model's own logits
  int64_t min_tokens = 0;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> allowed_ids;             // empty: all
  std::vector<int32_t> early_stop_ids;          // banned before `min_tokens` tokens
  std::vector<std::vector<int32_t>> bad_words;  // their last token is banned after the others
  std::optional<TimestampRules> timestamps;
};

// One sequence: its options, the tokens it has generated, its random stream. Not safe for use by two threads,
// except for the const members.
class SequenceSampler {
 public:
  // Throws std::invalid_argument for token ids outside the vocabulary, and numbers out of range.
  SequenceSampler(SamplingOptions options, uint64_t seed, const std::vector<int32_t>& prompt_token_ids);

  const SamplingOptions& options() const { return options_; }
  int64_t num_output() const { return static_cast<int64_t>(output_.size()); }
  void accept(int32_t token);
  SequenceSampler fork(uint64_t seed) const;

  // Whether adjust() would change anything at this position.
  bool adjusts() const;
  // Applies bias, allowed tokens, bans, penalties and the rules of timestamps to a row of `vocab_size` logits.
  void adjust(float* logits) const;
  // This position's random number, above 0 and at most 1.
  double uniform() const;

 private:
  struct Seen {
    int32_t token;
    int32_t count;  // in the output; 0 where only the prompt has it
  };
  bool counts_tokens() const;
  void see(int32_t token, int32_t count);
  void apply_timestamps(float* logits) const;
  bool ends_bad_word(const std::vector<int32_t>& word) const;

  SamplingOptions options_;
  uint64_t seed_;
  std::vector<int32_t> output_;
  std::vector<Seen> seen_;                            // every token that a penalty touches …
  std::unordered_map<int32_t, std::size_t> seen_at_;  // … and its place there
};

// A view of logits: row i starts at data + i * stride.
struct LogitRows {
  const float* data;
  int64_t num_rows, vocab_size, stride;
  const float* row(int64_t i) const { return data + i * stride; }
};

// The likeliest tokens of a row, by falling log-probability.
struct TopTokens {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

// In place of a token: the row has NaN or infinity; the sampler bans every token.
constexpr int32_t kUnusableLogits = -1, kAllBanned = -2;

struct SampleResult {
  std::vector<int32_t> tokens;  // or one of the above
  std::vector<float> logprobs;  // of the token; NaN where not asked for
  std::vector<int32_t> ranks;   // 1 + the number of likelier tokens; 0 where not asked for
  std::vector<TopTokens> top;   // `num_logprobs` tokens each
};

// Draws one token for every sampler from the row of `logits` that `rows` names for it. Throws
// std::invalid_argument.
SampleResult sample(const LogitRows& logits, const std::vector<int64_t>& rows,
                    const std::vector<const SequenceSampler*>& samplers);

struct TopLogprobs {
  int64_t k;                    // columns of `ids` and `logprobs`: at most the vocabulary
  std::vector<int32_t> ids;     // [num_rows, k]; -1 where the row has NaN or infinity
  std::vector<float> logprobs;  // [num_rows, k]; NaN there
  std::vector<float> chosen;    // [num_rows] logprob of the row's token in `token_ids`
  std::vector<int32_t> ranks;   // [num_rows] its rank; 0 where the row has NaN or infinity
};

// The k likeliest tokens of every row, and how likely one given token of each row is. Throws
// std::invalid_argument.
TopLogprobs top_logprobs(const LogitRows& logits, int64_t k, const std::vector<int32_t>& token_ids);

}  // namespace octavo
