// The native executor: a tape of operations, made once from a model's graph, and a step that runs it on all threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/tiles.h"
#include "kernels/kernels.h"
#include "ops/attention_plan.h"
#include "ops/weight.h"

namespace octavo {

// What a step computes. Sequences follow each other on one ragged axis of tokens. Of an encoder it is one sequence: the
// positions of a source; and it may be computed in several runs, each of some operations, for some of the tokens.
struct Step {
  int num_tokens = 0, num_sequences = 0, num_logit_rows = 0, num_copies = 0;
  const int32_t* tokens = nullptr;        // [num_tokens]
  const int32_t* starts = nullptr;        // [num_sequences] position of each one's first token
  const int32_t* counts = nullptr;        // [num_sequences] its tokens
  const int32_t* block_tables = nullptr;  // [num_sequences, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* logit_rows = nullptr;      // [num_logit_rows] tokens whose logits are wanted
  const int32_t* copies = nullptr;          // [num_copies, 2] pages to copy first: from, to
  const int32_t* source_tables = nullptr;   // [num_sequences, source_table_stride] pages of each one's source
  const int32_t* source_lengths = nullptr;  // [num_sequences]
  int64_t source_table_stride = 0;
  const float* features = nullptr;  // [rows, features_stride] what an encoder reads, padded to 16 columns
  int64_t features_stride = 0;
  int first_op = 0, last_op = 1 << 30;        // the operations to run are [first_op, last_op) …
  int first_token = 0, last_token = 1 << 30;  // … for these tokens; others have been, or will be computed
};

struct ExecutorConfig {
  DType dtype;
  int num_layers, kv_heads, head_dim;
  int page_tokens;
  int64_t num_pages;
  int max_tokens;      // of a step
  int max_sequences;   // of a step
  int max_logit_rows;  // of a step
  int vocab_size;
};

enum class OpKind : uint8_t {
  kEmbed,
  kPositions,
  kFeatures,
  kUnfold,
  kRmsNorm,
  kLayerNorm,
  kMatmul,
  kRope,
  kAttention,
  kAdd,
  kSiluMul,
  kGelu,
  kNarrow,
};
const char* name_of(OpKind kind);

// One record of the tape. Numbers of buffers, and parameters; which fields count depends on the kind.
struct Op {
  OpKind kind;
  int in = -1, in2 = -1, out = -1;
  bool logit_rows = false;  // rows are the step's logit rows, not its tokens
  int rows_per_token = 1;   // that the output has
  std::shared_ptr<const PackedWeight> weight = nullptr;
  std::shared_ptr<const Buffer> vector = nullptr;  // norm weight or bias, float32, padded to 16
  std::shared_ptr<const Buffer> bias = nullptr;    // of a layer norm
  Epilogue epilogue = Epilogue::kStoreFloat;
  float eps = 0, scale = 0;
  int64_t columns = 0;  // true columns of a norm, an embedding or a pointwise operation
  int layer = 0, heads = 0, window = 0, rope = -1;
  Sight sight = Sight::kCausal;
  int kernel = 1, stride = 1;  // of a convolution
};

class Executor {
 public:
  // An encoder and its decoder have one KV cache: `other`'s, if it is given.
  explicit Executor(const ExecutorConfig& config, const Executor* other = nullptr);

  // Rows of `columns` values, in float32 or in the element type of the model; as many as a step has logits, or
  // `rows_per_token` for each of its tokens.
  int add_buffer(int64_t columns, DType dtype, bool logit_rows, int rows_per_token = 1);
  // cos and sin of position * inverse_frequencies[i], times `scale`; computed once per step for all layers.
  int add_rope(std::vector<float> inverse_frequencies, float scale, bool interleaved);
  void add_op(Op op);  // throws std::invalid_argument where sizes disagree

  void run(const Step& step);  // throws std::invalid_argument before anything is computed

