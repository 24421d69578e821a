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
  if (layer == LayerSpec{}) return;  // a layer that has no pages
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

CachePool::CachePool(DType dtype, std::vector<LayerSpec> layers, int page_tokens, int64_t num_pages)
    : dtype_(dtype), layers_(std::move(layers)), offsets_{0}, page_tokens_(page_tokens), num_pages_(num_pages) {
  if (kSegment % page_tokens != 0 || page_tokens % 16 != 0)
    throw std::invalid_argument("block_size must be 16, 32, 64, 128 or 256, got " + std::to_string(page_tokens));
  for (const LayerSpec& layer : layers_) {
    check(layer);
    offsets_.push_back(offsets_.back() + bytes_in_page(dtype, layer, page_tokens));
  }
  memory_ = Buffer(num_pages * offsets_.back(), Pages::kHuge);
}

int64_t CachePool::page_bytes(DType dtype, const std::vector<LayerSpec>& layers, int page_tokens) {
  int64_t all = 0;
  for (const LayerSpec& layer : layers) all += bytes_in_page(dtype, layer, page_tokens);
  return all;
}

KvCache CachePool::layer(int i) const {
  const LayerSpec& spec = layers_.at(i);
  return {
      .pool = memory_.as<void>(),
      .dtype = dtype_,
      .page_stride = offsets_.back(),
      .layer_offset = offsets_[i],
      .head_stride = kv_head_bytes(dtype_, page_tokens_, spec.key_dim, spec.value_dim),
      .page_tokens = page_tokens_,
      .kv_heads = spec.kv_heads,
      .key_dim = spec.key_dim,
      .value_dim = spec.value_dim,
  };
}

void CachePool::copy_page(int64_t from, int64_t to) {
  const int64_t bytes = offsets_.back();
  if (bytes > 0) std::memcpy(memory_.as<char>() + to * bytes, memory_.as<char>() + from * bytes, bytes);
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
