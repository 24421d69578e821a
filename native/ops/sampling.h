// From logits to tokens. The order of the pipeline is vLLM's: mask and rules; then temperature, min_p, top_k, top_p and
// a draw. tests/reference_sampler.py is the same thing in its plainest form.
//
// Nothing here sorts a vocabulary. The matmul that makes a row leaves the maximum of every 64 logits, as does a pass
// over a row that rules have changed; whatever asks for the likeliest tokens finds a threshold among those maxima, and
// sorts the few tokens that reach it. A greedy draw looks at one block of 64.
//
// A draw inverts the cumulative distribution: it is the first token, in draw order, at which the kept mass
// reaches u * (the kept mass). Draw order is by falling logit where top_k, top_p or min_p is on (equal
// logits: lower token id first), else by token id. `u` depends on the sequence's seed and position only, so
// the batch never matters.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/logits_rule.h"

namespace octavo {

struct SamplingOptions {
  explicit SamplingOptions(Parameters given);

  int64_t vocab_size;
  double temperature;  // below 1e-5: greedy
  double top_p;
  int64_t top_k;  // below 1: all
  double min_p;
  int64_t num_logprobs;    // likeliest tokens to report; 0: only the chosen one's logprob; -1: nothing
  bool adjusted_logprobs;  // report what the rules leave, and not the model's own logits
};

// One sequence: its options and rules, the tokens it has generated, its random stream. Not safe for use by two
// threads, except for the const members.
class SequenceSampler {
 public:
  using Rules = std::vector<std::pair<std::string, Parameters::Values>>;  // names and parameters, in order

  // Throws std::invalid_argument for unknown rules, and for parameters that are missing, unknown or out of range.
  SequenceSampler(Parameters::Values options, Rules rules, uint64_t seed);
  SequenceSampler(SequenceSampler&&) = default;

  const SamplingOptions& options() const { return options_; }
  int64_t num_output() const { return static_cast<int64_t>(output_.size()); }
  void accept(int32_t token);

  // Whether rules apply at this position.
  bool has_rules() const;
  // Changes a row of `vocab_size` logits as the rules want it.
  void apply_rules(float* logits) const;
  // This position's random number, above 0 and at most 1.
  double uniform() const;

 private:
  SamplingOptions options_;
  uint64_t seed_;
  TokenIds output_;
  std::vector<std::unique_ptr<LogitsRule>> rules_;
};

// A view of logits: row i starts at data + i * stride. The maxima of its blocks lie in rows too, if they are known.
struct LogitRows {
  const float* data;
  int64_t num_rows, vocab_size, stride;
  const float* maxima = nullptr;
  int64_t maxima_stride = 0;
  const float* row(int64_t i) const { return data + i * stride; }
  const float* maxima_of(int64_t i) const { return maxima ? maxima + i * maxima_stride : nullptr; }
};

// Which tokens may be drawn: a row has a bit for each, bit i % 32 of word i / 32, that is set where token i is allowed.
struct TokenMasks {
  const uint32_t* bits = nullptr;
  int64_t num_rows = 0, words = 0;  // per row
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

// Draws one token for every sampler from the row of `logits` that `rows` names for it, after masking with the row of
// `masks` that `mask_rows` names, if it isn't -1; none are named where that is empty. Throws std::invalid_argument.
SampleResult sample(const LogitRows& logits, const std::vector<int64_t>& rows,
                    const std::vector<const SequenceSampler*>& samplers, const TokenMasks& masks = {},
                    const std::vector<int64_t>& mask_rows = {});

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
