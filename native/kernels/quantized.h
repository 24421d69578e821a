// Matrix products over weights with a scale for each group of columns. Activations are quantized too, to two bytes, 8 *
// high + low, with a scale for 128 columns, so that the error of a product is that of its weights. A group's sum is one
// of integers: exact, whatever computes it. Groups are summed in float32 in rising order, 128 columns at a time, so
// results do not depend on the batch.
#pragma once

#include "kernels/matmul.h"
#include "kernels/quantized_values.h"

namespace octavo::OCTAVO_ISA {

constexpr int kVectors = kUnit / 4;
constexpr int kTop = 8 * 127 + 3;  // the largest activation: 11 bits

constexpr int kBlock = 128;  // columns of activations that have a scale in common
constexpr int kBlockUnits = kBlock / kUnit;

// What follows the values of a row of activations, for each block. Of its groups, minus the sum of the values times the
// offset of the weights; and their sum, which a minimum is multiplied with.
template <QuantizedLayout L>
struct BlockSums {
  float scale;
  int32_t start[kBlock / L.sums()];
  float sum[kBlock / L.sums()];
};

template <QuantizedLayout L>
inline const BlockSums<L>* sums_of(const int8_t* row, int64_t k) {
  return (const BlockSums<L>*)(row + 2 * k);
}

// The integers of one unit, with their offset. Those that codes stand for are in `table`.
template <QuantizedLayout L>
inline void unpack(const uint8_t* p, U8 table, U8* b) {
  for (int i = 0; i < L.unit_bytes() / 64; ++i) __builtin_prefetch(p + 64 * i + kPrefetch);
  for (int i = 0; i < kVectors && L.bits == 8; ++i) b[i] = load(p + 64 * i);
  for (int i = 0; i < kVectors / 2 && L.bits < 8; ++i) {
    const U8 x = load(p + 64 * i);
    b[i] = low_nibbles(x);
    b[i + kVectors / 2] = high_nibbles(x);
  }
  for (int i = 0; i < kVectors && L.by_table; ++i) b[i] = look_up(table, b[i]);
  if constexpr (L.bits == 5 || L.bits == 6)
    for_each_constant<kVectors>([&]<int Vector>() {
      constexpr int kMore = L.bits - 4, kAt = Vector * kMore;
      b[Vector] = above_nibbles<kMore, kAt % 8>(b[Vector], load(p + 256 + kAt / 8 * 64));
    });
}

// part[Rows] += one unit of `a` times 16 rows of weights.
template <QuantizedLayout L, int Rows>
inline void multiply_unit(const int8_t* a, int64_t a_stride, int64_t k, int64_t unit, const U8* b, const uint8_t* block,
                          F32* part) {
  constexpr int kSums = kUnit / L.sums();
#pragma GCC unroll 2
  for (int i = 0; i < kSums; ++i) {
    const int64_t g = unit * kSums + i, of_block = g % (kBlock / L.sums());
    const F32 scale = scale_of<L>(block, g * L.sums() / L.group);
    const F32 minimum = minimum_of<L>(block, g * L.sums() / L.group);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const auto& sums = sums_of<L>(a + r * a_stride, k)[unit / kBlockUnits];
      const int8_t* x = a + r * a_stride + 2 * g * L.sums();
      I32 sum = set1_int(sums.start[of_block]), high = set1_int(0);
      for (int v = 0; v < L.sums() / 4; ++v) {
        const U8 values = b[i * kVectors / kSums + v];
        high = dot<L.integer_bits() < 8>(high, values, x + 4 * v);
        sum = dot<L.integer_bits() < 8>(sum, values, x + 4 * v + L.sums());
      }
      part[r] = fma(to_floats(sum + times_eight(high)), scale, part[r]);
      if (L.has_minimum()) part[r] = fma(minimum, set1(sums.sum[of_block]), part[r]);
    }
  }
}

// c[Rows, 16] = a[Rows, k] times 16 rows of weights.
template <QuantizedLayout L, int Rows>
inline void multiply_quantized(const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                               int64_t c_stride) {
  const uint8_t* values = block + L.values_at(k);
  const U8 table = load(L.by_table ? table_of<L>(block, k) : values);
  F32 total[Rows];
  for (int r = 0; r < Rows; ++r) total[r] = zero();
  for (int64_t first = 0, units = k / kUnit; first < units; first += kBlockUnits) {
    F32 part[Rows];
    for (int r = 0; r < Rows; ++r) part[r] = zero();
    for (int64_t unit = first; unit < first + kBlockUnits && unit < units; ++unit, values += L.unit_bytes()) {
      U8 b[kVectors];
      unpack<L>(values, table, b);
      multiply_unit<L, Rows>(a, a_stride, k, unit, b, block, part);
    }
    for (int r = 0; r < Rows; ++r)
      total[r] = fma(part[r], set1(sums_of<L>(a + r * a_stride, k)[first / kBlockUnits].scale), total[r]);
  }
  for (int r = 0; r < Rows; ++r) store(c + r * c_stride, total[r]);
}

}  // namespace octavo::OCTAVO_ISA

