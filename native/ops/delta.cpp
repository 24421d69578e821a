// The gated delta rule: a matrix for each head of a sequence, which its tokens change and read one after the other.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/executor.h"
#include "ops/softplus.h"

namespace octavo {

namespace {

// A tile is some columns of the values of a head of a sequence, for all of its tokens in the step.
class DeltaOp : public Op {
 public:
  explicit DeltaOp(OpSpec& spec)
      : q_(spec.in(0)),
        k_(spec.in(1)),
        v_(spec.in(2)),
        a_(spec.in(3)),
        b_(spec.in(4)),
        out_(spec.out()),
        heads_(static_cast<int>(a_.columns)),
        key_dim_(spec.params.integer("key_dim", 1)),
        key_heads_(k_.columns / key_dim_),
        value_dim_(v_.columns / heads_),
        blocks_(round_up(value_dim_, kDeltaColumns) / kDeltaColumns),
        tiled_(spec.params.flag("tiled")),
        factor_(spec.params.real("factor")),
        eps_(spec.params.real("eps")),
        dt_bias_(spec.vector("dt_bias", heads_)) {
    spec.params.integer("layer", 0);  // says which state it is in the graph; here each op has its own
    spec.check(q_.columns == k_.columns && k_.columns == key_heads_ * key_dim_ && b_.columns == heads_ &&
                   v_.columns == heads_ * value_dim_ && out_.columns == v_.columns && key_heads_ > 0 &&
                   heads_ % key_heads_ == 0,
               "inputs and output disagree");
    for (const Value& value : {q_, k_, v_, a_, b_, out_})
      spec.check(value.dtype == DType::kFloat32, "inputs and output must be float32");
    const std::shared_ptr<const Buffer> decay = spec.vector("decay", heads_);
    const bool is_log = spec.params.flag("decay_is_log");
    for (int h = 0; h < heads_; ++h) {
      const float value = decay->as<float>()[h];
      decay_.push_back(is_log ? -std::exp(value) : value);
    }
    state_ = spec.executor.add_state(heads_ * blocks_ * block_values());
  }

  Needs needs() const override { return {.states = true}; }
  int64_t num_tiles(const Run& run, int) const override {
    return int64_t{run.step.num_sequences} * heads_ * parts(run);
  }
  void run(const Run& run, int, int64_t tile, int) const override {
    const int64_t count = parts(run), part = tile % count, h = tile / count % heads_;
    const auto s = static_cast<int>(tile / count / heads_);
    const Range blocks = Range{0, blocks_}.part(part, count);
    const int64_t size = blocks.size() * block_values() * sizeof(float);
    const StateUse& use = run.step.states[s];
    float* state = state_of(use.slot, h, blocks.begin);
    if (run.step.starts[s] == 0) std::memset(state, 0, size);
    const int64_t begin = first_row(run.step, s), end = begin + run.step.counts[s];
    const int64_t kept = use.kept_tokens > 0 ? begin + use.kept_tokens - run.step.starts[s] : begin;
    tokens(begin, kept, h, blocks, state);
    if (kept > begin) std::memcpy(state_of(use.kept_slot, h, blocks.begin), state, size);
    tokens(kept, end, h, blocks, state);
  }

 private:
  float* state_of(int64_t slot, int64_t h, int64_t block) const {
    return state_->as<float>() + ((slot * heads_ + h) * blocks_ + block) * block_values();
  }
  int64_t block_values() const { return key_dim_ * kDeltaColumns; }
  // Of a head's columns: one, but for few heads and many threads.
  int64_t parts(const Run& run) const {
    return std::clamp<int64_t>(4 * run.threads / (int64_t{run.step.num_sequences} * heads_), 1, blocks_);
  }

  void tokens(int64_t row, int64_t end, int64_t h, Range blocks, float* state) const {
    for (; row < end; row += kDeltaTokens)
      some_tokens(row, static_cast<int>(std::min<int64_t>(kDeltaTokens, end - row)), h, blocks, state);
  }

  void some_tokens(int64_t row, int tokens, int64_t h, Range blocks, float* state) const {
    float decay[kDeltaTokens], beta[kDeltaTokens];
    for (int t = 0; t < tokens; ++t) {
      decay[t] = std::exp(decay_[h] * softplus(a_.floats(row + t)[h] + dt_bias_->as<float>()[h]));
      beta[t] = factor_ / (1 + std::exp(-b_.floats(row + t)[h]));
    }
    const int64_t key = (tiled_ ? h % key_heads_ : h * key_heads_ / heads_) * key_dim_;
    const int64_t first = blocks.begin * kDeltaColumns, last = std::min(value_dim_, blocks.end * kDeltaColumns);
    const int64_t value = h * value_dim_ + first;
    kernels().delta({.q = q_.floats(row) + key,
                     .k = k_.floats(row) + key,
                     .v = v_.floats(row) + value,
                     .q_stride = q_.stride,
                     .k_stride = k_.stride,
                     .v_stride = v_.stride,
                     .out_stride = out_.stride,
                     .decay = decay,
                     .beta = beta,
                     .tokens = tokens,
                     .key_dim = key_dim_,
                     .columns = last - first,
                     .eps = eps_,
                     .state = state,
                     .out = static_cast<float*>(out_.row(row)) + value});
  }

  Value q_, k_, v_, a_, b_, out_;
  int heads_, key_dim_;
  int64_t key_heads_, value_dim_, blocks_;  // blocks: of kDeltaColumns columns of a head's values
  bool tiled_;
  float factor_, eps_;
  std::shared_ptr<const Buffer> dt_bias_, state_;  // the state: [slots, heads, blocks, key_dim, kDeltaColumns]
  std::vector<float> decay_;
};

const RegisterOp delta("delta", {std::vector<Type>(5, Type::kFloat), Type::kFloat, make_op<DeltaOp>});

}  // namespace

}  // namespace octavo
