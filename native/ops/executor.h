// The native executor: a tape of operations, made once from a model's graph, and a step that runs it on all threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/phases.h"
#include "ops/cache.h"
#include "ops/op.h"

namespace octavo {

struct ExecutorConfig {
  DType dtype;
  DType cache_dtype;              // that, or kInt8
  std::vector<LayerSpec> layers;  // of the KV cache
  int page_tokens;
  std::vector<int64_t> num_pages;  // of each group of layers
  int max_tokens;                  // of a step
  int max_sequences;               // of a step
  int max_logit_rows;              // of a step
  int num_slots;                   // for what is kept of sequences beside their pages
  int vocab_size;
};

class Executor {
 public:
  // An encoder and its decoder have one KV cache: `other`'s, if it is given.
  explicit Executor(const ExecutorConfig& config, const Executor* other = nullptr);
  Executor(const Executor&) = delete;

  // Rows of `columns` values, in float32 or in the element type of the model; as many as a step has logits, or
  // `rows_per_token` for each of its tokens.
  int add_buffer(int64_t columns, DType dtype, bool logit_rows, int rows_per_token = 1);
  // Columns [first, first + columns) of a buffer.
  Value view(int buffer, int64_t first, int64_t columns) const;
  int64_t max_rows(const Value& value) const;  // of a step
  void add_op(OpSpec& spec);                   // throws std::invalid_argument where sizes disagree

  void run(const Step& step);  // throws std::invalid_argument before anything is computed

  // What ops share: made once for each key, and planned for each step.
  template <class T, class... Args>
  std::shared_ptr<T> share(const std::string& key, Args&&... args) {
    std::shared_ptr<Shared>& place = shared_[key];
    if (!place) place = std::make_shared<T>(std::forward<Args>(args)...);
    return std::static_pointer_cast<T>(place);
  }
  CachePool& cache() { return *cache_; }
  const CachePool& cache() const { return *cache_; }
  // A layer that a step has to itself: nothing in it is kept.
  KvCache scratch_layer(const LayerSpec& spec);

  // Room for `values` numbers of each sequence, which are kept from step to step: float32 [slots, values].
  std::shared_ptr<const Buffer> add_state(int64_t values);
  void copy_state(int from, int to);  // of a sequence that goes on from where another is, or was
  // What is kept beside pages, slot by slot, in as many places as operations keep some.
  int num_states() const { return static_cast<int>(states_.size()); }
  Records state(int i) const;

  const ExecutorConfig& config() const { return config_; }
  const Value& logits() const { return buffers_.at(logits_); }
  const Value& maxima() const { return buffers_.at(maxima_); }         // of blocks of the logits, for sampling
  int64_t num_logit_rows() const { return run_.step.num_logit_rows; }  // of the last step
  void set_logits(int buffer, int maxima) { logits_ = buffer, maxima_ = maxima; }
  std::vector<float> read_row(int buffer, int64_t row, int64_t columns) const;
  // [kv_heads, positions, key_dim]; throws std::invalid_argument
  std::vector<float> read_keys(int layer, const int32_t* blocks, int64_t num_blocks, int positions) const;
  int64_t workspace_bytes() const;
  int64_t kv_bytes() const { return cache_->bytes(); }
  // Gives the memory of the cache, of states and of buffers back to the system, between steps; weights stay. Nothing
  // that was kept of a sequence is there afterwards.
  void give_back();
  const Value* features() const { return features_ < 0 ? nullptr : &buffers_[features_]; }

  void set_profiling(bool on) { profiling_ = on; }
  // How long each op has taken while profiling was on.
  const std::vector<double>& op_seconds() const { return seconds_; }

 private:
  struct Phase {
    int op, number;
  };

  void check(const Step& step) const;
  void check_sequence(const Step& step, int s) const;
  void check_table(const char* what, const BlockTables& tables, int group, int sequence, int64_t tokens) const;
  void plan(const Step& step);
  bool has_slot(int slot) const { return slot >= 0 && slot < config_.num_slots; }
  int scratch_pages_of(int tokens) const { return (tokens + config_.page_tokens - 1) / config_.page_tokens; }

  ExecutorConfig config_;
  std::shared_ptr<CachePool> cache_;
  std::vector<std::unique_ptr<CachePool>> scratch_;  // one for each kind of layer
  std::vector<std::shared_ptr<Buffer>> states_;
  std::vector<Value> buffers_;
  std::vector<Buffer> memory_;  // of the buffers
  std::vector<std::unique_ptr<Op>> ops_;
  std::map<std::string, std::shared_ptr<Shared>> shared_;
  Needs needs_;
  int logits_ = -1, maxima_ = -1;
  int features_ = -1;  // the buffer that an encoder begins with

  // Made anew for each step.
  Run run_;
  std::vector<Phase> plan_;
  Phases phases_;
  bool profiling_ = false;
  std::vector<double> seconds_;
};

}  // namespace octavo
