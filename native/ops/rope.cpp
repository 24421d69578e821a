// Rotary positions: the angles of a step's tokens, which all layers share, and rotation by them. Rows that grow with
// their position.
#include <cmath>

#include "ops/executor.h"

namespace octavo {

namespace {

// cos, then sin, of position * inverse_frequencies[i], times `scale`.
class AnglesOp : public RowOp {
 public:
  explicit AnglesOp(OpSpec& spec)
      : RowOp(spec), frequencies_(spec.params.numbers("inverse_frequencies")), scale_(spec.params.real("scale")) {
    spec.check(floats() && out_.columns == 2 * std::ssize(frequencies_), "output has another width");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const size_t pairs = frequencies_.size();
    auto* cos = static_cast<float*>(out_.row(i));
    for (size_t p = 0; p < pairs; ++p) {
      const double angle = static_cast<float>(run.places[i].position) * frequencies_[p];
      cos[p] = static_cast<float>(std::cos(angle)) * scale_;
      cos[pairs + p] = static_cast<float>(std::sin(angle)) * scale_;
    }
  }

 private:
  std::vector<float> frequencies_;
  float scale_;
};

// Inputs are heads and angles.
class RopeOp : public RowOp {
 public:
  explicit RopeOp(OpSpec& spec)
      : RowOp(spec),
        angles_(spec.in(1)),
        head_dim_(spec.params.integer("head_dim", 1)),
        interleaved_(spec.params.flag("interleaved")) {
    spec.check(floats() && in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
    spec.check(in_.columns % head_dim_ == 0, "columns are no whole number of heads");
    spec.check(angles_.columns <= head_dim_, "more columns are rotated than a head has");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const int pairs = static_cast<int>(angles_.columns / 2);
    const int64_t at = from(run, i);
    const float* cos = angles_.floats(at);
    kernels().rotate(in_.floats(at), {cos, cos + pairs, pairs, interleaved_}, static_cast<int>(in_.columns / head_dim_),
                     head_dim_, static_cast<float*>(out_.row(i)));
  }

 private:
  Value angles_;
  int head_dim_;
  bool interleaved_;
};

// Rows times 1 + beta * ln(1 + floor((position + offset) / length)).
class PositionScaleOp : public RowOp {
 public:
  explicit PositionScaleOp(OpSpec& spec)
      : RowOp(spec),
        beta_(spec.params.real("beta")),
        length_(spec.params.integer("length", 1)),
        offset_(spec.params.integer("offset", 0)) {
    spec.check(floats() && in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const int64_t at = from(run, i);
    const int64_t periods = (int64_t{run.places[at].position} + offset_) / length_;
    const auto factor = static_cast<float>(1 + beta_ * std::log1p(static_cast<double>(periods)));
    const float* x = in_.floats(at);
    auto* out = static_cast<float*>(out_.row(i));
    for (int64_t c = 0; c < out_.columns; ++c) out[c] = factor * x[c];
  }

 private:
  float beta_;
  int length_, offset_;
};

const RegisterOp angles("angles", {{}, Type::kFloat, make_op<AnglesOp>});
const RegisterOp rope("rope", {{Type::kFloat, Type::kFloat}, Type::kFloat, make_op<RopeOp>});
const RegisterOp position_scale("position_scale", {{Type::kFloat}, Type::kFloat, make_op<PositionScaleOp>});

}  // namespace

}  // namespace octavo
