#include "ops/executor.h"

namespace octavo {

namespace {

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

const RegisterOp normalise("normalise", {{Type::kFloat}, Type::kFloat, make_op<NormaliseOp>});

}  // namespace

}  // namespace octavo
