// A convolution of each column over the last tokens of its sequence, whose newest rows are kept for the next step.
#include <cstring>

#include "ops/executor.h"

namespace octavo {

namespace {

// Phases: rows of the output, then the states that the step leaves.
class CausalConvOp : public RowOp {
 public:
  explicit CausalConvOp(OpSpec& spec)
      : RowOp(spec),
        columns_(in_.columns),
        kept_(spec.params.integer("kernel", 2) - 1),
        weight_(spec.vector("weight", (kept_ + 1) * columns_)) {
    spec.params.integer("layer", 0);  // says which state it is in the graph; here each op has its own
    spec.check(in_.dtype == DType::kFloat32 && floats() && out_.columns == columns_, "input and output disagree");
    state_ = spec.executor.add_state(kept_ * columns_);
  }

  Needs needs() const override { return {.states = true}; }
  int num_phases() const override { return 2; }
  int64_t num_tiles(const Run& run, int phase) const override {
    return phase == 0 ? RowOp::num_tiles(run, 0) : run.step.num_sequences;
  }
  void run(const Run& run, int phase, int64_t tile, int thread) const override {
    if (phase == 0) return RowOp::run(run, phase, tile, thread);
    int64_t end = 0;  // of the sequence's rows
    for (int s = 0; s <= tile; ++s) end += run.step.counts[s];
    const TokenPlace last = run.places[end - 1];
    for (int64_t back = kept_ - 1; back >= 0; --back) {  // the oldest first: it lies before what it is copied from
      auto* to = const_cast<float*>(kept(run, last.sequence, back + 1));
      if (const float* from = at(run, end - 1, back))
        std::memmove(to, from, columns_ * sizeof(float));
      else
        std::memset(to, 0, columns_ * sizeof(float));
    }
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    auto* out = static_cast<float*>(out_.row(i));
    std::memset(out, 0, columns_ * sizeof(float));
    for (int64_t back = kept_; back >= 0; --back) {
      const float *x = at(run, i, back), *weight = weight_->as<float>() + (kept_ - back);
      for (int64_t c = 0; x && c < columns_; ++c) out[c] += weight[c * (kept_ + 1)] * x[c];
    }
  }

 private:
  // What is kept of a sequence: the row `back` tokens before its first of this step.
  const float* kept(const Run& run, int sequence, int64_t back) const {
    return state_->as<float>() + (run.step.slots[sequence] * kept_ + kept_ - back) * columns_;
  }

  // The input `back` tokens before row i; null before the sequence's first token.
  const float* at(const Run& run, int64_t i, int64_t back) const {
    const TokenPlace& place = run.places[i];
    const int64_t in_step = place.position - run.step.starts[place.sequence];
    if (back <= in_step) return in_.floats(i - back);
    return back <= place.position ? kept(run, place.sequence, back - in_step) : nullptr;
  }

  int64_t columns_, kept_;
  std::shared_ptr<const Buffer> weight_, state_;
};

const RegisterOp causal_conv("causal_conv", {{Type::kFloat}, Type::kFloat, make_op<CausalConvOp>});

}  // namespace

}  // namespace octavo
