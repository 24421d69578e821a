// Matrix products over weights whose codes are small floats: they are decoded to bfloat16, slice by slice, into the
// cache. Rows of activations stay as they are. Sums of a group of columns are multiplied with its scale, in rising
// order, so results do not depend on the batch.
#pragma once

#include "kernels/decode.h"
#include "kernels/matmul.h"

namespace octavo::OCTAVO_ISA {

// A prepared row: k values in the order of decode.h.
constexpr int64_t coded_row_bytes(int64_t k) { return round_up(k * 2, 64); }

using Sixteen [[gnu::vector_size(32)]] = bf16;

template <class T>
void prepare_coded_row(const void* x, int64_t columns, int64_t k, void* out) {
  const auto* from = (const typename T::Value*)x;
  auto* to = (bf16*)out;
  for (int64_t i = 0; i < k; i += kLanes) {
    bf16 values[kLanes] = {};
    if (i < columns) store_bf16(values, T::load16(from + i));
    Sixteen lanes;
    memcpy(&lanes, values, sizeof lanes);
    lanes = __builtin_shufflevector(lanes, lanes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    memcpy(to + i, &lanes, sizeof lanes);
  }
}

// Columns of 16 rows of weights, [pairs of columns][row][2], and the scales of their groups.
template <QuantizedLayout L>
struct DecodedSlice {
  static constexpr int kGroups = kSliceUnits * kUnit / L.group;
  alignas(64) bf16 values[kSliceUnits * kUnit * kLanes];
  alignas(64) float scale[kGroups][kLanes];

  void decode(const uint8_t* block, int64_t k, int64_t first_unit, int64_t units) {
    static const CodeTable<L> table;
    const uint8_t* from = block + L.values_at(k) + first_unit * L.unit_bytes();
    for (int64_t unit = 0; unit < units; ++unit)
      decode_unit<L>(from + unit * L.unit_bytes(), table.values, values + unit * kUnit * kLanes);
    const int64_t first = first_unit * kUnit / L.group;
    for (int64_t g = 0; g < units * kUnit / L.group; ++g) store(scale[g], scale_of<L>(block, first + g));
  }
};

// Of a slice: rows of activations, and where sums of products go.
struct CodedProduct {
  const bf16* a;
  int64_t a_stride;  // in bytes
  int64_t units;
  bool accumulate;
  float* c;
  int64_t c_stride;

  const bf16* row(int r) const { return (const bf16*)((const char*)a + r * a_stride); }
};

// c[Rows, 16] (+)= the sums of groups [g, g + count), which lie at `products` [count][16][16], times their scales.
template <QuantizedLayout L, int Rows>
inline void scale_rows(const CodedProduct& p, const DecodedSlice<L>& slice, int64_t g, int count, bool accumulate,
                       const float* products, float* c) {
  F32 total[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) total[r] = accumulate ? load(c + r * p.c_stride) : zero();
  for (int i = 0; i < count; ++i) {
    const F32 scale = load(slice.scale[g + i]);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) total[r] = fma(load(products + (i * kLanes + r) * kLanes), scale, total[r]);
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) store(c + r * p.c_stride, total[r]);
}

// The same for any number of rows up to 16.
template <QuantizedLayout L>
inline void scale_groups(const CodedProduct& p, const DecodedSlice<L>& slice, int rows, int64_t g, int count,
                         bool accumulate, const float* products, float* c) {
  int r = 0;
  const auto scale = [&]<int Rows>() {
    for (; r + Rows <= rows; r += Rows)
      scale_rows<L, Rows>(p, slice, g, count, accumulate, products + r * kLanes, c + r * p.c_stride);
  };
  scale.template operator()<16>();
  scale.template operator()<4>();
  scale.template operator()<1>();
}

}  // namespace octavo::OCTAVO_ISA

#ifdef __AMX_BF16__
#include "kernels/coded_amx.h"
#endif

namespace octavo::OCTAVO_ISA {

// c[rows, 16] (+)= a · slice, group by group.
template <QuantizedLayout L>
inline void multiply_groups(const CodedProduct& p, int rows, const DecodedSlice<L>& slice, float* c) {
  constexpr int kPairs = L.group / 2;
  float products[kGroupsAtOnce][kLanes][kLanes];
  const int64_t groups = p.units * kUnit / L.group;
  for (int row = 0; row < rows; row += kLanes) {
    const int now = rows - row < kLanes ? rows - row : kLanes;
    for (int64_t g = 0; g < groups; g += kGroupsAtOnce) {
      const int count = groups - g < kGroupsAtOnce ? (int)(groups - g) : kGroupsAtOnce;
      for (int i = 0; i < count; ++i) {
        const bf16* b = slice.values + (g + i) * L.group * kLanes;
        multiply_any<BFloat16>(now, 1, p.row(row) + (g + i) * L.group, p.a_stride / 2, &b, kPairs, false,
                               products[i][0], kLanes);
      }
      scale_groups<L>(p, slice, now, g, count, p.accumulate || g > 0, products[0][0], c + row * p.c_stride);
    }
  }
}

// c[rows, blocks * 16] (+)= a · slices.
template <QuantizedLayout L>
inline void multiply_slices(const CodedProduct& p, int rows, int blocks, const DecodedSlice<L>* slices) {
  if constexpr (kHasTiles<BFloat16>) {
    multiply_group_tiles<L>(p, rows, blocks, slices);
  } else {
    for (int j = 0; j < blocks; ++j) multiply_groups<L>(p, rows, slices[j], p.c + j * kLanes);
  }
}

// Tiles as those of matmul().
template <QuantizedLayout L>
void matmul_coded(const Matmul& m, int row_begin, int row_end, int block_begin, int block_end, float* scratch) {
  constexpr int kBlocks = 2;  // at once
  const int rows = row_end - row_begin, blocks = block_end - block_begin;
  const auto* a = (const char*)m.a + row_begin * m.a_stride;
  const auto* weights = (const uint8_t*)m.weight + block_begin * L.block_bytes(m.k);
  DecodedSlice<L> slices[kBlocks];
  for (int j = 0; j < blocks; j += kBlocks) {
    const int now = blocks - j < kBlocks ? blocks - j : kBlocks;
    float* c = scratch + j * kLanes;
    for (int64_t unit = 0; unit < m.k / kUnit; unit += kSliceUnits) {
      const int64_t units = m.k / kUnit - unit < kSliceUnits ? m.k / kUnit - unit : kSliceUnits;
      for (int i = 0; i < now; ++i) slices[i].decode(weights + (j + i) * L.block_bytes(m.k), m.k, unit, units);
      multiply_slices<L>({.a = (const bf16*)a + unit * kUnit,
                          .a_stride = m.a_stride,
                          .units = units,
                          .accumulate = unit > 0,
                          .c = c,
                          .c_stride = blocks * kLanes},
                         rows, now, slices);
    }
  }
  for (int r = 0; r < rows; ++r) finish(m, row_begin + r, block_begin, blocks, scratch + r * blocks * kLanes);
}

template <QuantizedLayout L>
constexpr MatrixKernels coded(const char* name) {
  return {.layout = name,
          .pack = kUnit,
          .matmul = matmul_coded<L>,
          .read_row = read_quantized_row<L>,
          .prepare = {prepare_coded_row<Float32>, prepare_coded_row<BFloat16>},
          .row_bytes = coded_row_bytes,
          .activation_bits = 0};
}

}  // namespace octavo::OCTAVO_ISA
