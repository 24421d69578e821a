// Which experts each token asks.
#include <algorithm>
#include <cmath>

#include "ops/executor.h"

namespace octavo {

namespace {

constexpr int kMostExperts = 1024;

class RouteOp : public RowOp {
 public:
  explicit RouteOp(OpSpec& spec)
      : RowOp(spec),
        experts_(static_cast<int>(in_.columns)),
        top_k_(spec.params.integer("top_k", 1)),
        groups_(spec.params.integer("groups", 1)),
        groups_used_(spec.params.integer("groups_used", 1)),
        group_best_(spec.params.integer("group_best", 1)),
        normalise_(spec.params.flag("normalise")),
        factor_(spec.params.real("factor")),
        jitter_(spec.params.real("jitter")) {
    const std::string score = spec.params.word("score");
    are_sigmoid_ = score == "sigmoid";
    are_mixed_ = score == "sparsemixer";
    spec.check(are_sigmoid_ || are_mixed_ || score == "softmax", "no such score");
    spec.check(in_.dtype == DType::kFloat32 && floats() && out_.columns == experts_, "input and output disagree");
    spec.check(experts_ <= kMostExperts && groups_ <= experts_ && experts_ % groups_ == 0,
               "too many experts or groups");
    spec.check(groups_used_ <= groups_ && top_k_ <= experts_ / groups_ * groups_used_,
               "more are chosen than there are");
    if (spec.vectors.contains("choice_bias")) bias_ = spec.vector("choice_bias", experts_);
    if (spec.vectors.contains("expert_scale")) scale_ = spec.vector("expert_scale", experts_);
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float* logits = in_.floats(from(run, i));
    auto* out = static_cast<float*>(out_.row(i));
    std::fill(out, out + out_.columns, 0.0f);
    if (are_mixed_)
      mix(logits, out);
    else
      choose(logits, out);
    for (int e = 0; scale_ && e < experts_; ++e) out[e] *= scale_->as<float>()[e];
  }

 private:
  static constexpr float kTaken = -INFINITY;

  void choose(const float* logits, float* out) const {
    float scores[kMostExperts], choice[kMostExperts];
    kernels().scores(are_sigmoid_, logits, experts_, scores);
    for (int e = 0; e < experts_; ++e) choice[e] = scores[e] + (bias_ ? bias_->as<float>()[e] : 0);
    if (groups_used_ < groups_) drop_groups(choice);
    int chosen[kMostExperts];
    float sum = 1e-20f;
    for (int k = 0; k < top_k_; ++k) {
      chosen[k] = take_largest(choice, experts_);
      sum += scores[chosen[k]];
    }
    for (int k = 0; k < top_k_; ++k) {
      const int e = chosen[k];
      out[e] = factor_ * (normalise_ ? scores[e] / sum : scores[e]);
    }
  }

  // Each choice is weighed among those experts that are left and near it.
  void mix(const float* logits, float* out) const {
    float left[kMostExperts], near[kMostExperts], scores[kMostExperts];
    std::copy_n(logits, experts_, left);
    for (int k = 0; k < top_k_; ++k) {
      const int best = take_largest(left, experts_);
      for (int e = 0; e < experts_; ++e) {
        const float most = 2 * jitter_ * std::max(std::abs(logits[e]), logits[best]);
        near[e] = logits[best] - logits[e] <= most ? left[e] : kTaken;
      }
      near[best] = logits[best];
      kernels().scores(false, near, experts_, scores);
      out[best] = factor_ * scores[best];
    }
  }

  // The place of the first of the largest values, which is taken out. What is not a number counts as the least.
  static int take_largest(float* values, int count) {
    int best = 0;
    for (int i = 1; i < count; ++i)
      if (values[i] > values[best] || (std::isnan(values[best]) && !std::isnan(values[i]))) best = i;
    values[best] = kTaken;
    return best;
  }

  // Leaves the experts of the best groups alone.
  void drop_groups(float* choice) const {
    const int size = experts_ / groups_;
    float best[kMostExperts] = {}, values[kMostExperts];
    std::copy_n(choice, experts_, values);
    for (int g = 0; g < groups_; ++g)
      for (int k = 0; k < group_best_; ++k) best[g] += choice[g * size + take_largest(values + g * size, size)];
    bool is_used[kMostExperts] = {};
    for (int k = 0; k < groups_used_; ++k) is_used[take_largest(best, groups_)] = true;
    for (int e = 0; e < experts_; ++e)
      if (!is_used[e / size]) choice[e] = kTaken;
  }

  int experts_, top_k_, groups_, groups_used_, group_best_;
  bool normalise_, are_sigmoid_, are_mixed_;
  float factor_, jitter_;
  std::shared_ptr<const Buffer> bias_, scale_;
};

const RegisterOp route("route", {{Type::kFloat}, Type::kFloat, make_op<RouteOp>});

}  // namespace

}  // namespace octavo
