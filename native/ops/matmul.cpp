// Products with packed matrices, and the rows that make a convolution one.
#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "ops/executor.h"
#include "ops/logit_row.h"
#include "ops/prepared_rows.h"

namespace octavo {

namespace {

// How a matmul is cut. Row tiles have whole sixteens of rows, which is what tile registers hold. As many of them as the
// second-level cache keeps follow each other for each panel of weights, before the next meet the first panel.
struct Cut {
  int64_t panels, width, row_tiles, height;

  // Panels are narrow where wide ones would be too few for all threads.
  Cut(int64_t blocks, int64_t narrowest, int64_t rows, int threads)
      : width(kMaxMatmulBlocks), row_tiles((rows + kMaxMatmulRows - 1) / kMaxMatmulRows) {
    height = round_up((rows + row_tiles - 1) / row_tiles, 16);
    row_tiles = (rows + height - 1) / height;
    if (rows == 1) {  // as wide as can be, with as many for each thread
      const int64_t each = (blocks + kWideBlocks * threads - 1) / (kWideBlocks * threads);
      width = round_up((blocks + each * threads - 1) / (each * threads), narrowest);
    }
    while (rows > 1 && width > narrowest && (blocks + width - 1) / width * row_tiles < 8 * threads) width /= 2;
    panels = (blocks + width - 1) / width;
  }

  struct Place {
    int64_t row_tile, panel;
  };
  Place place(int64_t tile, int64_t row_bytes) const {
    constexpr int64_t kCachedBytes = 384 << 10;
    const int64_t group = std::max<int64_t>(1, kCachedBytes / (height * row_bytes));
    const int64_t first = tile / (panels * group) * group, in_group = tile % (panels * group);
    const int64_t tiles = std::min(group, row_tiles - first);
    return {first + in_group % tiles, in_group / tiles};
  }
};

Epilogue epilogue_of(OpSpec& spec, Activation activation) {
  const std::string name = spec.params.word("epilogue");
  const bool is_wide = spec.out().dtype == DType::kFloat32 && activation == Activation::kNone;
  if (name == "store") return is_wide ? Epilogue::kStoreFloat : Epilogue::kStore;
  if (name == "add") return Epilogue::kAdd;
  if (name == "glu") return Epilogue::kGlu;
  refuse("matmul: no such epilogue: " + name);
}

class MatmulOp : public Op {
 public:
  explicit MatmulOp(OpSpec& spec) : in_(spec.in(0)), out_(spec.out()), matrix_(spec.matrix("weight")) {
    activation_ = activation_of(spec, "activation");
    epilogue_ = epilogue_of(spec, activation_);
    factor_ = spec.params.real("factor");
    cap_ = spec.params.real("cap");
    if (spec.vectors.contains("bias")) bias_ = spec.vector("bias", matrix_->n);
    const MatrixKernels& kernel = matrix_->kernel();
    spec.check(kernel.prepares_rows() || pack_of(in_.dtype) == kernel.pack,
               "the matrix is multiplied with another type");
    spec.check(in_.columns == matrix_->k, "input and weight disagree");
    if (kernel.prepares_rows()) {
      row_bytes_ = kernel.row_bytes(matrix_->padded_k());
      rows_ = spec.executor.share<PreparedRows>("prepared rows");
      rows_->reserve(spec.executor.max_rows(in_) * row_bytes_);
    }
    spec.check(matrix_->column_order.empty() || (rows_ && in_.dtype == DType::kBFloat16),
               "columns in another order are for rows of bfloat16 that are prepared");
    const int64_t n = epilogue_ == Epilogue::kGlu ? matrix_->n / 2 : matrix_->n;
    spec.check(round_up(n, 16) <= out_.stride, "output is too narrow");
    const bool is_wide = epilogue_ == Epilogue::kStoreFloat || epilogue_ == Epilogue::kAdd;
    spec.check(out_.dtype == (is_wide ? DType::kFloat32 : spec.element()), "wrong output dtype");
    if (spec.outputs.size() > 1) {
      maxima_ = spec.outputs[1];
      spec.check(epilogue_ == Epilogue::kStoreFloat && out_.columns == matrix_->n && maxima_.dtype == DType::kFloat32 &&
                     maxima_.columns == sampling_blocks(matrix_->n),
                 "these are not the maxima of its output");
    }
  }

  // Many rows are prepared in a phase of their own; few by each tile, which is faster than to wait for each other.
  int num_phases() const override { return rows_ ? 2 : 1; }
  int64_t num_tiles(const Run& run, int phase) const override {
    const Range range = run.rows_of(out_);
    if (rows_ && phase == 0) return range.size() > kFewRows ? run.row_tiles(range) : 0;
    if (range.size() == 0) return 0;
    const Cut cut = this->cut(range.size(), run.threads);
    return cut.panels * cut.row_tiles;
  }
  int64_t scratch_bytes() const override {
    return kPreparedAt + kFewRows * row_bytes_ + in_.stride * bytes_of(in_.dtype);
  }

  void run(const Run& run, int phase, int64_t tile, int thread) const override {
    const Range range = run.rows_of(out_);
    char* scratch = run.scratch[thread].as<char>();
    if (rows_ && phase == 0)
      return prepare(range, range.part(tile, run.row_tiles(range)), rows_->memory.as<char>(), scratch);
    multiply(run, range, tile, scratch);
  }

