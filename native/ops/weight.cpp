#include "ops/weight.h"

#include <cstring>

#include "core/thread_pool.h"

namespace octavo {

namespace {

struct RowAt {
  const StoredRows* source = nullptr;
  int64_t row = 0;
};

// The source of output row `n`, or none where it is padding.
RowAt find_row(const std::vector<StoredRows>& sources, Arrangement arrangement, int64_t n) {
  if (arrangement == Arrangement::kAlternating) {
    const int64_t block = n / 16, count = sources.size();
    const StoredRows& source = sources[block % count];
    const int64_t row = block / count * 16 + n % 16;
    return row < source.rows ? RowAt{&source, row} : RowAt{};
  }
  for (const StoredRows& source : sources) {
    if (n < source.rows) return {&source, n};
    n -= source.rows;
  }
  return {};
}

const uint8_t* bytes_of_row(const RowAt& at) {
  const FormatInfo& info = format_info(at.source->format);
  const int64_t stored = at.source->order ? at.source->order[at.row] : at.row;
  return at.source->data + stored * (at.source->columns / info.block * info.bytes);
}

// bf16 to bf16: pairs are moved as they are.
void pack_bf16_rows(const RowAt* rows, int64_t k, uint16_t* out) {
  auto* pairs = reinterpret_cast<uint32_t*>(out);
  for (int r = 0; r < 16; ++r) {
    if (!rows[r].source) continue;
    const uint8_t* from = bytes_of_row(rows[r]);
    for (int64_t s = 0; s < k / 2; ++s) std::memcpy(&pairs[s * 16 + r], from + 4 * s, 4);
    if (k % 2) std::memcpy(&pairs[k / 2 * 16 + r], from + 2 * (k - 1), 2);
  }
}

// Any format: 16 rows are decoded, then written side by side.
void pack_float_rows(const RowAt* rows, int64_t k, DType dtype, void* out, std::vector<float>& decoded) {
  decoded.assign(16 * k, 0);
  for (int r = 0; r < 16; ++r)
    if (rows[r].source) dequantize_row(rows[r].source->format, bytes_of_row(rows[r]), k, &decoded[r * k]);
  if (dtype == DType::kFloat32) {
    auto* to = static_cast<float*>(out);
    for (int64_t i = 0; i < k; ++i)
      for (int r = 0; r < 16; ++r) *to++ = decoded[r * k + i];
    return;
  }
  auto* to = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < k; i += 2) {
    for (int r = 0; r < 16; ++r) {
      *to++ = to_bf16(decoded[r * k + i]);
      *to++ = i + 1 < k ? to_bf16(decoded[r * k + i + 1]) : 0;
    }
  }
}

}  // namespace

PackedWeight pack(const std::vector<StoredRows>& sources, Arrangement arrangement, DType dtype) {
  int64_t n = 0;
  for (const StoredRows& source : sources)
    n += arrangement == Arrangement::kAlternating ? round_up(source.rows, 16) : source.rows;
  PackedWeight weight{dtype, n, sources[0].columns, {}};
  const int64_t k = weight.k, block_bytes = weight.padded_k() * 16 * bytes_of(dtype);
  weight.memory = Buffer(weight.blocks() * block_bytes);
  ThreadPool::instance().parallel_for(weight.blocks(), [&](int64_t block) {
    thread_local std::vector<float> decoded;
    RowAt rows[16];
    bool all_bf16 = dtype == DType::kBFloat16;
    for (int r = 0; r < 16; ++r) {
      rows[r] = find_row(sources, arrangement, block * 16 + r);
      if (rows[r].source) all_bf16 = all_bf16 && rows[r].source->format == Format::BF16;
    }
    auto* out = weight.memory.as<uint8_t>() + block * block_bytes;
    if (all_bf16)
      pack_bf16_rows(rows, k, reinterpret_cast<uint16_t*>(out));
    else
      pack_float_rows(rows, k, dtype, out, decoded);
  });
  return weight;
}

}  // namespace octavo
