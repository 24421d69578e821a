// Functions of single values: an op for every kernel of kernels/pointwise.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/executor.h"
#include "ops/softplus.h"

namespace octavo {

namespace {

class PointwiseOp : public RowOp {
 public:
  PointwiseOp(OpSpec& spec, int64_t kernel) : RowOp(spec), kernel_(kernel) {
    const PointwiseKernel& k = kernels().pointwise[kernel];
    y_ = spec.in(k.num_inputs - 1);
    for (const Value& in : {in_, y_})
      spec.check(in.dtype == DType::kFloat32 && in.columns == out_.columns, "input and output disagree");
    for (int i = 0; i < kMaxPointwiseParams && k.params[i]; ++i) params_[i] = spec.params.real(k.params[i]);
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    kernels().pointwise[kernel_].run[dtype_](in_.floats(from(run, i)), y_.floats(from(run, y_, i)), params_,
                                             out_.columns, floats(), out_.row(i));
  }

 private:
  Value y_;
  int64_t kernel_;
  float params_[kMaxPointwiseParams] = {};
};

// An activation of the first input, or, with a second, the gated value of both. A gate may be that of several columns.
class ActivationOp : public RowOp {
 public:
  explicit ActivationOp(OpSpec& spec) : RowOp(spec), kind_(activation_of(spec, "kind")) {
    if (spec.inputs.size() > 1) y_ = spec.in(1);
    for (const Value& in : spec.inputs) spec.check(in.dtype == DType::kFloat32, "inputs must be float32");
    spec.check((y_.memory ? y_ : in_).columns == out_.columns && out_.columns % in_.columns == 0,
               "input and output disagree");
    width_ = out_.columns / in_.columns;
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float *x = in_.floats(from(run, i)), *y = y_.memory ? y_.floats(from(run, y_, i)) : nullptr;
    if (width_ == 1) {
      kernels().activate[dtype_](kind_, x, y, out_.columns, floats(), out_.row(i));
      const int64_t bytes = bytes_of(out_.dtype);  // what is beyond the columns stays 0, though σ(0) is not
      std::memset(static_cast<char*>(out_.row(i)) + out_.columns * bytes, 0, (-out_.columns & 15) * bytes);
      return;
    }
    constexpr int64_t kChunk = 256;
    auto* out = static_cast<char*>(out_.row(i));
    for (int64_t c = 0; c < out_.columns; c += kChunk, out += kChunk * bytes_of(out_.dtype)) {
      const int64_t count = std::min(kChunk, out_.columns - c);
      float gates[kChunk] = {};
      for (int64_t j = 0; j < count; ++j) gates[j] = x[(c + j) / width_];
      kernels().activate[dtype_](kind_, gates, y + c, count, floats(), out);
    }
  }

 private:
  Value y_;
  Activation kind_;
  int64_t width_;  // columns that have a gate in common
};

class XieluOp : public RowOp {
 public:
  explicit XieluOp(OpSpec& spec) : RowOp(spec) {
    spec.check(in_.dtype == DType::kFloat32 && in_.columns == out_.columns, "input and output disagree");
    const auto value = [&](const char* name) { return spec.vector(name, 1)->as<float>()[0]; };
    factors_.beta = value("beta");
    factors_.eps = value("eps");
    factors_.positive = softplus(value("alpha_p"));
    factors_.negative = factors_.beta + softplus(value("alpha_n"));
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    kernels().xielu[dtype_](factors_, in_.floats(from(run, i)), out_.columns, floats(), out_.row(i));
  }

 private:
  Xielu factors_;
};

class ScaleByOp : public RowOp {
 public:
  explicit ScaleByOp(OpSpec& spec) : RowOp(spec) {
    spec.check(in_.dtype == DType::kFloat32 && floats() && in_.columns == out_.columns, "input and output disagree");
    is_one_ = spec.vector_sizes["weight"] == 1;
    weight_ = spec.vector("weight", is_one_ ? 1 : in_.columns);
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float *x = in_.floats(from(run, i)), *weight = weight_->as<float>();
    auto* out = static_cast<float*>(out_.row(i));
    for (int64_t c = 0; c < out_.columns; ++c) out[c] = weight[is_one_ ? 0 : c] * x[c];
  }

 private:
  std::shared_ptr<const Buffer> weight_;
  bool is_one_;
};

// A value in another type, or rows of it as they are.
class CastOp : public RowOp {
 public:
  explicit CastOp(OpSpec& spec) : RowOp(spec) { spec.check(in_.columns == out_.columns, "input and output disagree"); }

 protected:
  void row(const Run& run, int64_t i) const override {
    const void* x = in_.row(from(run, i));
    if (in_.dtype == DType::kFloat32) {
      kernels().cast[dtype_](static_cast<const float*>(x), out_.columns, floats(), out_.row(i));
      return;
    }
    if (in_.dtype == out_.dtype) {
      std::memcpy(out_.row(i), x, out_.stride * bytes_of(out_.dtype));
      return;
    }
    auto* to = static_cast<float*>(out_.row(i));
    for (int64_t c = 0; c < out_.columns; ++c) to[c] = to_float(static_cast<const bf16*>(x)[c]);
  }
};

const bool registered = [] {
  for (int64_t i = 0; i < portable::table.pointwise.end() - portable::table.pointwise.begin(); ++i) {
    const PointwiseKernel& k = portable::table.pointwise[i];
    RegisterOp(k.name, {std::vector<Type>(k.num_inputs, Type::kFloat), Type::kAny,
                        [i](OpSpec& spec) { return std::make_unique<PointwiseOp>(spec, i); }});
  }
  return true;
}();
const RegisterOp activation("activation", {{Type::kFloat}, Type::kAny, make_op<ActivationOp>});
const RegisterOp glu("glu", {{Type::kFloat, Type::kFloat}, Type::kAny, make_op<ActivationOp>});
const RegisterOp xielu("xielu", {{Type::kFloat}, Type::kAny, make_op<XieluOp>});
const RegisterOp scale_by("scale_by", {{Type::kFloat}, Type::kFloat, make_op<ScaleByOp>});
const RegisterOp cast("cast", {{Type::kAny}, Type::kAny, make_op<CastOp>});

}  // namespace

}  // namespace octavo
