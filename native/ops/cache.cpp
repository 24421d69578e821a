#include "ops/cache.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/cache_layout.h"

namespace octavo {

namespace {

int64_t bytes_in_page(DType dtype, const LayerSpec& layer, int page_tokens) {
  return kv_head_bytes(dtype, page_tokens, layer.key_dim, layer.value_dim) * layer.kv_heads;
}

void check(const LayerSpec& layer) {
  if (layer.kv_heads == 0 && layer.key_dim == 0 && layer.value_dim == 0) return;  // a layer that has no pages
  for (const int dim : {layer.key_dim, layer.value_dim})
    if (dim < 2 || dim % 2 != 0 || dim > kMaxHeadDim)
      throw std::invalid_argument("head_dim must be even and at most 1024, got " + std::to_string(dim));
  if (layer.kv_heads < 1) throw std::invalid_argument("kv_heads must be 1 or more");
}

// Undoes what keys are spread by, which is a transform that is its own inverse but for a factor.
void gather(float* key, int key_dim) {
  const int size = spread_size(key_dim);
  for (int step = 1; step < size; step *= 2)
    for (int i = 0; i < key_dim; ++i) {
      if (i & step) continue;
      const float a = key[i], b = key[i + step];
      key[i] = a + b;
      key[i + step] = a - b;
    }
}

// Column `i` of the key in `slot` of a page.
float stored_key(const KvCache& cache, const char* head, int slot, int64_t i) {
  if (cache.dtype == DType::kInt8) {
    const char* block = head + slot / 16 * int8_page(cache).key_block_bytes();
    const auto scale = reinterpret_cast<const float*>(block)[slot % 16];
    const auto byte = static_cast<uint8_t>(block[kInt8.values_at(0) + i / 4 * 64 + slot % 16 * 4 + i % 4]);
    return scale * static_cast<float>(byte - kInt8.offset());
  }
  const int64_t pack = pack_of(cache.dtype), steps = (cache.key_dim + pack - 1) / pack;
  const int64_t at = (slot / 16 * steps + i / pack) * 16 * pack + slot % 16 * pack + i % pack;
  return cache.dtype == DType::kFloat32 ? reinterpret_cast<const float*>(head)[at]
                                        : to_float(reinterpret_cast<const bf16*>(head)[at]);
}

}  // namespace

CachePool::CachePool(DType dtype, std::vector<LayerSpec> layers, int page_tokens, const std::vector<int64_t>& num_pages)
    : dtype_(dtype), layers_(std::move(layers)), page_tokens_(page_tokens) {
  if (kSegment % page_tokens != 0 || page_tokens % 16 != 0)
    throw std::invalid_argument("block_size must be 16, 32, 64, 128 or 256, got " + std::to_string(page_tokens));
  int64_t pages = 0, bytes = 0;
  for (const int64_t count : num_pages) {
    groups_.push_back({pages, count, 0});
    pages += count;
  }
  for (const LayerSpec& layer : layers_) {
    check(layer);
    if (layer.group < 0 || layer.group >= num_groups()) throw std::invalid_argument("no such group of layers");
    offsets_.push_back(groups_[layer.group].page_bytes);
    groups_[layer.group].page_bytes += bytes_in_page(dtype, layer, page_tokens);
  }
  for (Group& group : groups_) {
    group.begin = bytes;
    bytes += group.num_pages * group.page_bytes;
  }
  memory_ = Buffer(bytes, Pages::kHuge);
}

int64_t CachePool::page_bytes(DType dtype, const std::vector<LayerSpec>& layers, int page_tokens) {
  int64_t all = 0;
  for (const LayerSpec& layer : layers) all += bytes_in_page(dtype, layer, page_tokens);
  return all;
}

KvCache CachePool::layer(int i) const {
  const LayerSpec& spec = layers_.at(i);
  const Group& group = groups_[spec.group];
  return {
      .pool = memory_.as<void>(),
      .dtype = dtype_,
      .page_stride = group.page_bytes,
      .layer_offset = group.at(0) + offsets_[i],
      .head_stride = kv_head_bytes(dtype_, page_tokens_, spec.key_dim, spec.value_dim),
      .page_tokens = page_tokens_,
      .kv_heads = spec.kv_heads,
      .key_dim = spec.key_dim,
      .value_dim = spec.value_dim,
  };
}

int CachePool::group_of(int64_t page) const {
  for (int g = 0; g < num_groups(); ++g)
    if (page >= groups_[g].first_page && page < groups_[g].first_page + groups_[g].num_pages) return g;
  return -1;
}

Records CachePool::pages(int group) const {
  const Group& found = groups_.at(group);
  return {memory_.as<uint8_t>() + found.begin, found.num_pages, found.page_bytes};
}

void CachePool::copy_page(int64_t from, int64_t to) {
  const Group& group = groups_[group_of(from)];
  if (group.page_bytes > 0)
    std::memcpy(memory_.as<char>() + group.at(to), memory_.as<char>() + group.at(from), group.page_bytes);
}

std::vector<float> CachePool::keys(int layer, const int32_t* pages, int positions) const {
  const KvCache cache = this->layer(layer);
  const int64_t d = cache.key_dim;
  std::vector<float> keys(cache.kv_heads * positions * d);
  for (int h = 0; h < cache.kv_heads; ++h)
    for (int p = 0; p < positions; ++p) {
      const char* head = cache.head(pages[p / page_tokens_], h);
      float* found = &keys[(int64_t{h} * positions + p) * d];
      for (int64_t i = 0; i < d; ++i) found[i] = stored_key(cache, head, p % page_tokens_, i);
      if (dtype_ == DType::kInt8) gather(found, cache.key_dim);
    }
  return keys;
}

}  // namespace octavo
