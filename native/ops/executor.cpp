#include "ops/executor.h"

#include <chrono>
#include <cstring>

#include "core/thread_pool.h"

namespace octavo {

Executor::Executor(const ExecutorConfig& config, const Executor* other) : config_(config) {
  if (!other) {
    cache_ = std::make_shared<CachePool>(config.cache_dtype, config.layers, config.page_tokens, config.num_pages);
    return;
  }
  if (other->cache_->dtype() != config.cache_dtype || other->cache_->layers() != config.layers ||
      other->config_.page_tokens != config.page_tokens)
    refuse("encoder and decoder disagree on the KV cache");
  cache_ = other->cache_;
}

int Executor::add_buffer(int64_t columns, DType dtype, bool logit_rows, int rows_per_token) {
  const int64_t stride = round_up(columns, 16);
  buffers_.push_back({nullptr, columns, stride, dtype, logit_rows, rows_per_token});
  memory_.emplace_back(max_rows(buffers_.back()) * stride * bytes_of(dtype));
  buffers_.back().memory = memory_.back().as<char>();
  return static_cast<int>(buffers_.size()) - 1;
}

int64_t Executor::max_rows(const Value& value) const {
  return value.logit_rows ? config_.max_logit_rows : int64_t{config_.max_tokens} * value.rows_per_token;
}

Value Executor::view(int buffer, int64_t first, int64_t columns) const {
  if (buffer < 0 || buffer >= static_cast<int>(buffers_.size())) refuse("no such buffer");
  Value value = buffers_[buffer];
  if (first < 0 || columns < 1 || first + columns > value.stride) refuse("no such columns of a buffer");
  value.memory += first * bytes_of(value.dtype);
  value.columns = columns;
  return value;
}

KvCache Executor::scratch_layer(const LayerSpec& spec) {
  for (const auto& pool : scratch_)
    if (pool->layers()[0] == spec) return pool->layer(0);
  const int64_t pages = scratch_pages_of(config_.max_tokens) + config_.max_sequences - 1;
  scratch_.push_back(
      std::make_unique<CachePool>(config_.dtype, std::vector{spec}, config_.page_tokens, std::vector{pages}));
  return scratch_.back()->layer(0);
}

std::shared_ptr<const Buffer> Executor::add_state(int64_t values) {
  states_.push_back(std::make_shared<Buffer>(config_.num_slots * values * sizeof(float)));
  return states_.back();
}

Records Executor::state(int i) const {
  const Buffer& state = *states_.at(i);
  return {state.as<uint8_t>(), config_.num_slots, state.bytes() / config_.num_slots};
}

void Executor::copy_state(int from, int to) {
  if (!has_slot(from) || !has_slot(to)) refuse("no such slot of a sequence");
  for (const auto& state : states_) {
    const int64_t bytes = state->bytes() / config_.num_slots;
    std::memcpy(state->as<char>() + to * bytes, state->as<char>() + from * bytes, bytes);
  }
}

void Executor::add_op(OpSpec& spec) {
  const auto kind = op_kinds().find(spec.name);
  if (kind == op_kinds().end()) refuse("the native executor has no op " + spec.name);
  ops_.push_back(kind->second.make(spec));
  spec.params.finish();
  const Needs needs = ops_.back()->needs();
  needs_.tokens |= needs.tokens;
  needs_.sources |= needs.sources;
  needs_.states |= needs.states;
  needs_.one_sequence |= needs.one_sequence;
  needs_.positions = std::min(needs_.positions, needs.positions);
  if (needs.features) {
    needs_.features = true;
    for (features_ = 0; buffers_[features_].memory != spec.out().memory;) ++features_;
  }
  seconds_.push_back(0);
}

void Executor::check(const Step& step) const {
  if (step.num_tokens <= 0 || step.num_tokens > config_.max_tokens) refuse("step: number of tokens out of range");
  if (step.num_sequences > config_.max_sequences) refuse("step: too many sequences");
  if (step.num_logit_rows > config_.max_logit_rows) refuse("step: too many rows of logits");
  const bool is_part = step.first_token > 0 || step.last_token < step.num_tokens;
  if (is_part && (step.num_sequences != 1 || step.first_token < 0 || step.first_token >= step.last_token))
    refuse("step: only a single sequence is computed in parts");
  if (needs_.one_sequence && step.num_sequences != 1) refuse("step: convolutions are over one sequence");
  if (needs_.tokens != (step.tokens != nullptr)) refuse("step: a graph of text takes tokens, and no other does");
  if (needs_.features != (step.features != nullptr)) refuse("step: an encoder takes features, and no other graph does");
  if (needs_.sources != (step.source_lengths != nullptr)) refuse("step: only cross attention takes sources");
  for (int i = 0; i < step.num_tokens && needs_.tokens; ++i)
    if (step.tokens[i] < 0 || step.tokens[i] >= config_.vocab_size) refuse("step: token id outside the vocabulary");
  int64_t total = 0;
  for (int s = 0; s < step.num_sequences; total += step.counts[s++]) check_sequence(step, s);
  if (total != step.num_tokens) refuse("step: counts do not add up to the tokens");
  for (int i = 0; i < step.num_logit_rows; ++i)
    if (step.logit_rows[i] < 0 || step.logit_rows[i] >= step.num_tokens) refuse("step: logit row out of range");
  for (int i = 0; i < 2 * step.num_copies; i += 2) {
    const int group = cache_->group_of(step.copies[i]);
    if (group < 0 || cache_->group_of(step.copies[i + 1]) != group) refuse("step: no such block to copy");
  }
}

void Executor::check_sequence(const Step& step, int s) const {
  if (step.counts[s] <= 0 || step.starts[s] < 0) refuse("step: empty sequence");
  const int64_t end = int64_t{step.starts[s]} + step.counts[s];
  if (end > needs_.positions) refuse("step: the model has no such position");
  if (needs_.states) {
    if (!step.states || !has_slot(step.states[s].slot) || !has_slot(step.states[s].kept_slot))
      refuse("step: no such slot of a sequence");
    const int kept = step.states[s].kept_tokens;
    if (kept != 0 && (kept <= step.starts[s] || kept > end)) refuse("step: a state to keep lies outside of the tokens");
  }
  for (int group = 0; step.blocks.pages && group < cache_->num_groups(); ++group)
    check_table("block table", step.blocks, group, s, end);
  if (!step.source_lengths) return;
  if (step.source_lengths[s] <= 0) refuse("step: empty source");
  check_table("source table", step.source_blocks, 0, s, step.source_lengths[s]);
}

void Executor::check_table(const char* what, const BlockTables& tables, int group, int sequence, int64_t tokens) const {
  const int64_t pages = round_up(tokens, config_.page_tokens) / config_.page_tokens;
  if (pages > tables.width) refuse(std::string("step: ") + what + " is too short");
  const int32_t* table = tables.of(group).pages + sequence * tables.stride;
  for (int64_t i = 0; i < pages; ++i)
    if (cache_->group_of(table[i]) != group) refuse(std::string("step: no such block in a ") + what);
}

void Executor::plan(const Step& step) {
  run_.step = step;
  run_.threads = ThreadPool::instance().size();
  run_.places.resize(step.num_tokens);
  for (int s = 0, token = 0; s < step.num_sequences; ++s)
    for (int i = 0; i < step.counts[s]; ++i, ++token)
      run_.places[token] = {s, step.starts[s] + i, i == step.counts[s] - 1};
  if (!scratch_.empty()) {  // whose pages sequences take in their order
    const int64_t stride = scratch_pages_of(*std::max_element(step.counts, step.counts + step.num_sequences));
    run_.scratch_pages.assign(step.num_sequences * stride, 0);
    run_.scratch_blocks = {run_.scratch_pages.data(), stride, stride};
    for (int s = 0, page = 0; s < step.num_sequences; ++s)
      for (int i = 0; i < scratch_pages_of(step.counts[s]); ++i) run_.scratch_pages[s * stride + i] = page++;
  }
  for (const auto& [_, shared] : shared_) shared->plan(run_);
  run_.scratch.resize(std::max<size_t>(run_.scratch.size(), run_.threads));
  plan_.clear();
  int64_t scratch = 0;
  for (int i = step.first_op, last = std::min<int>(step.last_op, std::ssize(ops_)); i < last; ++i) {
    scratch = std::max(scratch, ops_[i]->scratch_bytes());
    for (int phase = 0; phase < ops_[i]->num_phases(); ++phase) plan_.push_back({i, phase});
  }
  for (Buffer& buffer : run_.scratch)
    if (buffer.bytes() < scratch) buffer = Buffer(scratch);
}

void Executor::run(const Step& step) {
  check(step);
  for (int i = 0; i < step.num_copies; ++i) cache_->copy_page(step.copies[2 * i], step.copies[2 * i + 1]);
  plan(step);
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin = Clock::now();
  phases_.run(
      static_cast<int>(plan_.size()), run_.threads,
      [&](int i) { return ops_[plan_[i].op]->num_tiles(run_, plan_[i].number); },
      [&](int i, int64_t tile, int thread) { ops_[plan_[i].op]->run(run_, plan_[i].number, tile, thread); },
      [&](int i, int thread) {
        if (!profiling_ || thread != 0) return;
        const Clock::time_point end = Clock::now();
        seconds_[plan_[i].op] += std::chrono::duration<double>(end - begin).count();
        begin = end;
      });
}

std::vector<float> Executor::read_row(int buffer, int64_t row, int64_t columns) const {
  const Value b = view(buffer, 0, columns);
  std::vector<float> values(columns);
  for (int64_t i = 0; i < columns; ++i)
    values[i] = b.dtype == DType::kFloat32 ? b.floats(row)[i] : to_float(static_cast<const bf16*>(b.row(row))[i]);
  return values;
}

std::vector<float> Executor::read_keys(int layer, const int32_t* blocks, int64_t num_blocks, int positions) const {
  if (layer < 0 || layer >= std::ssize(cache_->layers()) || cache_->layers()[layer].group || positions <= 0)
    refuse("keys: no such layer or positions");
  check_table("block table", {blocks, num_blocks, num_blocks}, 0, 0, positions);
  return cache_->keys(layer, blocks, positions);
}

int64_t Executor::workspace_bytes() const {
  int64_t bytes = 0;
  for (const Buffer& memory : memory_) bytes += memory.bytes();
  for (const auto& pool : scratch_) bytes += pool->bytes();
  for (const auto& state : states_) bytes += state->bytes();
  return bytes;
}

void Executor::give_back() {
  cache_->give_back();
  for (Buffer& memory : memory_) memory.give_back();
  for (const auto& pool : scratch_) pool->give_back();
  for (const auto& state : states_) state->give_back();
}

}  // namespace octavo
