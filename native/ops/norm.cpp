#include "ops/executor.h"

namespace octavo {

namespace {

template <bool kIsCentred>
class NormOp : public RowOp {
 public:
  explicit NormOp(OpSpec& spec)
      : RowOp(spec), weight_(spec.vector("weight", in_.columns)), eps_(spec.params.real("eps")) {
    if (kIsCentred) bias_ = spec.vector("bias", in_.columns);
    spec.check(in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float *x = in_.floats(from(run, i)), *weight = weight_->as<float>();
    if constexpr (kIsCentred)
      kernels().layer_norm[dtype_](x, weight, bias_->as<float>(), eps_, in_.columns, floats(), out_.row(i));
    else
      kernels().rms_norm[dtype_](x, weight, eps_, in_.columns, floats(), out_.row(i));
  }

 private:
  std::shared_ptr<const Buffer> weight_, bias_;
  float eps_;
};

class NormaliseOp : public RowOp {
 public:
  explicit NormaliseOp(OpSpec& spec)
      : RowOp(spec), width_(spec.params.integer("width", 1)), eps_(spec.params.real("eps")) {
    spec.check(in_.dtype == DType::kFloat32 && floats() && in_.columns == out_.columns, "input and output disagree");
    spec.check(in_.columns % width_ == 0, "columns are no whole number of groups");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    kernels().normalise(in_.floats(from(run, i)), in_.columns / width_, width_, eps_, static_cast<float*>(out_.row(i)));
  }

 private:
  int width_;
  float eps_;
};

const RegisterOp rms_norm("rms_norm", {{Type::kFloat}, Type::kAny, make_op<NormOp<false>>});
const RegisterOp layer_norm("layer_norm", {{Type::kFloat}, Type::kAny, make_op<NormOp<true>>});
const RegisterOp normalise("normalise", {{Type::kFloat}, Type::kFloat, make_op<NormaliseOp>});

}  // namespace

}  // namespace octavo
