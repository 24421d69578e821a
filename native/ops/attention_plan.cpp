#include "ops/attention_plan.h"

#include <algorithm>

namespace octavo {

void AttentionPlan::plan(const Run& run) {
  const Step& step = run.step;
  const Range tokens = run.tokens();
  queries_.resize(step.num_sequences);
  for (int s = 0; s < step.num_sequences; ++s) {
    const int own = step.starts[s] + step.counts[s];
    queries_[s] = {step.counts[s], step.starts[s], mask_ == Mask::kSource ? step.source_lengths[s] : own};
  }
  if (tokens.size() < step.num_tokens) {  // of the only sequence
    queries_[0].count = static_cast<int>(tokens.size());
    queries_[0].position += static_cast<int>(tokens.begin);
  }
  const int tile = tile_of(group_);
  int64_t num_items = 0;
  for (const Queries& queries : queries_) num_items += round_up(queries.count, tile) / tile * kv_heads_;
  const bool split = run.threads > 1 && num_items < 4 * run.threads;
  items_.clear();
  splits_.clear();
  num_partials_ = 0;
  int token = static_cast<int>(tokens.begin);
  for (int s = 0; s < step.num_sequences; token += queries_[s++].count) cut(queries_[s], s, token, split);
  const auto cost = [](const AttentionItem& i) {
    return int64_t{i.count} * std::min((i.segment_end - i.segment_begin) * kSegment, i.keys);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const AttentionItem& a, const AttentionItem& b) { return cost(a) > cost(b); });
  const int64_t bytes = num_partials_ * partial_stride(value_dim_) * sizeof(float);
  if (bytes > partials_.bytes()) partials_ = Buffer(bytes);
}

void AttentionPlan::cut(const Queries& queries, int sequence, int first_token, bool split) {
  const int tile = tile_of(group_);
  for (int begin = 0; begin < queries.count; begin += tile) {
    AttentionItem item{};
    item.sequence = sequence;
    item.token = first_token + begin;
    item.count = std::min(tile, queries.count - begin);
    item.position = queries.position + begin;
    item.keys = mask_ == Mask::kCausal ? item.position + item.count : queries.keys;
    const int segments = (item.keys + kSegment - 1) / kSegment;
    for (item.kv_head = 0; item.kv_head < kv_heads_; ++item.kv_head) {
      item.segment_begin = 0;
      item.segment_end = segments;
      item.partial = -1;
      if (!split || segments == 1) {
        items_.push_back(item);
        continue;
      }
      item.partial = static_cast<int>(num_partials_);
      splits_.push_back({item, segments});
      for (int s = 0; s < segments; ++s) {
        item.segment_begin = s;
        item.segment_end = s + 1;
        item.partial = static_cast<int>(num_partials_);
        items_.push_back(item);
        num_partials_ += item.count * group_;
      }
    }
  }
}

}  // namespace octavo
