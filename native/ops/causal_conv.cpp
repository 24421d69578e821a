// A convolution of each column over the last tokens of its sequence, whose newest rows are kept for the next step.
#include <cstring>

#include "ops/executor.h"

namespace octavo {

namespace {

constexpr int kMaxKernel = 64;

// Phases: rows of the output, then the states that the step leaves.
class CausalConvOp : public RowOp {
 public:
  explicit CausalConvOp(OpSpec& spec)
      : RowOp(spec),
        columns_(in_.columns),
        stride_(round_up(columns_, 16)),
        kept_(spec.params.integer("kernel", 2) - 1),
        weight_((kept_ + 1) * stride_ * sizeof(float)),
        bias_(stride_ * sizeof(float)),
        activation_(activation_of(spec, "activation")) {
    spec.params.integer("layer", 0);  // says which state it is in the graph; here each op has its own
    spec.check(in_.dtype == DType::kFloat32 && floats() && out_.columns == columns_, "input and output disagree");
    spec.check(kept_ < kMaxKernel, "kernels have at most 64 rows");
    spec.check(columns_ == stride_ || activation_ != Activation::kSigmoid, "σ(0), beyond the columns, is not 0");
    const std::shared_ptr<const Buffer> weight = spec.vector("weight", (kept_ + 1) * columns_);
    for (int64_t c = 0; c < columns_; ++c)
      for (int64_t j = 0; j <= kept_; ++j)
        weight_.as<float>()[j * stride_ + c] = weight->as<float>()[c * (kept_ + 1) + j];
    if (spec.vectors.contains("bias"))
      std::memcpy(bias_.as<float>(), spec.vector("bias", columns_)->as<float>(), columns_ * sizeof(float));
    state_ = spec.executor.add_state(kept_ * stride_);
  }

  Needs needs() const override { return {.states = true}; }
  int num_phases() const override { return 2; }
  int64_t num_tiles(const Run& run, int phase) const override {
    return phase == 0 ? RowOp::num_tiles(run, 0) : run.step.num_sequences;
  }
  void run(const Run& run, int phase, int64_t tile, int thread) const override {
    if (phase == 0) return RowOp::run(run, phase, tile, thread);
    const auto s = static_cast<int>(tile);
    const StateUse& state = run.step.states[s];
    const int64_t begin = first_row(run.step, s), end = begin + run.step.counts[s];
    if (state.kept_tokens > 0) keep(run, begin + state.kept_tokens - run.step.starts[s], state.kept_slot);
    keep(run, end, state.slot);
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float* rows[kMaxKernel];
    for (int64_t back = kept_; back >= 0; --back) rows[kept_ - back] = at(run, i, back);
    kernels().causal_conv({.rows = rows,
                           .weight = weight_.as<float>(),
                           .bias = bias_.as<float>(),
                           .kernel = static_cast<int>(kept_ + 1),
                           .columns = columns_,
                           .activation = activation_,
                           .out = static_cast<float*>(out_.row(i))});
  }

 private:
  // Leaves what comes before row `end` in a slot, which may be the sequence's own.
  void keep(const Run& run, int64_t end, int64_t slot) const {
    for (int64_t back = kept_ - 1; back >= 0; --back) {  // the oldest first: it lies before what it is copied from
      float* to = kept(slot, back + 1);
      if (const float* from = at(run, end - 1, back))
        std::memmove(to, from, stride_ * sizeof(float));
      else
        std::memset(to, 0, stride_ * sizeof(float));
    }
  }

  // What is kept of a sequence: the row `back` tokens before its first of this step.
  float* kept(int64_t slot, int64_t back) const {
    return state_->as<float>() + (slot * kept_ + kept_ - back) * stride_;
  }

  // The input `back` tokens before row i; null before the sequence's first token.
  const float* at(const Run& run, int64_t i, int64_t back) const {
    const TokenPlace& place = run.places[i];
    const int64_t in_step = place.position - run.step.starts[place.sequence];
    if (back <= in_step) return in_.floats(i - back);
    return back <= place.position ? kept(run.step.states[place.sequence].slot, back - in_step) : nullptr;
  }

  int64_t columns_, stride_, kept_;
  Buffer weight_, bias_;  // [kernel, stride], [stride]
  Activation activation_;
  std::shared_ptr<const Buffer> state_;
};

const RegisterOp causal_conv("causal_conv", {{Type::kFloat}, Type::kFloat, make_op<CausalConvOp>});

}  // namespace

}  // namespace octavo
