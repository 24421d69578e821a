// The KV cache: a pool of pages, each with the keys and values of some positions for all layers of a group.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "kernels/kernels.h"

namespace octavo {

struct LayerSpec {
  int kv_heads = 0, key_dim = 0, value_dim = 0, group = 0;
  bool operator==(const LayerSpec&) const = default;
};

// Things of one size that lie one behind the other in memory.
struct Records {
  uint8_t* begin;
  int64_t count, bytes;
};

class CachePool {
 public:
  // Pages are numbered group by group. Throws std::invalid_argument for sizes that the kernels can't handle.
  CachePool(DType dtype, std::vector<LayerSpec> layers, int page_tokens, const std::vector<int64_t>& num_pages);

  static int64_t page_bytes(DType dtype, const std::vector<LayerSpec>& layers, int page_tokens);

  KvCache layer(int i) const;
  DType dtype() const { return dtype_; }
  const std::vector<LayerSpec>& layers() const { return layers_; }
  int page_tokens() const { return page_tokens_; }
  int num_groups() const { return static_cast<int>(groups_.size()); }
  // The group that a page is of, or -1.
  int group_of(int64_t page) const;
  int64_t bytes() const { return memory_.bytes(); }
  void give_back() { memory_.give_back(); }
  // The pages of a group, one behind the other.
  Records pages(int group) const;
  void copy_page(int64_t from, int64_t to);
  // [kv_heads, positions, key_dim] of positions that lie in `pages`.
  std::vector<float> keys(int layer, const int32_t* pages, int positions) const;

 private:
  struct Group {
    int64_t first_page, num_pages, begin;  // in memory, in bytes
    int64_t page_bytes = 0;

    int64_t at(int64_t page) const { return begin + (page - first_page) * page_bytes; }
  };

  DType dtype_;
  std::vector<LayerSpec> layers_;
  std::vector<int64_t> offsets_;  // of layers in a page, in bytes
  std::vector<Group> groups_;
  int page_tokens_;
  Buffer memory_;
};

}  // namespace octavo
