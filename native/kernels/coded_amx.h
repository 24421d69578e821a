// Products of decoded weights on tile registers: of each group of columns, sums of up to 32 rows and 32 columns.
#pragma once

#include "kernels/amx.h"

namespace octavo::OCTAVO_ISA {

// Of group `g`, the sums of rows from `row` on: products[tile][i], in tiles of two rows and two blocks.
template <QuantizedLayout L, bool two_rows, bool two_blocks>
inline void multiply_group(const CodedProduct& p, int row, const DecodedSlice<L>* slices, int64_t g, int i,
                           float (*products)[kGroupsAtOnce][kTile][kLanes]) {
  constexpr int kDepth = L.group < kTileDepth ? L.group : kTileDepth;
  _tile_zero(0);
  if constexpr (two_blocks) _tile_zero(1);
  if constexpr (two_rows) _tile_zero(2);
  if constexpr (two_rows && two_blocks) _tile_zero(3);
#pragma GCC unroll 4
  for (int step = 0; step < L.group / kDepth; ++step) {
    const int64_t at = g * L.group + step * kDepth;
    _tile_loadd(4, p.row(row) + at, p.a_stride);
    _tile_loadd(6, slices[0].values + at * kLanes, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (two_blocks) {
      _tile_loadd(7, slices[1].values + at * kLanes, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (two_rows) {
      _tile_loadd(5, p.row(row + kTile) + at, p.a_stride);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (two_rows && two_blocks) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, products[0][i], 64);
  if constexpr (two_blocks) _tile_stored(1, products[1][i], 64);
  if constexpr (two_rows) _tile_stored(2, products[2][i], 64);
  if constexpr (two_rows && two_blocks) _tile_stored(3, products[3][i], 64);
}

// c[rows from `row` on, blocks * 16] (+)= a · slices, of at most 32 rows and two blocks.
template <QuantizedLayout L, bool two_rows, bool two_blocks>
inline void multiply_tile_groups(const CodedProduct& p, int row, int rows, const DecodedSlice<L>* slices) {
  // [tile][group][16][16]: what is scaled together lies together.
  alignas(64) float products[4][kGroupsAtOnce][kTile][kLanes];
  const int64_t groups = p.units * kUnit / L.group;
  for (int64_t g = 0; g < groups; g += kGroupsAtOnce) {
    const int count = groups - g < kGroupsAtOnce ? (int)(groups - g) : kGroupsAtOnce;
    settle(slices);
    for (int i = 0; i < count; ++i) multiply_group<L, two_rows, two_blocks>(p, row, slices, g + i, i, products);
    settle(products);
    for (int i = 0; i < (two_rows ? 2 : 1); ++i) {
      const int first = row + i * kTile, left = rows - i * kTile;
      for (int j = 0; j < (two_blocks ? 2 : 1); ++j)
        scale_groups<L>(p, slices[j], left < kTile ? left : kTile, g, count, p.accumulate || g > 0,
                        products[2 * i + j][0][0], p.c + first * p.c_stride + j * kLanes);
    }
  }
}

// c[rows, blocks * 16] (+)= a · slices, of one or two blocks.
template <QuantizedLayout L>
inline void multiply_group_tiles(const CodedProduct& p, int rows, int blocks, const DecodedSlice<L>* slices) {
  for (int row = 0; row < rows; row += 2 * kTile) {
    const int now = rows - row < 2 * kTile ? rows - row : 2 * kTile;
    const Tiles tiles(now, 2 * (L.group < kTileDepth ? L.group : kTileDepth));
    if (now > kTile && blocks > 1) multiply_tile_groups<L, true, true>(p, row, now, slices);
    if (now > kTile && blocks == 1) multiply_tile_groups<L, true, false>(p, row, now, slices);
    if (now <= kTile && blocks > 1) multiply_tile_groups<L, false, true>(p, row, now, slices);
    if (now <= kTile && blocks == 1) multiply_tile_groups<L, false, false>(p, row, now, slices);
  }
}

}  // namespace octavo::OCTAVO_ISA