 private:
  static constexpr int64_t kFewRows = 2;
  static constexpr int64_t kPreparedAt = kMatmulScratch * sizeof(float);  // of a thread's scratch: few prepared rows

  void prepare(Range all, Range rows, char* out, char* scratch) const {
    const MatrixKernels& kernel = matrix_->kernel();
    for (int64_t i = rows.begin; i < rows.end; ++i)
      kernel.prepare[index_of(in_.dtype)](ordered_row(i, scratch + kPreparedAt + kFewRows * row_bytes_), in_.columns,
                                          matrix_->padded_k(), out + (i - all.begin) * row_bytes_);
  }

  // A row of the input, in the order of the matrix's columns.
  const void* ordered_row(int64_t i, void* scratch) const {
    const std::vector<int32_t>& order = matrix_->column_order;
    if (order.empty()) return in_.row(i);
    const auto* from = static_cast<const uint16_t*>(in_.row(i));
    auto* to = static_cast<uint16_t*>(scratch);
    for (size_t column = 0; column < order.size(); ++column) to[column] = from[order[column]];
    return to;
  }

  void multiply(const Run& run, Range range, int64_t tile, char* scratch) const {
    const int64_t rows = range.size();
    const Cut cut = this->cut(rows, run.threads);
    const void* a = in_.row(range.begin);
    if (rows_ && rows > kFewRows) a = rows_->memory.as<char>();
    if (rows_ && rows <= kFewRows) {
      char* prepared = scratch + kPreparedAt;
      prepare(range, range, prepared, scratch);
      a = prepared;
    }
    const Matmul matmul{
        .a = a,
        .a_stride = rows_ ? row_bytes_ : in_.stride,
        .weight = matrix_->memory.as<void>(),
        .k = matrix_->padded_k(),
        .blocks = matrix_->blocks(),
        .bias = bias_ ? bias_->as<float>() : nullptr,
        .epilogue = epilogue_,
        .out = out_.row(range.begin),
        .out_stride = out_.stride,
        .element = in_.dtype,
        .activation = activation_,
        .factor = factor_,
        .cap = cap_,
    };
    const auto [row, panel] = cut.place(tile, rows_ ? row_bytes_ : in_.stride * bytes_of(in_.dtype));
    const int64_t row_end = std::min(rows, (row + 1) * cut.height);
    const int64_t block = panel * cut.width, block_end = std::min(matrix_->blocks(), block + cut.width);
    matrix_->kernel().matmul(matmul, static_cast<int>(row * cut.height), static_cast<int>(row_end),
                             static_cast<int>(block), static_cast<int>(block_end), reinterpret_cast<float*>(scratch));
    if (!maxima_.memory) return;
    const int64_t columns = std::min(matrix_->n, 16 * block_end) - 16 * block;
    for (int64_t i = range.begin + row * cut.height; i < range.begin + row_end; ++i)
      LogitRow::find_maxima(out_.floats(i) + 16 * block, columns,
                            static_cast<float*>(maxima_.row(i)) + 16 * block / kSamplingBlock);
  }

  // Panels are whole where their blocks belong together.
  Cut cut(int64_t rows, int threads) const {
    const int64_t narrowest = maxima_.memory ? kSamplingBlock / 16 : epilogue_ == Epilogue::kGlu ? 2 : 1;
    return Cut(matrix_->blocks(), narrowest, rows, threads);
  }

  Value in_, out_, maxima_;  // maxima of each kSamplingBlock columns of logits, while they are in cache; or none
  std::shared_ptr<const PackedMatrix> matrix_;
  std::shared_ptr<const Buffer> bias_;
  Activation activation_;
  Epilogue epilogue_;
  float factor_, cap_;
  std::shared_ptr<PreparedRows> rows_;  // none: they are multiplied as they are
  int64_t row_bytes_ = 0;               // of a prepared one
};

// The rows of the input that a row of a convolution is made from, side by side.
class UnfoldOp : public RowOp {
 public:
  explicit UnfoldOp(OpSpec& spec)
      : RowOp(spec), kernel_(spec.params.integer("kernel", 1)), stride_(spec.params.integer("stride", 1)) {
    spec.check(kernel_ % 2 == 1 && in_.rows_per_token == out_.rows_per_token * stride_ &&
                   out_.columns == kernel_ * in_.columns && in_.dtype == out_.dtype,
               "input and output disagree");
  }
  Needs needs() const override { return {.one_sequence = true}; }

 protected:
  void row(const Run& run, int64_t i) const override {
    const int64_t rows = int64_t{run.step.num_tokens} * in_.rows_per_token, bytes = in_.columns * bytes_of(in_.dtype);
    auto* to = static_cast<char*>(out_.row(i));
    for (int64_t from = i * stride_ - kernel_ / 2, end = from + kernel_; from < end; ++from, to += bytes) {
      if (from < 0 || from >= rows)
        std::memset(to, 0, bytes);
      else
        std::memcpy(to, in_.row(from), bytes);
    }
  }

 private:
  int64_t kernel_, stride_;
};

const RegisterOp matmul("matmul", {{Type::kElement}, Type::kAny, make_op<MatmulOp>});
const RegisterOp unfold("unfold", {{Type::kElement}, Type::kElement, make_op<UnfoldOp>});

}  // namespace

}  // namespace octavo
