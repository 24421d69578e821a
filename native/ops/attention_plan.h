// How the attention of a step is cut into items, which threads take.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace octavo {

// Which keys a token sees.
enum class Sight : uint8_t {
  kCausal,  // its sequence's, up to its own
  kAll,     // all of its sequence's: an encoder's
  kSource,  // those of its sequence's source
};
constexpr int kNumSights = 3;

// The new tokens of one sequence: how many, the position of the first, and the keys that the last of them sees.
struct Queries {
  int count, position, keys;
};

class AttentionPlan {
 public:
  struct Split {
    AttentionItem item;
    int num_segments;
  };

  // Items are cut so that their rows fill a tile; where that leaves threads without work, by segments of keys too.
  // `first_token` is the row of the first query, `group` the number of query heads to a KV head.
  void make(const std::vector<Queries>& sequences, int first_token, bool causal, int group, int kv_heads, int threads);

  const std::vector<AttentionItem>& items() const { return items_; }
  const std::vector<Split>& splits() const { return splits_; }
  int64_t num_partials() const { return num_partials_; }
  static int tile_of(int group) { return kGoodAttentionRows > group ? kGoodAttentionRows / group : 1; }

 private:
  void cut(const Queries& queries, int sequence, int first_token, bool causal, int group, int kv_heads, bool split);

  std::vector<AttentionItem> items_;
  std::vector<Split> splits_;
  int64_t num_partials_ = 0;
};

}  // namespace octavo
