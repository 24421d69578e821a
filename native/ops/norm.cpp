#include "ops/executor.h"

namespace octavo {

namespace {

class RmsNormOp : public RowOp {
 public:
  explicit RmsNormOp(OpSpec& spec)
      : RowOp(spec),
        in_(spec.in(0)),
        weight_(spec.vector("weight", in_.columns)),
        eps_(static_cast<float>(spec.params.number("eps"))),
        dtype_(index_of(spec.element())) {
    spec.check(in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    kernels().rms_norm[dtype_](in_.floats(from(run, in_, i)), weight_->as<float>(), eps_, in_.columns, floats(),
                               out_.row(i));
  }

 private:
  Value in_;
  std::shared_ptr<const Buffer> weight_;
  float eps_;
  int dtype_;
};

class LayerNormOp : public RowOp {
 public:
  explicit LayerNormOp(OpSpec& spec)
      : RowOp(spec),
        in_(spec.in(0)),
        weight_(spec.vector("weight", in_.columns)),
        bias_(spec.vector("bias", in_.columns)),
        eps_(static_cast<float>(spec.params.number("eps"))),
        dtype_(index_of(spec.element())) {
    spec.check(in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    kernels().layer_norm[dtype_](in_.floats(from(run, in_, i)), weight_->as<float>(), bias_->as<float>(), eps_,
                                 in_.columns, floats(), out_.row(i));
  }

 private:
  Value in_;
  std::shared_ptr<const Buffer> weight_, bias_;
  float eps_;
  int dtype_;
};

const RegisterOp rms_norm("rms_norm", {{Type::kFloat}, Type::kAny, make_op<RmsNormOp>});
const RegisterOp layer_norm("layer_norm", {{Type::kFloat}, Type::kAny, make_op<LayerNormOp>});

}  // namespace

}  // namespace octavo
