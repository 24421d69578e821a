// Where values come from: rows of tables, and sources that encoders read.
#include <algorithm>

#include "ops/executor.h"

namespace octavo {

namespace {

// Rows of a packed matrix, in float32.
class TableOp : public RowOp {
 public:
  explicit TableOp(OpSpec& spec) : RowOp(spec), matrix_(spec.matrix("weight")) {
    spec.check(matrix_->k == out_.columns && floats() && matrix_->column_order.empty(), "weight and output disagree");
  }

 protected:
  void read(int64_t id, int64_t i) const {
    auto* row = static_cast<float*>(out_.row(i));
    matrix_->kernel().read_row(matrix_->memory.as<void>(), matrix_->padded_k(), id, matrix_->k, row);
    std::fill(row + out_.columns, row + round_up(out_.columns, 16), 0.0f);  // products with NaN may have left NaN
  }
  std::shared_ptr<const PackedMatrix> matrix_;
};

class EmbedOp : public TableOp {
 public:
  explicit EmbedOp(OpSpec& spec) : TableOp(spec) {
    spec.check(matrix_->n >= spec.executor.config().vocab_size, "the vocabulary is larger than the table");
  }
  Needs needs() const override { return {.tokens = true}; }

 protected:
  void row(const Run& run, int64_t i) const override { read(run.step.tokens[i], i); }
};

class PositionEmbedOp : public TableOp {
 public:
  explicit PositionEmbedOp(OpSpec& spec) : TableOp(spec), offset_(spec.params.integer("offset", 0)) {}
  Needs needs() const override { return {.positions = matrix_->n - offset_}; }

 protected:
  void row(const Run& run, int64_t i) const override { read(run.places[i].position + offset_, i); }

 private:
  int offset_;  // of the first position's row
};

// Row 1 for the tokens of a second text, if there is one; row 0 for others.
class SegmentEmbedOp : public TableOp {
 public:
  using TableOp::TableOp;

 protected:
  void row(const Run& run, int64_t i) const override {
    const TokenPlace& place = run.places[i];
    const int second = run.step.second_starts ? run.step.second_starts[place.sequence] : 0;
    read(second > 0 && place.position >= second && matrix_->n > 1, i);
  }
};

class FeaturesOp : public RowOp {
 public:
  explicit FeaturesOp(OpSpec& spec) : RowOp(spec) {
    spec.check(out_.columns == spec.params.integer("width", 1) && out_.rows_per_token == spec.params.integer("rows", 1),
               "output has another shape");
  }
  Needs needs() const override { return {.features = true}; }

 protected:
  void row(const Run& run, int64_t i) const override {
    const float* x = run.step.features + i * run.step.features_stride;
    kernels().cast[dtype_](x, out_.columns, floats(), out_.row(i));
  }
};

const RegisterOp embed("embed", {{}, Type::kFloat, make_op<EmbedOp>});
const RegisterOp position_embed("position_embed", {{}, Type::kFloat, make_op<PositionEmbedOp>});
const RegisterOp segment_embed("segment_embed", {{}, Type::kFloat, make_op<SegmentEmbedOp>});
const RegisterOp features("features", {{}, Type::kElement, make_op<FeaturesOp>});

}  // namespace

}  // namespace octavo
