// How an executor is made, what it refuses, and what can be read from it.
#include <stdexcept>
#include <string>

#include "ops/executor.h"

namespace octavo {

namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

}  // namespace

const char* name_of(OpKind kind) {
  switch (kind) {
    case OpKind::kEmbed:
      return "embed";
    case OpKind::kPositions:
      return "positions";
    case OpKind::kFeatures:
      return "features";
    case OpKind::kUnfold:
      return "unfold";
    case OpKind::kLayerNorm:
      return "layer_norm";
    case OpKind::kGelu:
      return "gelu";
    case OpKind::kRmsNorm:
      return "rms_norm";
    case OpKind::kMatmul:
      return "matmul";
    case OpKind::kRope:
      return "rope";
    case OpKind::kAttention:
      return "attention";
    case OpKind::kAdd:
      return "add";
    case OpKind::kSiluMul:
      return "silu_mul";
    case OpKind::kNarrow:
      return "narrow";
  }
  return "?";
}

Executor::Executor(const ExecutorConfig& config, const Executor* other) : config_(config) {
  if (kSegment % config.page_tokens != 0 || config.page_tokens % 16 != 0)
    refuse("block_size must be 16, 32, 64, 128 or 256, got " + std::to_string(config.page_tokens));
  if (config.head_dim < 2 || config.head_dim % 2 != 0 || config.head_dim > 1024)
    refuse("head_dim must be even and at most 1024, got " + std::to_string(config.head_dim));
  const int64_t bytes = config.num_pages * page_elements() * bytes_of(config.dtype);
  if (other && other->kv_bytes() != bytes) refuse("encoder and decoder disagree on the KV cache");
  kv_ = other ? other->kv_ : std::make_shared<Buffer>(bytes);
}

int64_t Executor::page_elements() const {
  return kv_head_elements(config_.page_tokens, config_.head_dim) * config_.kv_heads * config_.num_layers;
}

KvCache Executor::cache_of(int layer) const {
  const int64_t head = kv_head_elements(config_.page_tokens, config_.head_dim);
  const int64_t of_layer = head * config_.kv_heads;
  return {kv_->as<void>(), page_elements(), of_layer * layer, head, config_.page_tokens, config_.head_dim};
}

int Executor::add_buffer(int64_t columns, DType dtype, bool logit_rows, int rows_per_token) {
  const int64_t stride = round_up(columns, 16);
  const int64_t rows = logit_rows ? config_.max_logit_rows : int64_t{config_.max_tokens} * rows_per_token;
  buffers_.push_back({columns, stride, dtype, logit_rows, rows_per_token, Buffer(rows * stride * bytes_of(dtype))});
  return static_cast<int>(buffers_.size()) - 1;
}

int Executor::add_rope(std::vector<float> inverse_frequencies, float scale, bool interleaved) {
  const int64_t half = inverse_frequencies.size();
  if (half * 2 > config_.head_dim) refuse("rope rotates more columns than a head has");
  const int64_t bytes = config_.max_tokens * half * sizeof(float);
  ropes_.push_back({std::move(inverse_frequencies), scale, interleaved, Buffer(bytes), Buffer(bytes)});
  return static_cast<int>(ropes_.size()) - 1;
}

void Executor::check_op(const Op& op) const {
  const auto known = [&](int buffer) { return buffer >= 0 && buffer < static_cast<int>(buffers_.size()); };
  const std::string name = name_of(op.kind);
  const bool has_input = op.kind != OpKind::kEmbed && op.kind != OpKind::kPositions && op.kind != OpKind::kFeatures;
  if (has_input && !known(op.in)) refuse(name + ": no such input buffer");
  const bool only_stores = op.kind == OpKind::kRope && op.heads == 0;
  if (!only_stores && !known(op.out)) refuse(name + ": no such output buffer");
  const Activation& out = buffers_[only_stores ? op.in : op.out];
  if (op.kind == OpKind::kMatmul) {
    const int64_t n = op.epilogue == Epilogue::kSiluMul ? op.weight->n / 2 : op.weight->n;
    if (op.weight->dtype != config_.dtype || buffers_[op.in].dtype != config_.dtype) refuse(name + ": wrong dtype");
    if (buffers_[op.in].columns != op.weight->k) refuse(name + ": input and weight disagree");
    if (round_up(n, 16) > out.stride) refuse(name + ": output is too narrow");
    const bool wide = op.epilogue == Epilogue::kStoreFloat || op.epilogue == Epilogue::kAdd;
    if (out.dtype != (wide ? DType::kFloat32 : config_.dtype)) refuse(name + ": wrong output dtype");
  } else if (op.kind == OpKind::kRope || op.kind == OpKind::kAttention) {
    if (op.layer < 0 || op.layer >= config_.num_layers) refuse(name + ": no such layer");
    if ((op.heads <= 0 && !only_stores) || op.heads % config_.kv_heads != 0)
      refuse(name + ": heads are no multiple of KV heads");
    if (op.heads / config_.kv_heads > kMaxAttentionRows) refuse(name + ": too many query heads to a KV head");
    if (int64_t{op.heads} * config_.head_dim > out.columns) refuse(name + ": output is too narrow");
    if (op.kind == OpKind::kRope && op.rope >= static_cast<int>(ropes_.size())) refuse(name + ": no such table");
  } else if (op.kind == OpKind::kUnfold) {
    const Activation& in = buffers_[op.in];
    if (op.kernel % 2 == 0 || op.stride < 1 || in.rows_per_token != out.rows_per_token * op.stride ||
        out.columns != op.kernel * in.columns || in.dtype != config_.dtype || out.dtype != config_.dtype)
      refuse(name + ": input and output disagree");
  } else if (op.kind == OpKind::kPositions || op.kind == OpKind::kEmbed) {
    if (op.weight->k != out.columns || op.weight->dtype != config_.dtype) refuse(name + ": weight and output disagree");
  }
}

