// Mixtures of experts: rows are grouped by the experts that they ask, so that an expert's weights are read once a step.
#include <algorithm>
#include <cstring>

#include "ops/executor.h"
#include "ops/prepared_rows.h"

namespace octavo {

namespace {

// Which rows each expert computes. A slot is one token's place with one expert; an expert's slots follow each other.
struct Slots : Shared {
  std::vector<int32_t> starts;  // [experts + 1]
  std::vector<int32_t> tokens;  // of slots
  std::vector<float> factors;   // of slots

  void plan(const Run&) override {}
  void group(const Value& routes, Range range) {
    const int64_t experts = routes.columns;
    starts.assign(experts + 1, 0);
    for_each(routes, range, [&](int64_t expert, int64_t, float) { ++starts[expert + 1]; });
    for (int64_t e = 0; e < experts; ++e) starts[e + 1] += starts[e];
    tokens.resize(starts[experts]);
    factors.resize(starts[experts]);
    next_.assign(starts.begin(), starts.end() - 1);
    for_each(routes, range, [&](int64_t expert, int64_t token, float factor) {
      tokens[next_[expert]] = static_cast<int32_t>(token);
      factors[next_[expert]++] = factor;
    });
  }

 private:
  template <class F>
  static void for_each(const Value& routes, Range range, F&& f) {
    for (int64_t token = range.begin; token < range.end; ++token) {
      const float* row = routes.floats(token);
      for (int64_t e = 0; e < routes.columns; ++e)
        if (row[e] != 0) f(e, token, row[e]);
    }
  }

  std::vector<int32_t> next_;
};

// Rows of one expert that are multiplied together.
struct Group {
  int64_t expert;
  int first_slot, rows;
};

// One of the products of all experts: their matrices lie one after the other.
struct Product {
  std::shared_ptr<const PackedMatrix> matrix;
  std::shared_ptr<const Buffer> bias;
  int64_t blocks = 0, block_bytes = 0, row_bytes = 0;  // of an expert; of a block; of a row of activations

  Product() = default;
  Product(OpSpec& spec, const char* name, int64_t experts, int64_t columns)
      : matrix(spec.matrix(name)), block_bytes(matrix->layout->block_bytes(matrix->k)) {
    const MatrixKernels& kernel = matrix->kernel();
    spec.check(matrix->blocks() % experts == 0 && matrix->k == columns, "input and weight disagree");
    spec.check(kernel.prepares_rows() || pack_of(spec.element()) == kernel.pack,
               "a matrix is multiplied with another type");
    spec.check(matrix->column_order.empty(), "columns in another order");
    const std::string bias_name = std::string(name) + "_bias";
    if (spec.vectors.contains(bias_name)) bias = spec.vector(bias_name, matrix->blocks() * 16);
    blocks = matrix->blocks() / experts;
    row_bytes =
        kernel.prepares_rows() ? kernel.row_bytes(matrix->padded_k()) : matrix->padded_k() * bytes_of(spec.element());
  }
  bool prepares() const { return matrix->kernel().prepares_rows(); }
  int64_t stride(DType element) const { return prepares() ? row_bytes : row_bytes / bytes_of(element); }
  const void* weights(int64_t expert) const { return matrix->memory.as<char>() + expert * blocks * block_bytes; }
  const float* biases(int64_t expert) const { return bias ? bias->as<float>() + expert * blocks * 16 : nullptr; }
  // Blocks [begin, end) of an expert, for rows that lie together.
  void multiply(Matmul m, int rows, int64_t begin, int64_t end, char* scratch) const {
    m.k = matrix->padded_k();
    m.blocks = blocks;
    const int64_t width = rows == 1 ? kWideBlocks : kMaxMatmulBlocks;
    for (int64_t block = begin; block < end; block += width)
      matrix->kernel().matmul(m, 0, rows, static_cast<int>(block), static_cast<int>(std::min(end, block + width)),
                              reinterpret_cast<float*>(scratch));
  }
};

// Phases: slots, and rows of the input prepared; gate and up; rows between prepared; down.
class ExpertsOp : public Op {
 public:
  explicit ExpertsOp(OpSpec& spec)
      : x_(spec.in(0)),
        routes_(spec.in(1)),
        out_(spec.out()),
        top_k_(spec.params.integer("top_k", 1)),
        on_input_(spec.params.flag("on_input")) {
    spec.check(spec.outputs.size() == 2 && routes_.dtype == DType::kFloat32 && out_.dtype == DType::kFloat32,
               "input and output disagree");
    between_ = spec.outputs[1];
    if (spec.vectors.contains("common")) common_ = spec.vector("common", out_.columns);
    activation_ = activation_of(spec, "kind");
    is_gated_ = spec.params.flag("is_gated");
    gate_ = Product(spec, "gate", routes_.columns, x_.columns);
    down_ = Product(spec, "down", routes_.columns, between_.columns);
    spec.check(gate_.blocks == round_up(between_.columns, 16) / 16 * (is_gated_ ? 2 : 1) &&
                   down_.blocks == round_up(out_.columns, 16) / 16,
               "output and weights disagree");
    spec.check(between_.dtype == spec.element() && between_.rows_per_token == top_k_, "no room between");
    rows_ = spec.executor.share<PreparedRows>("prepared rows");
    slots_ = spec.executor.share<Slots>("slots of experts");
    if (gate_.prepares()) rows_->reserve(spec.executor.max_rows(x_) * gate_.row_bytes);
    if (down_.prepares()) rows_->reserve(spec.executor.max_rows(between_) * down_.row_bytes);
  }

