// Matrix products over int8 weights of one scale for each row, with activations of 16 bits and one scale for each row:
// two bytes, so that a product is two of bytes. Sums are of integers, so they are exact, whatever computes them.
#pragma once

#include "kernels/amx.h"
#include "kernels/matmul.h"
#include "kernels/quantized_values.h"

namespace octavo::OCTAVO_ISA {

constexpr int kMaxActivation = 127 * 256;

// A row as k high bytes, then k low ones. NaN and infinity make the scale NaN, and so every sum.
template <class T>
void prepare_channels_row(const void* x, int64_t columns, int64_t k, void* out) {
  const auto* from = (const typename T::Value*)x;
  auto *high = (int8_t*)out, *low = high + k;
  F32 largest = zero(), probe = zero();
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32 v = T::load16(from + i);
    largest = max(largest, max(v, zero() - v));
    probe = fma(v, zero(), probe);
  }
  const float top = reduce_max(largest), nan_or_zero = reduce_add(probe);
  const F32 factor = set1(top > kTiny && nan_or_zero == 0 ? kMaxActivation / top : 0);
  F32 sum_high = zero(), sum_low = zero();
  for (int64_t i = 0; i < k; i += kLanes) {
    const F32 rounded = i < columns ? round(T::load16(from + i) * factor) : zero();
    const F32 upper = round(fma(rounded, set1(1.0f / 256), set1(0.5f / 256)));  // so that the rest is -128 to 127
    const F32 lower = fma(upper, set1(-256), rounded);
    store_rounded(high + i, upper);
    store_rounded(low + i, lower);
    sum_high = sum_high + upper;
    sum_low = sum_low + lower;
  }
  const auto start = [&](F32 sum) { return nan_or_zero == 0 ? -kInt8.offset() * (int32_t)reduce_add(sum) : 0; };
  *(RowSums*)(low + k) = {top / kMaxActivation + nan_or_zero, start(sum_high), start(sum_low)};
}

inline F32 joined(I32 high, I32 low, float scale) {
  return fma(to_floats(high), set1(256), to_floats(low)) * set1(scale);
}

// c[Rows, 16] = a[Rows, k] times 16 rows of weights.
template <int Rows>
inline void multiply_channels(const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                              int64_t c_stride) {
  const uint8_t* values = block + kInt8.values_at(k);
  const auto sums = [&](int r) { return (const RowSums*)(a + r * a_stride + 2 * k); };
  I32 high[Rows], low[Rows];
  for (int r = 0; r < Rows; ++r) high[r] = set1_int(sums(r)->high), low[r] = set1_int(sums(r)->low);
  for (int64_t i = 0; i < k; i += 4, values += 64) {
    const U8 b = load(values);
    __builtin_prefetch(values + kPrefetch);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      high[r] = dot<false>(high[r], b, a + r * a_stride + i);
      low[r] = dot<false>(low[r], b, a + r * a_stride + k + i);
    }
  }
  const F32 scale = scale_of<kInt8>(block, 0);
  for (int r = 0; r < Rows; ++r) store(c + r * c_stride, joined(high[r], low[r], sums(r)->scale) * scale);
}

#ifdef __AMX_INT8__

// Cache lines of a tile of weights, of those 16 that it has.
struct Lines {
  int begin, end;
};

