#include "core/buffer.h"
#include "ops/executor.h"

namespace octavo {

namespace {

// A vector for all columns of a row, or for each group of `width` of them, as one of all columns, plus `offset`. Where
// there is none, all its values are `missing`.
Buffer spread(const OpSpec& spec, const std::string& name, int64_t columns, int64_t width, float offset,
              float missing) {
  Buffer all(round_up(columns, 16) * sizeof(float));
  const auto size = spec.vector_sizes.find(name);
  const bool found = size != spec.vector_sizes.end();
  if (found) spec.check(size->second == columns || size->second == width, "a vector has another length");
  for (int64_t i = 0; i < columns; ++i)
    all.as<float>()[i] = found ? spec.vectors.at(name)->as<float>()[i % size->second] + offset : missing;
  return all;
}

template <bool kIsCentred>
class NormOp : public RowOp {
 public:
  explicit NormOp(OpSpec& spec) : RowOp(spec), width_(spec.params.integer("width", 1)), eps_(spec.params.real("eps")) {
    spec.check(in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
    spec.check(in_.columns % width_ == 0, "columns are no whole number of groups");
    weight_ = spread(spec, "weight", in_.columns, width_, spec.params.real("offset"), 1);
    if (kIsCentred) bias_ = spread(spec, "bias", in_.columns, width_, 0, 0);
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const NormRow row = {.x = in_.floats(from(run, i)),
                         .weight = weight_.as<float>(),
                         .bias = kIsCentred ? bias_.as<float>() : nullptr,
                         .columns = in_.columns,
                         .width = width_,
                         .eps = eps_,
                         .floats = floats(),
                         .out = out_.row(i)};
    (kIsCentred ? kernels().layer_norm : kernels().rms_norm)[dtype_](row);
  }

 private:
  int width_;
  float eps_;
  Buffer weight_, bias_;
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