#ifdef __AMX_INT8__
#include "kernels/quantized_amx.h"
#endif

namespace octavo::OCTAVO_ISA {

// c[rows, Blocks * 16] = a times 16 rows of weights each.
template <QuantizedLayout L, int Blocks>
inline void multiply_rows(int rows, const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                          int64_t c_stride) {
  int done = 0;
#ifdef __AMX_INT8__
  done = multiply_quantized_tiles<L, Blocks>(rows, a, a_stride, block, k, c, c_stride);
#endif
  for (int j = 0; j < Blocks; ++j, block += L.block_bytes(k), c += kLanes) {
    int groups = (rows - done + kRowsAtOnce - 1) / kRowsAtOnce;
    for (int row = done, now; row < rows; row += now, --groups) {
      now = (rows - row + groups - 1) / groups;
      with_constant<kRowsAtOnce>(now, [&]<int Rows>() {
        multiply_quantized<L, Rows>(a + row * a_stride, a_stride, block, k, c + row * c_stride, c_stride);
      });
    }
  }
}

// Tiles as those of matmul().
template <QuantizedLayout L>
void matmul_quantized(const Matmul& m, int row_begin, int row_end, int block_begin, int block_end, float* scratch) {
  const int rows = row_end - row_begin, blocks = block_end - block_begin;
  const auto* a = (const int8_t*)m.a + row_begin * m.a_stride;
  const auto* weights = (const uint8_t*)m.weight + block_begin * L.block_bytes(m.k);
  for (int j = 0; j < blocks; j += 2)
    with_constant<2>(blocks - j < 2 ? 1 : 2, [&]<int Blocks>() {
      multiply_rows<L, Blocks>(rows, a, m.a_stride, weights + j * L.block_bytes(m.k), m.k, scratch + j * kLanes,
                               blocks * kLanes);
    });
  for (int r = 0; r < rows; ++r) finish(m, row_begin + r, block_begin, blocks, scratch + r * blocks * kLanes);
}

// Rounds up to kBlock values, of which `n` are columns, to integers whose largest is kTop. NaN and infinity make the
// scale NaN, and so every sum of the block.
template <class T, QuantizedLayout L>
inline void quantize_block(const typename T::Value* x, int64_t n, int64_t padded, int8_t* out, BlockSums<L>& sums) {
  F32 largest = zero(), probe = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32 v = T::load16(x + i);
    largest = max(largest, max(v, zero() - v));
    probe = fma(v, zero(), probe);
  }
  const float top = reduce_max(largest), nan_or_zero = reduce_add(probe);
  const F32 factor = set1(top > kTiny && nan_or_zero == 0 ? kTop / top : 0);
  sums.scale = top / kTop + nan_or_zero;
  for (int64_t g = 0; g < padded / L.sums(); ++g) {
    F32 sum = zero();
    for (int64_t i = g * L.sums(); i < (g + 1) * L.sums(); i += kLanes) {
      const F32 rounded = i < n ? round(T::load16(x + i) * factor) : zero();
      const F32 high = round(rounded * set1(0.125f));
      int8_t* to = out + g * L.sums() + i;
      store_rounded(to, high);
      store_rounded(to + L.sums(), fma(high, set1(-8), rounded));
      sum = sum + rounded;
    }
    sums.sum[g] = reduce_add(sum);
    sums.start[g] = nan_or_zero == 0 ? -L.offset() * (int32_t)sums.sum[g] : 0;
  }
}

// Rows of activations are padded to 16 columns with zeros, and here to k, which is a multiple of kUnit.
template <class T, QuantizedLayout L>
void quantize_row(const void* x, int64_t columns, int64_t k, void* out) {
  auto* values = (int8_t*)out;
  auto* sums = (BlockSums<L>*)(values + 2 * k);
  for (int64_t i = 0; i < k; i += kBlock)
    quantize_block<T, L>((const typename T::Value*)x + i, columns - i < kBlock ? columns - i : kBlock,
                         k - i < kBlock ? k - i : kBlock, values + 2 * i, *sums++);
}

template <QuantizedLayout L>
constexpr int64_t quantized_row_bytes(int64_t k) {
  return round_up(2 * k + (k + kBlock - 1) / kBlock * (int64_t)sizeof(BlockSums<L>), 64);
}

template <QuantizedLayout L>
constexpr MatrixKernels quantized(const char* name) {
  return {.layout = name,
          .pack = kUnit,
          .matmul = matmul_quantized<L>,
          .read_row = read_quantized_row<L>,
          .prepare = {quantize_row<Float32, L>, quantize_row<BFloat16, L>},
          .row_bytes = quantized_row_bytes<L>,
          .activation_bits = 11};
}

}  // namespace octavo::OCTAVO_ISA