  const ExecutorConfig& config() const { return config_; }
  const float* logits() const { return buffers_[logits_].memory.as<float>(); }
  int64_t logits_stride() const { return buffers_[logits_].stride; }
  void set_logits(int buffer) { logits_ = buffer; }
  // [kv_heads, positions, head_dim]; throws std::invalid_argument
  std::vector<float> read_keys(int layer, const int32_t* blocks, int64_t num_blocks, int positions) const;
  std::vector<float> read_row(int buffer, int64_t row, int64_t columns) const;
  int64_t workspace_bytes() const;
  int64_t kv_bytes() const { return kv_->bytes(); }
  int features_rows() const { return features_ < 0 ? 0 : buffers_[features_].rows_per_token; }  // for each token
  int64_t features_stride() const { return features_ < 0 ? 0 : buffers_[features_].stride; }

  void set_profiling(bool on) { profiling_ = on; }
  const std::vector<double>& seconds_of_ops() const { return seconds_; }
  const std::vector<Op>& ops() const { return ops_; }

 private:
  struct Activation {
    int64_t columns, stride;  // stride: columns padded to 16
    DType dtype;
    bool logit_rows;
    int rows_per_token;
    Buffer memory;
    void* row(int64_t i) const { return memory.as<char>() + i * stride * bytes_of(dtype); }
  };
  struct RopeTable {
    std::vector<float> inverse_frequencies;
    float scale;
    bool interleaved;
    Buffer cos, sin;  // [max_tokens, rotary_dim / 2]
  };
  struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };
  struct TokenPlace {
    int position, page, slot;
    bool last_of_sequence;
  };
  struct Cut;

  // A part of a step whose tiles may be computed in any order, once all phases before are over.
  struct Phase {
    enum Kind { kCopyPages, kRopeTables, kRows, kMatmul, kAttend, kMerge } kind;
    int op;  // -1: none
    int64_t num_tiles;
  };

  void check(const Step& step) const;
  void check_table(const char* what, const int32_t* table, int64_t stride, int64_t tokens) const;
  void check_op(const Op& op) const;
  void plan(const Step& step);
  void plan_attention(const Step& step);
  void plan_phases(const Step& step);
  Range rows_of(const Op& op, const Step& step) const;
  int64_t row_tiles(int64_t rows) const;
  void run_phase(const Phase& phase, Tiles& tiles, const Step& step, int thread);
  void copy_page(const Step& step, int64_t i);
  void fill_ropes(int64_t token);
  void run_row(const Op& op, const Step& step, int64_t i);
  void run_unfold(const Op& op, const Step& step, int64_t i);
  void run_rope(const Op& op, int token);
  void run_matmul(const Op& op, Range rows, int64_t tile, int thread);
  void run_attention(const Op& op, const Step& step, int64_t i, int thread);
  void run_merge(const Op& op, const Step& step, int64_t i);
  Attention attention_of(const Op& op, const Step& step) const;
  KvCache cache_of(int layer) const;
  int64_t page_elements() const;
  bool sees(Sight sight) const { return has_sight_[static_cast<int>(sight)]; }
  const AttentionPlan& plan_of(const Op& op) const { return plans_[static_cast<int>(op.sight)]; }

  ExecutorConfig config_;
  std::shared_ptr<Buffer> kv_;
  std::vector<Activation> buffers_;
  std::vector<RopeTable> ropes_;
  std::vector<Op> ops_;
  int logits_ = -1;
  int group_ = 1;  // most query heads to a KV head
  bool has_sight_[kNumSights] = {};
  bool has_unfold_ = false, has_embed_ = false;
  int features_ = -1;                  // the buffer that an encoder begins with
  int64_t num_positions_ = INT32_MAX;  // that the table of positions has

  // Made anew for each step, shared by its layers.
  int threads_ = 1;  // that it was planned for
  std::vector<TokenPlace> places_;
  AttentionPlan plans_[kNumSights];
  std::vector<Phase> phases_;
  std::vector<Tiles> tiles_;  // one per phase
  Buffer partials_;
  std::vector<Buffer> scratch_;  // one per thread
  bool profiling_ = false;
  std::vector<double> seconds_;
};

}  // namespace octavo
