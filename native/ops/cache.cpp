#include "ops/cache.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace octavo {

namespace {

int64_t elements(const LayerSpec& layer, int page_tokens) {
  return kv_head_elements(page_tokens, layer.key_dim, layer.value_dim) * layer.kv_heads;
}

void check(const LayerSpec& layer) {
  if (layer == LayerSpec{}) return;  // a layer that has no pages
  for (const int dim : {layer.key_dim, layer.value_dim})
    if (dim < 2 || dim % 2 != 0 || dim > kMaxHeadDim)
      throw std::invalid_argument("head_dim must be even and at most 1024, got " + std::to_string(dim));
  if (layer.kv_heads < 1) throw std::invalid_argument("kv_heads must be 1 or more");
}

}  // namespace

CachePool::CachePool(DType dtype, std::vector<LayerSpec> layers, int page_tokens, int64_t num_pages)
    : dtype_(dtype), layers_(std::move(layers)), offsets_{0}, page_tokens_(page_tokens), num_pages_(num_pages) {
  if (kSegment % page_tokens != 0 || page_tokens % 16 != 0)
    throw std::invalid_argument("block_size must be 16, 32, 64, 128 or 256, got " + std::to_string(page_tokens));
  for (const LayerSpec& layer : layers_) {
    check(layer);
    offsets_.push_back(offsets_.back() + elements(layer, page_tokens));
  }
  memory_ = Buffer(num_pages * page_bytes(dtype, layers_, page_tokens), Pages::kHuge);
}

int64_t CachePool::page_bytes(DType dtype, const std::vector<LayerSpec>& layers, int page_tokens) {
  int64_t all = 0;
  for (const LayerSpec& layer : layers) all += elements(layer, page_tokens);
  return all * bytes_of(dtype);
}

KvCache CachePool::layer(int i) const {
  const LayerSpec& spec = layers_.at(i);
  return {
      .pool = memory_.as<void>(),
      .page_stride = offsets_.back(),
      .layer_offset = offsets_[i],
      .head_stride = kv_head_elements(page_tokens_, spec.key_dim, spec.value_dim),
      .page_tokens = page_tokens_,
      .kv_heads = spec.kv_heads,
      .key_dim = spec.key_dim,
      .value_dim = spec.value_dim,
  };
}

void CachePool::copy_page(int64_t from, int64_t to) {
  const int64_t bytes = offsets_.back() * bytes_of(dtype_);
  if (bytes > 0) std::memcpy(memory_.as<char>() + to * bytes, memory_.as<char>() + from * bytes, bytes);
}

std::vector<float> CachePool::keys(int layer, const int32_t* pages, int positions) const {
  const KvCache cache = this->layer(layer);
  const int64_t d = cache.key_dim, pack = pack_of(dtype_), steps = (d + pack - 1) / pack;
  std::vector<float> keys(cache.kv_heads * positions * d);
  for (int h = 0; h < cache.kv_heads; ++h)
    for (int p = 0; p < positions; ++p) {
      const int slot = p % page_tokens_;
      const int64_t base = pages[p / page_tokens_] * cache.page_stride + cache.layer_offset + h * cache.head_stride +
                           slot / 16 * steps * 16 * pack + slot % 16 * pack;
      for (int64_t i = 0; i < d; ++i) {
        const int64_t at = base + i / pack * 16 * pack + i % pack;
        keys[(int64_t{h} * positions + p) * d + i] =
            dtype_ == DType::kFloat32 ? memory_.as<float>()[at] : to_float(memory_.as<bf16>()[at]);
      }
    }
  return keys;
}

}  // namespace octavo
