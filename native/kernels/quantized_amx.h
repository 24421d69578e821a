// Quantized matrix products on tile registers: the sums of integers of 16 rows and 16 columns at once. They are exact,
// so rows may be multiplied here or by multiply_quantized(), and get the same bits.
#pragma once

#include "kernels/amx.h"
#include "kernels/quantized_layout.h"

namespace octavo::OCTAVO_ISA {

// 8 * x of signed or unsigned bytes that are small enough.
inline __m512i eight_times(__m512i x) {
  return _mm512_and_si512(_mm512_slli_epi16(x, 3), _mm512_set1_epi8((char)0xf8));
}

// A slice of 16 rows of weights: values as tiles, in signed bytes unless there is a minimum, and scales as floats.
// Small values come twice, eight times as large for the high parts of activations: one tile multiplies high and low.
template <QuantizedLayout L>
struct UnpackedSlice {
  static constexpr int kGroups = kSliceUnits * kUnit / L.sums();
  static constexpr bool kTwice = L.integer_bits() <= 5;
  static constexpr int kDepth = L.sums() * (kTwice ? 2 : 1);  // of a tile
  alignas(64) uint8_t values[kGroups * kDepth * kLanes];
  float scale[kGroups][kLanes], minimum[L.has_minimum() ? kGroups : 1][kLanes];

