// How the attention of a step is cut into items, which threads take.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "ops/op.h"

namespace octavo {

// Which keys a token sees.
enum class Mask : uint8_t {
  kCausal,  // its sequence's, up to its own
  kNone,    // all of its sequence's
  kSource,  // those of its sequence's source
};

// Items are cut so that their rows fill a tile; where that leaves threads without work, by segments of keys too. All
// layers with as many heads have one plan.
class AttentionPlan : public Shared {
 public:
  struct Split {
    AttentionItem item;
    int num_segments;
  };

  // `group` is the number of query heads to a KV head.
  AttentionPlan(Mask mask, int group, int kv_heads, int value_dim)
      : mask_(mask), group_(group), kv_heads_(kv_heads), value_dim_(value_dim) {}
  void plan(const Run& run) override;

  const std::vector<AttentionItem>& items() const { return items_; }
  const std::vector<Split>& splits() const { return splits_; }
  float* partials() const { return partials_.as<float>(); }         // the states of split items
  static int rows_of(int group) { return tile_of(group) * group; }  // of the largest item

 private:
  // The new tokens of one sequence: how many, the position of the first, and the keys that the last of them sees.
  struct Queries {
    int count, position, keys;
  };

  static int tile_of(int group) { return kGoodAttentionRows > group ? kGoodAttentionRows / group : 1; }
  void cut(const Queries& queries, int sequence, int first_token, bool split);

  Mask mask_;
  int group_, kv_heads_, value_dim_;
  std::vector<Queries> queries_;
  std::vector<AttentionItem> items_;
  std::vector<Split> splits_;
  int64_t num_partials_ = 0;
  Buffer partials_;
};

}  // namespace octavo
