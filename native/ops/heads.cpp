// Columns that are put together, and taken apart.
#include <algorithm>

#include "ops/executor.h"

namespace octavo {

namespace {

// Heads of two values side by side; one of the two may have a single head, which all share.
class JoinOp : public RowOp {
 public:
  explicit JoinOp(OpSpec& spec)
      : RowOp(spec), x_(spec, 0, spec.params.integer("x_width", 1)), y_(spec, 1, spec.params.integer("y_width", 1)) {
    const int64_t heads = std::max(x_.heads, y_.heads);
    spec.check(x_.has(heads) && y_.has(heads) && out_.columns == heads * (x_.width + y_.width) && floats(),
               "inputs and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    auto* out = static_cast<float*>(out_.row(i));
    for (int64_t h = 0; h < out_.columns / (x_.width + y_.width); ++h)
      for (const Part* part : {&x_, &y_}) {
        const float* head = part->value.floats(from(run, part->value, i)) + (part->heads > 1 ? h * part->width : 0);
        out = std::copy_n(head, part->width, out);
      }
  }

 private:
  struct Part {
    Value value;
    int64_t width, heads;

    Part(const OpSpec& spec, size_t i, int64_t width) : value(spec.in(i)), width(width), heads(value.columns / width) {}
    bool has(int64_t all) const {
      return heads * width == value.columns && (heads == 1 || heads == all) && value.dtype == DType::kFloat32;
    }
  };

  Part x_, y_;
};

// Some columns of each row.
class ColumnsOp : public RowOp {
 public:
  explicit ColumnsOp(OpSpec& spec)
      : RowOp(spec), first_(spec.params.integer("first", 0)), count_(spec.params.integer("count", 1)) {
    spec.check(first_ + count_ <= in_.columns && out_.columns == count_ && floats() && in_.dtype == DType::kFloat32,
               "input and output disagree");
  }

 protected:
  void row(const Run& run, int64_t i) const override {
    std::copy_n(in_.floats(from(run, i)) + first_, count_, static_cast<float*>(out_.row(i)));
  }

 private:
  int64_t first_, count_;
};

const RegisterOp columns("columns", {{Type::kFloat}, Type::kFloat, make_op<ColumnsOp>});
const RegisterOp join("join", {{Type::kFloat, Type::kFloat}, Type::kFloat, make_op<JoinOp>});

}  // namespace

}  // namespace octavo