void Executor::add_op(Op op) {
  check_op(op);
  if (op.out >= 0) op.rows_per_token = buffers_[op.out].rows_per_token;
  if (op.kind == OpKind::kAttention) {
    group_ = std::max(group_, op.heads / config_.kv_heads);
    has_sight_[static_cast<int>(op.sight)] = true;
  }
  if (op.kind == OpKind::kPositions) num_positions_ = std::min(num_positions_, op.weight->n);
  if (op.kind == OpKind::kFeatures) features_ = op.out;
  has_unfold_ = has_unfold_ || op.kind == OpKind::kUnfold;
  has_embed_ = has_embed_ || op.kind == OpKind::kEmbed;
  ops_.push_back(std::move(op));
  seconds_.assign(ops_.size(), 0);
}

void Executor::check(const Step& step) const {
  if (step.num_tokens <= 0 || step.num_tokens > config_.max_tokens) refuse("step: number of tokens out of range");
  if (step.num_sequences > config_.max_sequences) refuse("step: too many sequences");
  if (step.num_logit_rows > config_.max_logit_rows) refuse("step: too many rows of logits");
  const bool is_part = step.first_token > 0 || step.last_token < step.num_tokens;
  if (is_part && (step.num_sequences != 1 || step.first_token < 0 || step.first_token >= step.last_token))
    refuse("step: only a single sequence is computed in parts");
  if (has_unfold_ && step.num_sequences != 1) refuse("step: convolutions are over one sequence");
  if (has_embed_ != (step.tokens != nullptr)) refuse("step: a graph of text takes tokens, and no other does");
  if ((features_ >= 0) != (step.features != nullptr))
    refuse("step: an encoder takes features, and no other graph does");
  if (sees(Sight::kSource) != (step.source_lengths != nullptr)) refuse("step: only cross attention takes sources");
  for (int i = 0; i < step.num_tokens && has_embed_; ++i)
    if (step.tokens[i] < 0 || step.tokens[i] >= config_.vocab_size) refuse("step: token id outside the vocabulary");
  int64_t total = 0;
  for (int s = 0; s < step.num_sequences; ++s) {
    if (step.counts[s] <= 0 || step.starts[s] < 0) refuse("step: empty sequence");
    total += step.counts[s];
    const int64_t end = int64_t{step.starts[s]} + step.counts[s];
    if (end > num_positions_) refuse("step: the model has no such position");
    check_table("block table", step.block_tables + s * step.block_table_stride, step.block_table_stride, end);
    if (!step.source_lengths) continue;
    if (step.source_lengths[s] <= 0) refuse("step: empty source");
    check_table("source table", step.source_tables + s * step.source_table_stride, step.source_table_stride,
                step.source_lengths[s]);
  }
  if (total != step.num_tokens) refuse("step: counts do not add up to the tokens");
  for (int i = 0; i < step.num_logit_rows; ++i)
    if (step.logit_rows[i] < 0 || step.logit_rows[i] >= step.num_tokens) refuse("step: logit row out of range");
  for (int i = 0; i < 2 * step.num_copies; ++i)
    if (step.copies[i] < 0 || step.copies[i] >= config_.num_pages) refuse("step: no such block to copy");
}

void Executor::check_table(const char* what, const int32_t* table, int64_t stride, int64_t tokens) const {
  const int64_t pages = round_up(tokens, config_.page_tokens) / config_.page_tokens;
  if (pages > stride) refuse(std::string("step: ") + what + " is too short");
  for (int64_t i = 0; i < pages; ++i)
    if (table[i] < 0 || table[i] >= config_.num_pages) refuse(std::string("step: no such block in a ") + what);
}

std::vector<float> Executor::read_row(int buffer, int64_t row, int64_t columns) const {
  const Activation& b = buffers_.at(buffer);
  std::vector<float> values(columns);
  for (int64_t i = 0; i < columns; ++i) {
    values[i] = b.dtype == DType::kFloat32 ? static_cast<const float*>(b.row(row))[i]
                                           : to_float(static_cast<const bf16*>(b.row(row))[i]);
  }
  return values;
}

std::vector<float> Executor::read_keys(int layer, const int32_t* blocks, int64_t num_blocks, int positions) const {
  if (layer < 0 || layer >= config_.num_layers || positions <= 0) refuse("keys: no such layer, or no positions");
  check_table("block table", blocks, num_blocks, positions);
  const KvCache cache = cache_of(layer);
  const int64_t d = config_.head_dim, pack = pack_of(config_.dtype), steps = (d + pack - 1) / pack;
  std::vector<float> keys(config_.kv_heads * positions * d);
  for (int h = 0; h < config_.kv_heads; ++h)
    for (int p = 0; p < positions; ++p) {
      const int slot = p % cache.page_tokens;
      const int64_t base = blocks[p / cache.page_tokens] * cache.page_stride + cache.layer_offset +
                           h * cache.head_stride + slot / 16 * steps * 16 * pack + slot % 16 * pack;
      for (int64_t i = 0; i < d; ++i) {
        const int64_t at = base + i / pack * 16 * pack + i % pack;
        keys[(int64_t{h} * positions + p) * d + i] =
            config_.dtype == DType::kFloat32 ? kv_->as<float>()[at] : to_float(kv_->as<bf16>()[at]);
      }
    }
  return keys;
}

int64_t Executor::workspace_bytes() const {
  int64_t bytes = 0;
  for (const Activation& b : buffers_) bytes += b.memory.bytes();
  for (const RopeTable& r : ropes_) bytes += r.cos.bytes() + r.sin.bytes();
  return bytes;
}

}  // namespace octavo
