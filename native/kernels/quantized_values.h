// The values of quantized weights: their scales, 16 rows at once, and single rows.
#pragma once

#include "kernels/quantized_layout.h"
#include "kernels/simd.h"

namespace octavo::OCTAVO_ISA {

constexpr int kPrefetch = 4096;   // bytes before values are read
constexpr int kSliceUnits = 16;   // of weights that are unpacked at once: they stay in the first-level cache
constexpr int kGroupsAtOnce = 4;  // whose sums are made before they are scaled

// The scales of 16 rows' group `g`, and its minima.
template <QuantizedLayout L>
inline F32 scale_of(const uint8_t* block, int64_t g) {
  const uint8_t* p = block + L.scale_at(g);
  if (L.is_by_channel()) return load((const float*)block);
  if (!L.has_sub_scales()) return L.wide ? load((const float*)p) : load_halves((const uint16_t*)p);
  const F32 factor = L.has_minimum() ? to_floats(p) : to_floats((const int8_t*)p);
  const uint8_t* head = block + L.head_at(g);
  return (L.wide ? load((const float*)head) : load_halves((const uint16_t*)head)) * factor;
}

template <QuantizedLayout L>
inline F32 minimum_of(const uint8_t* block, int64_t g) {
  const uint8_t* p = block + L.scale_at(g) + L.scale_bytes() / 2;
  if (!L.has_minimum()) return zero();
  if (!L.has_sub_scales()) return L.wide ? load((const float*)p) : load_halves((const uint16_t*)p);
  return zero() - load_halves((const uint16_t*)(block + L.head_at(g) + 32)) * to_floats(p);
}

// The code of a column of a unit.
template <QuantizedLayout L>
inline uint8_t code_at(const uint8_t* unit, int row, int column) {
  constexpr int kMore = L.bits - 4;  // bits beyond four
  const int word = column / 4;
  unit += row * 4 + column % 4;
  if (L.bits == 8) return unit[word * 64];
  const int nibble = unit[word % 4 * 64] >> (word / 4 * 4) & 15, at = word * kMore;
  if (L.bits == 4) return (uint8_t)nibble;
  return (uint8_t)(nibble | (unit[256 + at / 8 * 64] >> (at % 8) & ((1 << kMore) - 1)) << 4);
}

// The integers that codes stand for, each with its offset.
template <QuantizedLayout L>
inline const uint8_t* table_of(const uint8_t* block, int64_t k) {
  return block + L.values_at(k) - 64;
}

// Row `id` in float32: kUnit columns at a time, all 16 rows' scales with them.
template <QuantizedLayout L>
void read_quantized_row(const void* weight, int64_t k, int64_t id, int64_t columns, float* out) {
  const auto* block = (const uint8_t*)weight + id / kLanes * L.block_bytes(k);
  const int row = (int)(id % kLanes);
  float scale[kLanes], minimum[kLanes];
  for (int64_t i = 0; i < columns; ++i) {
    if (i % L.sums() == 0) {
      store(scale, scale_of<L>(block, i / L.group));
      store(minimum, minimum_of<L>(block, i / L.group));
    }
    uint8_t code = code_at<L>(block + L.values_at(k) + i / kUnit * L.unit_bytes(), row, (int)(i % kUnit));
    if (L.by_table) code = table_of<L>(block, k)[code];
    const float q = L.codes == Codes::kIntegers ? (float)(code - L.offset()) : value_of(L.codes, code);
    out[i] = scale[row] * q + minimum[row];
  }
}

}  // namespace octavo::OCTAVO_ISA
