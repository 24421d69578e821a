#include "ops/attention_plan.h"

#include <algorithm>

namespace octavo {

void AttentionPlan::make(const std::vector<Queries>& sequences, int first_token, bool causal, int group, int kv_heads,
                         int threads) {
  const int tile = tile_of(group);
  int64_t num_items = 0;
  for (const Queries& queries : sequences) num_items += round_up(queries.count, tile) / tile * kv_heads;
  const bool split = threads > 1 && num_items < 4 * threads;
  items_.clear();
  splits_.clear();
  num_partials_ = 0;
  int token = first_token;
  for (int s = 0; s < static_cast<int>(sequences.size()); token += sequences[s++].count)
    cut(sequences[s], s, token, causal, group, kv_heads, split);
  const auto cost = [](const AttentionItem& i) {
    return int64_t{i.count} * std::min((i.segment_end - i.segment_begin) * kSegment, i.keys);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const AttentionItem& a, const AttentionItem& b) { return cost(a) > cost(b); });
}

void AttentionPlan::cut(const Queries& queries, int sequence, int first_token, bool causal, int group, int kv_heads,
                        bool split) {
  const int tile = tile_of(group);
  for (int begin = 0; begin < queries.count; begin += tile) {
    AttentionItem item{};
    item.sequence = sequence;
    item.token = first_token + begin;
    item.count = std::min(tile, queries.count - begin);
    item.position = queries.position + begin;
    item.keys = causal ? item.position + item.count : queries.keys;
    const int segments = (item.keys + kSegment - 1) / kSegment;
    for (item.kv_head = 0; item.kv_head < kv_heads; ++item.kv_head) {
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
        num_partials_ += item.count * group;
      }
    }
  }
}

}  // namespace octavo
