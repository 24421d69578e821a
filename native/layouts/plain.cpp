// Matrices of plain numbers, [n / 16][k / pack][16][pack] as kernels/matmul.h reads them: float32 with a pack of one,
// bfloat16 with a pack of two.
#include <cstring>

#include "layouts/interleave.h"
#include "layouts/matrix.h"

namespace octavo {

namespace {

// 16 rows decoded, float32 [16, k]; valid until the next call on this thread.
const float* decoded(const RowAt* rows, int64_t k) {
  thread_local std::vector<float> values;
  values.assign(16 * k, 0);
  for (int r = 0; r < 16; ++r)
    if (rows[r].source) rows[r].decode(&values[r * k]);
  return values.data();
}

void pack_float32(const RowAt* rows, int64_t k, uint8_t* out) {
  auto* to = reinterpret_cast<float*>(out);
  const float* values = decoded(rows, k);
  for (int64_t i = 0; i < k; ++i)
    for (int r = 0; r < 16; ++r) *to++ = values[r * k + i];
}

// bf16 to bf16: pairs are moved as they are.
void move_bf16(const RowAt* rows, int64_t k, uint16_t* out) {
  const void* from[16];
  for (int row = 0; row < 16; ++row) from[row] = rows[row].source ? rows[row].bytes() : nullptr;
  interleave(from, k / 2, reinterpret_cast<uint32_t*>(out));
  for (int row = 0; row < 16 && k % 2; ++row)
    if (from[row]) std::memcpy(out + (k - 1) * 16 + 2 * row, static_cast<const uint16_t*>(from[row]) + k - 1, 2);
}

void pack_bfloat16(const RowAt* rows, int64_t k, uint8_t* out) {
  auto* to = reinterpret_cast<uint16_t*>(out);
  static const Format* const kBf16 = &format_of("BF16");
  bool all_bf16 = true;
  for (int r = 0; r < 16; ++r) all_bf16 = all_bf16 && (!rows[r].source || rows[r].source->format == kBf16);
  if (all_bf16) return move_bf16(rows, k, to);
  const float* values = decoded(rows, k);
  for (int64_t i = 0; i < k; i += 2) {
    for (int r = 0; r < 16; ++r) {
      *to++ = to_bf16(values[r * k + i]);
      *to++ = i + 1 < k ? to_bf16(values[r * k + i + 1]) : 0;
    }
  }
}

const RegisterLayout float32({"float32", [](int64_t k) { return k * 64; }, pack_float32});
const RegisterLayout bfloat16({"bfloat16", [](int64_t k) { return round_up(k, 2) * 32; }, pack_bfloat16});

}  // namespace

}  // namespace octavo
