// Quantized matrix products on tile registers: the sums of integers of 16 rows and 16 columns at once. They are exact, so
// rows may be multiplied here or by multiply_quantized(), and get the same bits.
#pragma once

#include "kernels/amx.h"
#include "kernels/quantized_layout.h"

namespace octavo::OCTAVO_ISA {

constexpr int kSliceUnits = 32;  // of weights that are unpacked at once: they stay in the first-level cache
constexpr int kTilesAtOnce = 4;  // groups whose sums are made before they are scaled

// A slice of 16 rows of weights: values as tiles, in signed bytes unless there is a minimum, and scales as floats.
template <QuantizedLayout L>
struct UnpackedSlice {
  static constexpr int kGroups = kSliceUnits * kUnit / L.sums();
  alignas(64) uint8_t values[kSliceUnits * kUnit * kLanes];
  float scale[kGroups][kLanes], minimum[L.has_minimum() ? kGroups : 1][kLanes];

  UnpackedSlice(const uint8_t* block, int64_t k, int64_t first_unit, int64_t units) {
    const uint8_t* from = block + L.values_at(k) + first_unit * L.unit_bytes();
    for (int64_t unit = 0; unit < units; ++unit) {
      U8 b[kVectors];
      unpack<L>(from + unit * L.unit_bytes(), b);
      for (int i = 0; i < kVectors; ++i) {
        const __m512i x = L.has_minimum() ? b[i].v : _mm512_sub_epi8(b[i].v, _mm512_set1_epi8((char)L.offset()));
        _mm512_store_si512(values + (unit * kVectors + i) * 64, x);
      }
    }
    const int64_t first = first_unit * kUnit / L.sums();
    for (int64_t g = 0; g < units * kUnit / L.sums(); ++g) {
      if (!L.is_by_channel()) store(scale[g], scale_of<L>(block, (first + g) * L.sums() / L.group));
      if (L.has_minimum()) store(minimum[g], minimum_of<L>(block, (first + g) * L.sums() / L.group));
    }
  }
};

// The integer sums of group `g` of `a` and the slice, in tile Sum; A and B are tiles to hold them.
#define OCTAVO_MULTIPLY_GROUP(Sum, A, B, g)                       \
  _tile_zero(Sum);                                                \
  _tile_loadd(A, a + (g)*L.sums(), a_stride);                     \
  _tile_loadd(B, slice.values + (g)*L.sums() * kLanes, 64);       \
  if constexpr (L.has_minimum()) {                                \
    _tile_dpbsud(Sum, A, B);                                      \
  } else {                                                        \
    _tile_dpbssd(Sum, A, B);                                      \
  }                                                               \
  _tile_stored(Sum, integers[Sum], 64);

// c[Rows, 16] (+)= a · slice, as multiply_quantized() does it. Tiles are of Rows rows and L.sums() bytes.
template <QuantizedLayout L, int Rows>
inline void multiply_slice(const int8_t* a, const GroupSums* sums, int64_t a_stride, const UnpackedSlice<L>& slice,
                           int64_t groups, bool accumulate, float* c, int64_t c_stride) {
  alignas(64) int32_t integers[kTilesAtOnce][kTile][kLanes];
  F32 total[Rows];
  for (int r = 0; r < Rows; ++r) total[r] = accumulate ? load(c + r * c_stride) : zero();
  for (int64_t g = 0; g < groups; g += kTilesAtOnce) {
    const int now = groups - g < kTilesAtOnce ? (int)(groups - g) : kTilesAtOnce;
    settle(&slice);
    OCTAVO_MULTIPLY_GROUP(0, 4, 6, g)
    if (now > 1) {
      OCTAVO_MULTIPLY_GROUP(1, 5, 7, g + 1)
    }
    if (now > 2) {
      OCTAVO_MULTIPLY_GROUP(2, 4, 6, g + 2)
    }
    if (now > 3) {
      OCTAVO_MULTIPLY_GROUP(3, 5, 7, g + 3)
    }
    for (int i = 0; i < now; ++i) {
      const F32 scale = load(slice.scale[g + i]), minimum = load(slice.minimum[L.has_minimum() ? g + i : 0]);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const auto& of_row = *(const GroupSums*)((const char*)(sums + g + i) + r * a_stride);
        const F32 factor = set1(of_row.scale);
        total[r] = fma(to_floats(load(integers[i][r])), L.is_by_channel() ? factor : scale * factor, total[r]);
        if (L.has_minimum()) total[r] = fma(minimum, set1(of_row.sum), total[r]);
      }
    }
  }
  for (int r = 0; r < Rows; ++r) store(c + r * c_stride, total[r]);
}
#undef OCTAVO_MULTIPLY_GROUP

// As many of `rows` rows as fill tiles, or half of them: how many were multiplied.
template <QuantizedLayout L>
inline int multiply_quantized_tiles(int rows, const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                                    int64_t c_stride) {
  const int64_t units = k / kUnit;
  const auto* sums = (const GroupSums*)(a + k);
  const int whole = rows / kTile * kTile, done = rows / (kTile / 2) * (kTile / 2);
  for (int64_t unit = 0; unit < units && done; unit += kSliceUnits) {
    const int64_t count = units - unit < kSliceUnits ? units - unit : kSliceUnits, first = unit * kUnit / L.sums();
    const UnpackedSlice<L> slice(block, k, unit, count);
    const auto multiply = [&]<int Rows>(int row) {
      multiply_slice<L, Rows>(a + row * a_stride + unit * kUnit,
                              (const GroupSums*)((const char*)(sums + first) + row * a_stride), a_stride, slice,
                              count * kUnit / L.sums(), unit > 0, c + row * c_stride, c_stride);
    };
    if (whole) {
      const Tiles tiles(kTile, L.sums());
      for (int row = 0; row < whole; row += kTile) multiply.template operator()<kTile>(row);
    }
    if (done > whole) {
      const Tiles tiles(kTile / 2, L.sums());
      multiply.template operator()<kTile / 2>(whole);
    }
  }
  if (L.is_by_channel())
    for (int row = 0; row < done; ++row) store(c + row * c_stride, load(c + row * c_stride) * scale_of<L>(block, 0));
  return done;
}

}  // namespace octavo::OCTAVO_ISA
