// The native executor: a tape of operations, made once from a model's graph, and a step that runs it on all threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/tiles.h"
#include "kernels/kernels.h"
#include "ops/weight.h"

namespace octavo {

// What a step computes. Sequences follow each other on one ragged axis of tokens.
struct Step {
  int num_tokens = 0, num_sequences = 0, num_logit_rows = 0, num_copies = 0;
  const int32_t* tokens = nullptr;        // [num_tokens]
  const int32_t* starts = nullptr;        // [num_sequences] position of each one's first token
  const int32_t* counts = nullptr;        // [num_sequences] its tokens
  const int32_t* block_tables = nullptr;  // [num_sequences, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* logit_rows = nullptr;  // [num_logit_rows] tokens whose logits are wanted
  const int32_t* copies = nullptr;      // [num_copies, 2] pages to copy first: from, to
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

enum class OpKind : uint8_t { kEmbed, kRmsNorm, kMatmul, kRope, kAttention, kAdd, kSiluMul, kNarrow };
const char* name_of(OpKind kind);

// One record of the tape. Numbers of buffers, and parameters; which fields count depends on the kind.
struct Op {
  OpKind kind;
  int in = -1, in2 = -1, out = -1;
  bool logit_rows = false;  // rows are the step's logit rows, not its tokens
  std::shared_ptr<const PackedWeight> weight = nullptr;
  std::shared_ptr<const Buffer> vector = nullptr;  // norm weight or bias, float32, padded to 16
  Epilogue epilogue = Epilogue::kStoreFloat;
  float eps = 0, scale = 0;
  int64_t columns = 0;  // true columns of a norm, an embedding or a pointwise operation
  int layer = 0, heads = 0, window = 0, rope = -1;
};

class Executor {
 public:
  explicit Executor(const ExecutorConfig& config);

  // Rows of `columns` values, in float32 or in the element type of the model; as many as a step has tokens or logits.
  int add_buffer(int64_t columns, DType dtype, bool logit_rows);
  // cos and sin of position * inverse_frequencies[i], times `scale`; computed once per step for all layers.
  int add_rope(std::vector<float> inverse_frequencies, float scale, bool interleaved);
  void add_op(Op op);  // throws std::invalid_argument where sizes disagree

  void run(const Step& step);  // throws std::invalid_argument before anything is computed

  const ExecutorConfig& config() const { return config_; }
  const float* logits() const { return buffers_[logits_].memory.as<float>(); }
  int64_t logits_stride() const { return buffers_[logits_].stride; }
  void set_logits(int buffer) { logits_ = buffer; }
  std::vector<float> read_row(int buffer, int64_t row, int64_t columns) const;
  int64_t workspace_bytes() const;
  int64_t kv_bytes() const { return kv_.bytes(); }

  void set_profiling(bool on) { profiling_ = on; }
  const std::vector<double>& seconds_of_ops() const { return seconds_; }
  const std::vector<Op>& ops() const { return ops_; }

 private:
  struct Activation {
    int64_t columns, stride;  // stride: columns padded to 16
    DType dtype;
    Buffer memory;
    void* row(int64_t i) const { return memory.as<char>() + i * stride * bytes_of(dtype); }
  };
  struct RopeTable {
    std::vector<float> inverse_frequencies;
    float scale;
    bool interleaved;
    Buffer cos, sin;  // [max_tokens, rotary_dim / 2]
  };
  struct TokenPlace {
    int position, page, slot;
    bool last_of_sequence;
  };
  struct Cut;
  struct Split {
    AttentionItem item;
    int num_segments;
  };

  // A part of a step whose tiles may be computed in any order, once all phases before are over.
  struct Phase {
    enum Kind { kCopyPages, kRopeTables, kRows, kMatmul, kAttend, kMerge } kind;
    int op;  // -1: none
    int64_t num_tiles;
  };

  void check(const Step& step) const;
  void check_op(const Op& op) const;
  void plan(const Step& step);
  void plan_attention(const Step& step);
  void plan_sequence(const Step& step, int sequence, int first_token, int tile, bool split);
  void plan_phases(const Step& step);
  int64_t row_tiles(int64_t rows) const;
  void run_phase(const Phase& phase, Tiles& tiles, const Step& step, int thread);
  void copy_page(const Step& step, int64_t i);
  void fill_ropes(int64_t token);
  void run_row(const Op& op, const Step& step, int64_t i);
  void run_rope(const Op& op, int token);
  void run_matmul(const Op& op, int rows, int64_t tile, int thread);
  void run_attention(const Op& op, const Step& step, int64_t i, int thread);
  void run_merge(const Op& op, const Step& step, int64_t i);
  Attention attention_of(const Op& op, const Step& step) const;
  KvCache cache_of(int layer) const;

  ExecutorConfig config_;
  Buffer kv_;
  std::vector<Activation> buffers_;
  std::vector<RopeTable> ropes_;
  std::vector<Op> ops_;
  int logits_ = -1;
  int group_ = 1;  // most query heads to a KV head

  // Made anew for each step, shared by its layers.
  int threads_ = 1;  // that it was planned for
  std::vector<TokenPlace> places_;
  std::vector<AttentionItem> items_;
  std::vector<Split> splits_;
  std::vector<Phase> phases_;
  std::vector<Tiles> tiles_;  // one per phase
  int64_t num_partials_ = 0;
  Buffer partials_;
  std::vector<Buffer> scratch_;  // one per thread
  bool profiling_ = false;
  std::vector<double> seconds_;
};

}  // namespace octavo