  void unpack_from(const uint8_t* block, int64_t k, int64_t first_unit, int64_t units) {
    const uint8_t* from = block + L.values_at(k) + first_unit * L.unit_bytes();
    const U8 table = load(L.by_table ? table_of<L>(block, k) : from);
    for (int64_t unit = 0; unit < units; ++unit) {
      U8 b[kVectors];
      unpack<L>(from + unit * L.unit_bytes(), table, b);
      for (int i = 0; i < kVectors; ++i) {
        const __m512i x = L.has_minimum() ? b[i].v : _mm512_sub_epi8(b[i].v, _mm512_set1_epi8((char)L.offset()));
        const int64_t at = unit * kVectors + i, group = at * 4 / L.sums(), within = at % (L.sums() / 4);
        uint8_t* to = values + group * kDepth * kLanes + within * 64;
        if (kTwice) _mm512_store_si512(to, eight_times(x));
        _mm512_store_si512(to + (kTwice ? L.sums() * kLanes : 0), x);
      }
    }
    const int64_t first = first_unit * kUnit / L.sums();
    for (int64_t g = 0; g < units * kUnit / L.sums(); ++g) {
      store(scale[g], scale_of<L>(block, (first + g) * L.sums() / L.group));
      if (L.has_minimum()) store(minimum[g], minimum_of<L>(block, (first + g) * L.sums() / L.group));
    }
  }
};

// Integer sums of the groups of a block, of two by two tiles at most.
template <QuantizedLayout L>
using TileSums = int32_t[kBlock / L.sums()][4][kTile][kLanes];

// Sums that are made one by one: of high and low parts, unless one tile multiplies both.
template <QuantizedLayout L>
constexpr int kParts = UnpackedSlice<L>::kTwice ? 1 : 2;

#define OCTAVO_MULTIPLY_TILE(Sum, A, B) \
  if constexpr (L.has_minimum()) {      \
    _tile_dpbsud(Sum, A, B);            \
  } else {                              \
    _tile_dpbssd(Sum, A, B);            \
  }

// Sums of `count` groups from `g` on: of the rows of `a` and, if Rows is 2, 16 more, and one or two slices. `part` 1 is
// that of the low parts of activations, which only large values have apart.
template <QuantizedLayout L, int Rows, int Blocks>
inline void sum_groups(const int8_t* a, int64_t a_stride, const UnpackedSlice<L>* slices, int64_t g, int count,
                       int part, TileSums<L>& sums) {
  settle(slices);
  for (int i = 0; i < count; ++i) {
    const int8_t* at = a + (2 * (g + i) + part) * L.sums();
    const int64_t tile = (g + i) * UnpackedSlice<L>::kDepth * kLanes;
    _tile_zero(0);
    _tile_loadd(4, at, a_stride);
    _tile_loadd(6, slices[0].values + tile, 64);
    OCTAVO_MULTIPLY_TILE(0, 4, 6)
    _tile_stored(0, sums[i][0], 64);
    if constexpr (Blocks > 1) {
      _tile_zero(1);
      _tile_loadd(7, slices[1].values + tile, 64);
      OCTAVO_MULTIPLY_TILE(1, 4, 7)
      _tile_stored(1, sums[i][1], 64);
    }
    if constexpr (Rows > 1) {
      _tile_zero(2);
      _tile_loadd(5, at + kTile * a_stride, a_stride);
      OCTAVO_MULTIPLY_TILE(2, 5, 6)
      _tile_stored(2, sums[i][2], 64);
    }
    if constexpr (Rows > 1 && Blocks > 1) {
      _tile_zero(3);
      OCTAVO_MULTIPLY_TILE(3, 5, 7)
      _tile_stored(3, sums[i][3], 64);
    }
  }
}
#undef OCTAVO_MULTIPLY_TILE

// c[16, 16] (+)= the sums of one tile for one block of activations, scaled as multiply_quantized() does it.
template <QuantizedLayout L>
inline void scale_groups(const TileSums<L>* sums, int tile, const BlockSums<L>* of_rows, int64_t a_stride,
                         const UnpackedSlice<L>& slice, int64_t g, int count, bool accumulate, float* c,
                         int64_t c_stride) {
  const auto of_row = [&](int r) { return (const BlockSums<L>*)((const char*)of_rows + r * a_stride); };
  F32 part[kTile];
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) part[r] = zero();
  for (int i = 0; i < count; ++i) {
    const F32 scale = load(slice.scale[g + i]), minimum = load(slice.minimum[L.has_minimum() ? g + i : 0]);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) {
      I32 sum = load(sums[0][i][tile][r]);
      if (kParts<L> == 2) sum = times_eight(sum) + load(sums[1][i][tile][r]);
      part[r] = fma(to_floats(sum), scale, part[r]);
      if (L.has_minimum()) part[r] = fma(minimum, set1(of_row(r)->sum[i]), part[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    const F32 total = accumulate ? load(c + r * c_stride) : zero();
    store(c + r * c_stride, fma(part[r], set1(of_row(r)->scale), total));
  }
}

// c[Rows * 16, Blocks * 16] (+)= a · slices, of which there are Blocks.
template <QuantizedLayout L, int Rows, int Blocks>
inline void multiply_slices(const int8_t* a, const BlockSums<L>* of_rows, int64_t a_stride,
                            const UnpackedSlice<L>* slices, int64_t groups, bool accumulate, float* c,
                            int64_t c_stride) {
  constexpr int kGroups = kBlock / L.sums();
  alignas(64) TileSums<L> sums[kParts<L>];
  for (int64_t g = 0; g < groups; g += kGroups, ++of_rows) {
    const int now = groups - g < kGroups ? (int)(groups - g) : kGroups;
    for (int part = 0; part < kParts<L>; ++part)
      sum_groups<L, Rows, Blocks>(a, a_stride, slices, g, now, part, sums[part]);
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Blocks; ++j)
        scale_groups<L>(sums, 2 * i + j, (const BlockSums<L>*)((const char*)of_rows + i * kTile * a_stride), a_stride,
                        slices[j], g, now, accumulate || g > 0, c + i * kTile * c_stride + j * kLanes, c_stride);
  }
}

// c[rows, Blocks * 16] for as many of `rows` rows as fill tiles: how many those are.
template <QuantizedLayout L, int Blocks>
inline int multiply_quantized_tiles(int rows, const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k,
                                    float* c, int64_t c_stride) {
  const int64_t units = k / kUnit, block_bytes = L.block_bytes(k);
  const int done = rows / kTile * kTile;
  UnpackedSlice<L> slices[Blocks];
  for (int64_t unit = 0; unit < units && done; unit += kSliceUnits) {
    const int64_t count = units - unit < kSliceUnits ? units - unit : kSliceUnits;
    for (int j = 0; j < Blocks; ++j) slices[j].unpack_from(block + j * block_bytes, k, unit, count);
    const Tiles tiles(kTile, UnpackedSlice<L>::kDepth);
    for (int row = 0; row < done; row += 2 * kTile)
      with_constant<2>((done - row) / kTile < 2 ? 1 : 2, [&]<int Rows>() {
        const int8_t* x = a + row * a_stride;
        multiply_slices<L, Rows, Blocks>(x + 2 * unit * kUnit, sums_of<L>(x, k) + unit / kBlockUnits, a_stride, slices,
                                         count * kUnit / L.sums(), unit > 0, c + row * c_stride, c_stride);
      });
  }
  return done;
}

}  // namespace octavo::OCTAVO_ISA
