// Matrix products over weights with a scale for each group of columns. Activations are quantized too, in groups of at
// most as many values, to two bytes, 8 * high + low, so that the error of a product is that of its weights. So a
// group's sum is one of integers: exact, whatever computes it. Groups are summed in float32 in rising order, so results
// do not depend on the batch.
#pragma once

#include "kernels/matmul.h"
#include "kernels/quantized_values.h"

namespace octavo::OCTAVO_ISA {

constexpr int kVectors = kUnit / 4;
constexpr int kTop = 8 * 127 + 3;  // the largest activation: 11 bits

// What follows the values of a row of activations, for each group of `sums()`.
struct GroupSums {
  float scale;
  float sum;      // of the values, scaled: what a minimum is multiplied with
  int32_t start;  // minus the values' sum times the offset of the weights
};

template <QuantizedLayout L>
inline void unpack(const uint8_t* p, U8* b) {
  for (int i = 0; i < kVectors * L.bits / 8; ++i) {
    const U8 x = load(p + 64 * i);
    b[i] = L.bits == 4 ? low_nibbles(x) : x;
    if (L.bits == 4) b[i + kVectors / 2] = high_nibbles(x);
    __builtin_prefetch(p + 64 * i + kPrefetch);
  }
}

// c[Rows, 16] = a[Rows, k] times 16 rows of weights.
template <QuantizedLayout L, int Rows>
inline void multiply_quantized(const int8_t* a, int64_t a_stride, const uint8_t* block, int64_t k, float* c,
                               int64_t c_stride) {
  constexpr int kSums = kUnit / L.sums();
  const uint8_t* values = block + L.values_at(k);
  const auto* sums = (const GroupSums*)(a + 2 * k);
  F32 total[Rows];
  for (int r = 0; r < Rows; ++r) total[r] = zero();
  for (int64_t unit = 0; unit < k / kUnit; ++unit, values += L.unit_bytes()) {
    U8 b[kVectors];
    unpack<L>(values, b);
#pragma GCC unroll 2
    for (int part = 0; part < kSums; ++part) {
      const int64_t g = unit * kSums + part;
      const F32 scale = scale_of<L>(block, g * L.sums() / L.group);
      const F32 minimum = minimum_of<L>(block, g * L.sums() / L.group);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const auto& of_row = *(const GroupSums*)((const char*)(sums + g) + r * a_stride);
        const int8_t* x = a + r * a_stride + 2 * g * L.sums();
        I32 sum = set1_int(of_row.start), high = set1_int(0);
        for (int v = 0; v < L.sums() / 4; ++v) {
          const U8 values = b[part * kVectors / kSums + v];
          high = dot<L.bits == 4>(high, values, x + 4 * v);
          sum = dot<L.bits == 4>(sum, values, x + 4 * v + L.sums());
        }
        sum = sum + times_eight(high);
        const F32 factor = set1(of_row.scale);
        total[r] = fma(to_floats(sum), scale * factor, total[r]);
        if (L.has_minimum()) total[r] = fma(minimum, set1(of_row.sum), total[r]);
      }
    }
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

// Rounds x[0, L.sums()) to integers of which the largest is kTop, and takes their sum; values from `n` on are zeros.
// NaN and infinity make the scale NaN, and so every sum of the group.
template <class T, QuantizedLayout L>
inline GroupSums quantize_group(const typename T::Value* x, int64_t n, int8_t* out) {
  F32 v[L.sums() / kLanes], largest = zero(), probe = zero();
  for (int i = 0; i < L.sums() / kLanes; ++i) {
    v[i] = i * kLanes < n ? T::load16(x + i * kLanes) : zero();
    largest = max(largest, max(v[i], zero() - v[i]));
    probe = fma(v[i], zero(), probe);
  }
  const float top = reduce_max(largest);
  const F32 factor = set1(top > 0 ? kTop / top : 0);
  F32 sum = zero();
  for (int i = 0; i < L.sums() / kLanes; ++i) {
    const F32 rounded = round(v[i] * factor);
    sum = sum + rounded;
    const F32 high = round(rounded * set1(0.125f));
    store_rounded(out + i * kLanes, high);
    store_rounded(out + i * kLanes + L.sums(), fma(high, set1(-8), rounded));
  }
  const float scale = top / kTop + reduce_add(probe), whole = reduce_add(sum);
  return {scale, scale * whole, -L.offset() * (int32_t)(whole == whole ? whole : 0)};
}

// Rows of activations are padded to 16 columns with zeros, and here to k, which is a multiple of kUnit.
template <class T, QuantizedLayout L>
void quantize_row(const void* x, int64_t columns, int64_t k, void* out) {
  auto* values = (int8_t*)out;
  auto* sums = (GroupSums*)(values + 2 * k);
  for (int64_t i = 0; i < k; i += L.sums())
    *sums++ = quantize_group<T, L>((const typename T::Value*)x + i, columns - i, values + 2 * i);
}

template <QuantizedLayout L>
constexpr MatrixKernels quantized(const char* name) {
  return {.layout = name,
          .pack = kUnit,
          .matmul = matmul_quantized<L>,
          .read_row = read_quantized_row<L>,
          .prepare = {quantize_row<Float32, L>, quantize_row<BFloat16, L>},
          .row_bytes = [](int64_t k) { return round_up(2 * k + k / L.sums() * (int64_t)sizeof(GroupSums), 64); },
          .activation_bits = 11};
}

}  // namespace octavo::OCTAVO_ISA