  int num_phases() const override { return 4; }
  int64_t num_tiles(const Run& run, int phase) const override {
    const Range range = run.rows_of(out_);
    if (phase == 0) return 1 + (gate_.prepares() ? run.row_tiles(range) : 0);
    if (phase == 1) return cut(run);
    if (phase == 2) return down_.prepares() ? run.row_tiles({0, std::ssize(slots_->tokens)}) : 0;
    const int64_t most = 4 * run.threads, narrowest = kWideBlocks;
    width_ = std::max(narrowest, down_.blocks / most / narrowest * narrowest);
    return (down_.blocks + width_ - 1) / width_;
  }
  int64_t scratch_bytes() const override { return kRowsAt + (kMaxMatmulRows + 1) * gate_.row_bytes; }

  void run(const Run& run, int phase, int64_t tile, int thread) const override {
    char* scratch = run.scratch[thread].as<char>();
    const Range range = run.rows_of(out_);
    if (phase == 1) return up(tile, scratch);
    if (phase == 3) return down(range, tile, scratch);
    if (phase == 2) {
      const Range all{0, std::ssize(slots_->tokens)}, rows = all.part(tile, run.row_tiles(all));
      for (int64_t slot = rows.begin; slot < rows.end; ++slot)
        prepare(down_, between_.dtype, between_.row(slot), between_.columns, slot);
      return;
    }
    if (tile-- == 0) return slots_->group(routes_, range);
    const Range rows = range.part(tile, run.row_tiles(range));
    for (int64_t i = rows.begin; i < rows.end; ++i)
      prepare(gate_, x_.dtype, input_row(i, scratch + kRowsAt), x_.columns, i);
  }

 private:
  static constexpr int64_t kRowsAt = kMatmulScratch * sizeof(float);  // of a thread's scratch

  void prepare(const Product& product, DType dtype, const void* x, int64_t columns, int64_t to) const {
    const PackedMatrix& matrix = *product.matrix;
    matrix.kernel().prepare[index_of(dtype)](x, columns, matrix.padded_k(),
                                             rows_->memory.as<char>() + to * product.row_bytes);
  }

  // A token's row, multiplied with its only route where that is for inputs.
  const void* input_row(int64_t token, void* scratch) const {
    if (!on_input_) return x_.row(token);
    const float* routes = routes_.floats(token);
    float factor = 0;
    for (int64_t e = 0; e < routes_.columns; ++e) factor += routes[e];
    for (int64_t c = 0; c < x_.stride; ++c) {
      if (x_.dtype == DType::kFloat32)
        static_cast<float*>(scratch)[c] = factor * x_.floats(token)[c];
      else
        static_cast<bf16*>(scratch)[c] = to_bf16(factor * to_float(static_cast<const bf16*>(x_.row(token))[c]));
    }
    return scratch;
  }