// c[rows, Blocks * 16] = a[rows, k] times one or two blocks of weights, of at most 16 rows. Weights are multiplied
// where they lie. Meanwhile some lines of each tile of the blocks behind them are fetched.
template <int Blocks>
inline void multiply_channel_tiles(int rows, const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k,
                                   Lines fetched, float* c, int64_t c_stride) {
  const int64_t block_bytes = kInt8.block_bytes(k);
  const uint8_t* values = block + kInt8.values_at(k);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (Blocks > 1) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i < k; i += 64) {
    const uint8_t* next = values + Blocks * block_bytes + 16 * i;
    for (int j = 0; j < Blocks; ++j, next += block_bytes)
      for (int line = fetched.begin; line < fetched.end; ++line) __builtin_prefetch(next + 64 * line, 0, 2);
    _tile_loadd(4, a + i, a_stride);
    _tile_loadd(6, values + 16 * i, 64);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(5, a + k + i, a_stride);
    _tile_dpbsud(1, 5, 6);
    if constexpr (Blocks > 1) {
      _tile_loadd(7, values + block_bytes + 16 * i, 64);
      _tile_dpbsud(2, 4, 7);
      _tile_dpbsud(3, 5, 7);
    }
  }
  alignas(64) int32_t products[4][kTile][kLanes];
  _tile_stored(0, products[0], 64);
  _tile_stored(1, products[1], 64);
  if constexpr (Blocks > 1) {
    _tile_stored(2, products[2], 64);
    _tile_stored(3, products[3], 64);
  }
  settle(products);
  for (int j = 0; j < Blocks; ++j) {
    const F32 scale = scale_of<kInt8>(block + j * block_bytes, 0);
    for (int r = 0; r < rows; ++r) {
      const auto& sums = *(const RowSums*)(a + r * a_stride + 2 * k);
      const I32 high = load(products[2 * j][r]) + set1_int(sums.high);
      const I32 low = load(products[2 * j + 1][r]) + set1_int(sums.low);
      store(c + r * c_stride + j * kLanes, joined(high, low, sums.scale) * scale);
    }
  }
}

#endif

// c[rows, blocks * 16] = a times blocks of weights.
inline void multiply_channels_any(int rows, int blocks, const int8_t* a, int64_t a_stride, const uint8_t* block,
                                  int64_t k, float* c, int64_t c_stride) {
  const int64_t block_bytes = kInt8.block_bytes(k);
#ifdef __AMX_INT8__
  constexpr int kFewRows = 4;  // are faster without tiles
  if (rows > kFewRows) {
    const int parts = (rows + kTile - 1) / kTile;  // each fetches its part of the weights that come next
    for (int j = 0; j < blocks; j += 2)
      for (int row = 0, i = 0; row < rows; row += kTile, ++i) {
        const int now = rows - row < kTile ? rows - row : kTile;
        const Tiles tiles(now, 64);
        with_constant<2>(blocks - j < 2 ? 1 : 2, [&]<int Blocks>() {
          multiply_channel_tiles<Blocks>(now, a + row * a_stride, a_stride, block + j * block_bytes, k,
                                         {kTile * i / parts, kTile * (i + 1) / parts}, c + row * c_stride + j * kLanes,
                                         c_stride);
        });
      }
    return;
  }
#endif
  for (int j = 0; j < blocks; ++j) {
    int groups = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int row = 0, now; row < rows; row += now, --groups) {
      now = (rows - row + groups - 1) / groups;
      with_constant<kRowsAtOnce>(now, [&]<int Rows>() {
        multiply_channels<Rows>(a + row * a_stride, a_stride, block + j * block_bytes, k,
                                c + row * c_stride + j * kLanes, c_stride);
      });
    }
  }
}

// Tiles as those of matmul().
inline void matmul_channels(const Matmul& m, int row_begin, int row_end, int block_begin, int block_end,
                            float* scratch) {
  const int rows = row_end - row_begin, blocks = block_end - block_begin;
  multiply_channels_any(rows, blocks, (const int8_t*)m.a + row_begin * m.a_stride, m.a_stride,
                        (const uint8_t*)m.weight + block_begin * kInt8.block_bytes(m.k), m.k, scratch, blocks * kLanes);
  for (int r = 0; r < rows; ++r) finish(m, row_begin + r, block_begin, blocks, scratch + r * blocks * kLanes);
}

constexpr MatrixKernels channels(const char* name) {
  return {.layout = name,
          .pack = kInt8.unit(),
          .matmul = matmul_channels,
          .read_row = read_quantized_row<kInt8>,
          .prepare = {prepare_channels_row<Float32>, prepare_channels_row<BFloat16>},
          .row_bytes = channels_row_bytes,
          .activation_bits = 16};
}

}  // namespace octavo::OCTAVO_ISA