  // Cuts the rows of all experts into groups, and the columns of each so that there is work for all threads.
  int64_t cut(const Run& run) const {
    groups_.clear();
    for (int64_t e = 0; e < routes_.columns; ++e) {
      const int first = slots_->starts[e], count = slots_->starts[e + 1] - first;
      const int parts = (count + kMaxMatmulRows - 1) / kMaxMatmulRows;
      const int height = parts ? static_cast<int>(round_up((count + parts - 1) / parts, 16)) : 0;
      for (int begin = 0; begin < count; begin += height)
        groups_.push_back({e, first + begin, std::min(height, count - begin)});
    }
    const int64_t wanted = (8 * run.threads + std::ssize(groups_) - 1) / std::max<int64_t>(1, std::ssize(groups_));
    parts_ = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, gate_.blocks / kWideBlocks));
    return std::ssize(groups_) * parts_;
  }

  void up(int64_t tile, char* scratch) const {
    const Group& group = groups_[tile / parts_];
    const Range pairs = Range{0, gate_.blocks / 2}.part(tile % parts_, parts_);
    const int64_t last = tile % parts_ == parts_ - 1 ? gate_.blocks : 2 * pairs.end;
    const Matmul m{
        .a = gathered(group, scratch),
        .a_stride = gate_.stride(x_.dtype),
        .weight = gate_.weights(group.expert),
        .bias = gate_.biases(group.expert),
        .epilogue = is_gated_ ? Epilogue::kGlu : Epilogue::kStore,
        .out = between_.row(group.first_slot),
        .out_stride = between_.stride,
        .element = between_.dtype,
        .activation = activation_,
    };
    gate_.multiply(m, group.rows, 2 * pairs.begin, last, scratch);
  }

  // The input rows of a group, side by side.
  const void* gathered(const Group& group, char* scratch) const {
    const int32_t* tokens = slots_->tokens.data() + group.first_slot;
    const auto row_of = [&](int i) -> const void* {
      if (gate_.prepares()) return rows_->memory.as<char>() + tokens[i] * gate_.row_bytes;
      return input_row(tokens[i], scratch + kRowsAt + kMaxMatmulRows * gate_.row_bytes);
    };
    if (group.rows == 1) return row_of(0);
    for (int i = 0; i < group.rows; ++i)
      std::memcpy(scratch + kRowsAt + i * gate_.row_bytes, row_of(i), gate_.row_bytes);
    return scratch + kRowsAt;
  }

  // Some columns of the output: each token's experts are added up in their order.
  void down(Range range, int64_t tile, char* scratch) const {
    const int64_t begin = tile * width_, end = std::min(down_.blocks, begin + width_);
    for (int64_t token = range.begin; token < range.end; ++token) {
      float* out = static_cast<float*>(out_.row(token)) + 16 * begin;
      const int64_t bytes = 16 * (end - begin) * sizeof(float);
      common_ ? std::memcpy(out, common_->as<float>() + 16 * begin, bytes) : std::memset(out, 0, bytes);
    }
    for (const Group& group : groups_) {
      const Matmul m{
          .a = down_.prepares() ? rows_->memory.as<char>() + group.first_slot * down_.row_bytes
                                : between_.row(group.first_slot),
          .a_stride = down_.prepares() ? down_.row_bytes : between_.stride,
          .weight = down_.weights(group.expert),
          .bias = down_.biases(group.expert),
          .epilogue = Epilogue::kAdd,
          .out = out_.row(0),
          .out_stride = out_.stride,
          .element = between_.dtype,
          .out_rows = slots_->tokens.data() + group.first_slot,
          .row_factors = on_input_ ? nullptr : slots_->factors.data() + group.first_slot,
      };
      down_.multiply(m, group.rows, begin, end, scratch);
    }
  }

  Value x_, routes_, out_, between_;  // the last: [slots, intermediate]
  Activation activation_;
  int top_k_;
  bool on_input_, is_gated_;
  Product gate_, down_;                   // the first is that of gate and up
  std::shared_ptr<const Buffer> common_;  // what is added to all sums, if anything
  std::shared_ptr<PreparedRows> rows_;
  std::shared_ptr<Slots> slots_;
  // Of this step, made before the phase that reads it.
  mutable std::vector<Group> groups_;
  mutable int64_t parts_ = 1, width_ = 1;
};

const RegisterOp experts("experts", {{Type::kElement, Type::kFloat}, Type::kFloat, make_op<ExpertsOp>});

}  // namespace

}  // namespace octavo
